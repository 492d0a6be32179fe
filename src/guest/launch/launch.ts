/**
 * `hyperturtle vmm`: this process becomes the VMM, so that pid, terminal, standard input, signals and exit status are the
 * VMM's own. Before that it starts the supervisor and puts a filter on itself, whose calls the supervisor answers.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants, readFileSync, readSync, statSync, writeSync } from 'node:fs';
import path from 'node:path';
import {
  bindOver,
  execute,
  findProgram,
  hasSysAdmin,
  makeImage,
  ownArguments,
  ownVariables,
  setNoNewPrivs,
  undoNode,
} from '../../bpf/exec.ts';
import type { Image } from '../../bpf/exec.ts';
import { fdChannel, readySender } from '../../bpf/fd-passing.ts';
import type { OwnedFd } from '../../bpf/fds.ts';
import { pollNow, whenReadable } from '../../bpf/poll.ts';
import { filterError, readyFilter, requireUserNotification } from '../../bpf/seccomp.ts';
import { closeNow } from '../../bpf/sys.ts';
import { programFile } from '../../core/code-file.ts';
import { HyperturtleError, messageOf } from '../../core/errors.ts';
import { writeErr } from '../../core/output.ts';
import { launchFilter } from '../../kernel/seccomp.ts';
import { NAME_VARIABLE, turtlefsMount } from '../agent/vms.ts';
import { NOT_STARTED, READY } from './messages.ts';
import { logCommand } from './log-command.ts';
import type { SupervisorTask } from './messages.ts';
import { tryRamDir } from './ram-file.ts';
import { filterCount } from './target.ts';

/** From the listener's arrival to a guardian that has it too: a shell's start. */
const GUARD_MS = 60_000;

export interface LaunchOptions {
  program: string;
  /** How many arguments the program has; they are the last of this process. */
  argumentCount: number;
  name: string | undefined;
  /** Where turtlefs is mounted; undefined: to be found. */
  dir: string | undefined;
  minMib: number;
  /** Directories over which turtlefs is mounted for the VMM; undefined: what its arguments name. */
  over: readonly string[] | undefined;
  startMs: number;
  /** A VMM whose memory cannot come from there is started as without us. */
  orPlain: boolean;
  /** What is said also goes to the system's log. */
  syslog: boolean;
}

/** How far a launch has come. */
interface Progress {
  /** Calls of this process wait for the supervisor: there is no way back. */
  filtered: boolean;
  channel: OwnedFd | undefined;
}

/** Returns only by an error. */
export async function launch(o: LaunchOptions): Promise<never> {
  const file = findProgram(o.program, process.env['PATH'] ?? '/usr/bin:/bin', isExecutable);
  const args = ownArguments(o.argumentCount);
  const named = (v: Buffer): boolean => !v.toString('latin1').startsWith(`${NAME_VARIABLE}=`);
  const name = o.name === undefined ? [] : [Buffer.from(`${NAME_VARIABLE}=${o.name}`)];
  const image = makeImage(
    file,
    [Buffer.from(o.program), ...args],
    [...ownVariables().filter(named), ...name],
  );
  const progress: Progress = { filtered: false, channel: undefined };
  try {
    return await launchOnTurtlefs(o, file, args, image, progress);
  } catch (e) {
    if (!o.orPlain || progress.filtered) throw e;
    say(o, `${path.basename(file)} is started without acceleration: ${messageOf(e)}`);
    undoNode(progress.channel === undefined ? [] : [progress.channel.fd]);
    execute(image);
  }
}

async function launchOnTurtlefs(
  o: LaunchOptions,
  file: string,
  args: readonly Buffer[],
  image: Image,
  progress: Progress,
): Promise<never> {
  requireUserNotification();
  const dir = path.resolve(o.dir ?? turtlefsDir()); // the supervisor is elsewhere
  tryRamDir(dir);
  const over = o.over ?? overFor(args.map(String), readFileSync('/proc/self/mountinfo', 'utf8'));
  const filter = launchFilter(o.minMib * 2 ** 20);
  const filters = filterCount('thread-self');
  const channel = await startSupervisor(
    {
      dir,
      pid: process.pid,
      program: path.basename(file),
      minBytes: o.minMib * 2 ** 20,
      filters: filters === undefined ? undefined : filters + 1,
      again: false,
      syslog: o.syslog,
    },
    o.startMs,
  );
  progress.channel = channel;
  if (over.length > 0) bindOver(dir, over);
  if (!hasSysAdmin()) setNoNewPrivs();
  undoNode([channel.fd]);
  try {
    passCalls(channel, filter, progress);
    execute(image);
  } catch (e) {
    tell(channel, NOT_STARTED);
    throw e;
  }
}

