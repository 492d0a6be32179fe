/**
 * The supervisor of a VMM under `hyperturtle vmm`: answers the calls that its filter asks about, for as long as there is
 * anyone who can make one. It is no child of the VMM and in no terminal's session.
 *
 * Calls would fail (ENOSYS) if the listener were closed while the VMM runs. So a guardian has it too: a shell that
 * becomes the next supervisor when this one ends without a word.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { readSync, statSync, writeSync } from 'node:fs';
import { receiveFds } from '../../bpf/fd-passing.ts';
import { OwnedFd } from '../../bpf/fds.ts';
import { pollNow, whenReadable } from '../../bpf/poll.ts';
import { nudge } from '../../bpf/ptrace.ts';
import { nextCall } from '../../bpf/seccomp.ts';
import { messageOf } from '../../core/errors.ts';
import { writeErr } from '../../core/output.ts';
import { runMain } from '../../core/run-main.ts';
import { Answers } from './answers.ts';
import { logCommand } from './log-command.ts';
import { GUARDED, NOT_STARTED, OVER, PASSED_FD, READY } from './messages.ts';
import type { SupervisorTask } from './messages.ts';
import { waitingThreads } from './target.ts';

/** The launcher passes the listener at once; else it has ended, or hangs. */
const LISTENER_MS = 30_000;
const GUARDIANS = 100;
/** A signal to all of a unit, as systemd stops one, is for the VMM: both end with it anyway. */
const LEFT_TO_VMM = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const;
const GUARD = `trap '' TERM INT HUP; read -r said || exec "$@"`;

let syslog = false;

function say(text: string): void {
  writeErr(`hyperturtle vmm: ${text}\n`);
  if (!syslog) return;
  const [logger, ...words] = logCommand(text);
  // it may not be there: then standard error has it
  spawn(logger, words, { stdio: 'ignore' }).on('error', () => {});
}

async function main(): Promise<void> {
  process.stderr.on('error', () => {}); // there is nobody left to tell
  for (const signal of LEFT_TO_VMM) process.on(signal, () => {});
  const [given] = process.argv.slice(2);
  if (given === undefined) {
    writeErr("this is a part of 'hyperturtle vmm' and not for use by hand\n");
    process.exitCode = 2;
    return;
  }
  const task = JSON.parse(given) as SupervisorTask;
  syslog = task.syslog;
  try {
    await supervise(task);
  } catch (e) {
    say(`${task.program}: its supervisor has ended: ${messageOf(e)}`);
    process.exit(1); // with the listener, which the guardian has too: calls must not wait for nobody
  }
}

async function supervise(task: SupervisorTask): Promise<void> {
  // what can fail does before the VMM is started
  const { dev: device } = statSync(task.dir);
  const passed = new OwnedFd(PASSED_FD, task.again ? 'calls of the VMM' : 'channel from the launcher');
  const listener = task.again ? passed : await takeListener(passed, task);
  if (listener === undefined) return;
  const answers = new Answers({ ...task, device, listener, say });
  const guard = new Guard(task, listener);
  // calls that the supervisor before had taken and not answered are made again
  if (task.again) for (const tid of waitingThreads()) nudge(tid);
  else tell(passed, GUARDED);
  await serve(listener, answers);
  guard.end();
  const wasStarted = task.again || !launcherSays(passed).includes(NOT_STARTED);
  if (wasStarted && !task.again && answers.taken === 0)
    say(
      `${task.program}: none of its memory came from here: it has mapped no anonymous memory and no memfd of ${task.minBytes >> 20} MiB or more`,
    );
}

/** Undefined: the launcher has ended before it could pass it. */
async function takeListener(channel: OwnedFd, task: SupervisorTask): Promise<OwnedFd | undefined> {
  writeSync(channel.fd, READY);
  await whenReadable(channel, AbortSignal.timeout(LISTENER_MS)).catch((e: unknown) => {
    // it has the filter and may wait for an answer that nobody gives
    process.kill(task.pid, 'SIGKILL');
    throw e;
  });
  try {
    return receiveFds(channel, 1, () => 'calls of the VMM')[0];
  } catch {
    return undefined;
  }
}

function tell(channel: OwnedFd, text: string): void {
  try {
    writeSync(channel.fd, text);
  } catch {
    // the launcher has been killed: the listener says that it is over
  }
}

/** What it has written since, without waiting. */
function launcherSays(channel: OwnedFd): string {
  const said = Buffer.alloc(8);
  try {
    return said.toString('latin1', 0, readSync(channel.fd, said));
  } catch {
    return '';
  }
}

async function serve(listener: OwnedFd, answers: Answers): Promise<void> {
  const forever = new AbortController().signal;
  for (;;) {
    await whenReadable(listener, forever);
    const state = pollNow(listener, 0);
    if (state === 'over') return; // nobody is left who could make one
    const call = state === 'readable' ? nextCall(listener) : undefined;
    if (call) answers.answer(call);
  }
}

/** Another one is started when it is killed. */
class Guard {
  readonly #task: SupervisorTask;
  readonly #listener: OwnedFd;
  #left = GUARDIANS;
  #shell: ChildProcess | undefined;
  #over = false;

  constructor(task: SupervisorTask, listener: OwnedFd) {
    this.#task = task;
    this.#listener = listener;
    this.#start();
  }

  #start(): void {
    if (this.#left-- === 0) return;
    const [node, script] = [process.execPath, process.argv[1] ?? ''];
    const next = JSON.stringify({ ...this.#task, again: true });
    const shell = spawn('/bin/sh', ['-c', GUARD, 'sh', node, script, next], {
      stdio: ['pipe', 'ignore', 'inherit', this.#listener.fd],
    });
    this.#shell = shell;
    shell.stdin?.on('error', () => {});
    shell.once('error', (e) => say(`${this.#task.program}: no guardian: ${e.message}`));
    shell.once('exit', () => {
      if (!this.#over) this.#start();
    });
  }

  end(): void {
    this.#over = true;
    this.#shell?.stdin?.end(OVER);
    this.#shell?.unref();
  }
}

runMain(main);