/**
 * Puts the filter on and passes its listener. In between nothing is allocated and nothing can fail but by a number: V8 gives
 * memory back by a call that the filter asks about, and nobody answers yet. The listener is closed here in any case: if the
 * supervisor has been killed, calls then fail and do not wait forever.
 */
function passCalls(channel: OwnedFd, filter: Uint8Array, progress: Progress): void {
  const install = readyFilter(filter);
  const { send } = readySender(channel);
  const listener = install();
  progress.filtered = listener >= 0;
  const sent = listener >= 0 && send(listener);
  if (listener >= 0) closeNow(listener);
  if (listener < 0) throw filterError(-listener);
  // not before there are two who have the listener: calls of the VMM would fail if the only one were killed
  const said = Buffer.alloc(1);
  if (!sent || pollNow(channel, GUARD_MS) !== 'readable' || readSync(channel.fd, said) !== 1)
    throw new HyperturtleError('HT_CRASHED', 'its supervisor has ended');
}

/** Before this process becomes the VMM, which shall find no child that it does not know. */
function say(o: LaunchOptions, text: string): void {
  writeErr(`hyperturtle vmm: ${text}\n`);
  if (!o.syslog) return;
  const [logger, ...words] = logCommand(text);
  spawnSync(logger, words, { stdio: 'ignore', timeout: 2000 });
}

function tell(channel: OwnedFd, text: string): void {
  try {
    writeSync(channel.fd, text);
  } catch {
    // the supervisor has ended
  }
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return statSync(file).isFile();
  } catch {
    return false;
  }
}

function turtlefsDir(): string {
  const dir = turtlefsMount();
  if (dir !== undefined) return dir;
  throw new HyperturtleError(
    'HT_UNAVAILABLE',
    "turtlefs is not mounted: start the agent (hyperturtle guest agent), which mounts it, or 'mount -t turtlefs none /run/hyperturtle/ram' with the guest module loaded",
  );
}

/** Directories for shared memory or huge pages that an argument names. Pure. */
export function overFor(args: readonly string[], mountinfo: string): string[] {
  const huge = mountinfo
    .split('\n')
    .filter((line) => line.split(' - ')[1]?.startsWith('hugetlbfs '))
    .flatMap((line) => line.split(' ')[4] ?? []);
  const names = (place: string) => (arg: string) =>
    arg.split(/[=,:]/).some((part) => part === place || part.startsWith(`${place}/`));
  return [...new Set(['/dev/shm', ...huge])].filter((place) => args.some(names(place)));
}

/** Returns when it can answer. It is no child of this process, so that the VMM has none that it does not know. */
async function startSupervisor(task: SupervisorTask, startMs: number): Promise<OwnedFd> {
  const [here, there] = fdChannel('channel to the supervisor');
  const command = [process.execPath, programFile('guest/launch/supervisor'), JSON.stringify(task)];
  const shell = spawn('/bin/sh', ['-c', '"$@" &', 'sh', ...command], {
    cwd: '/',
    detached: true,
    stdio: ['ignore', 'ignore', 'inherit', there.fd],
  });
  there.close();
  try {
    const [status] = (await once(shell, 'exit')) as [number | null];
    if (status !== 0) throw new HyperturtleError('HT_CRASHED', `/bin/sh ended with status ${status}`);
    await whenReadable(here, AbortSignal.timeout(startMs));
    const said = Buffer.alloc(1);
    if (readSync(here.fd, said) !== 1 || said.toString() !== READY)
      throw new HyperturtleError('HT_CRASHED', 'its supervisor has ended');
    return here;
  } catch (e) {
    here.close();
    throw e instanceof HyperturtleError
      ? e
      : new HyperturtleError('HT_CRASHED', `no supervisor within ${startMs} ms: ${messageOf(e)}`, {
          cause: e,
        });
  }
}
