/**
 * One guest of `hyperturtle run`, from its start to its end. Its QEMU is a child of a small shell, the supervisor, which
 * removes what the run made however it ends: the end of this process, by kill -9 too, is the end of a pipe that the
 * shell reads. What neither lives to remove (both killed) the next run does. QEMU itself holds the rest: its RAM file
 * has no name, its tap is not persistent.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import type net from 'node:net';
import path from 'node:path';
import { createInterface } from 'node:readline';
import type { Writable } from 'node:stream';
import { makeDirectory } from '../../core/files.ts';
import { HyperturtleError, errnoCode } from '../../core/errors.ts';
import { exec } from '../../core/exec.ts';
import { identify, isRunning, killProcess } from '../../core/process.ts';
import type { ProcessId } from '../../core/process.ts';
import { dial } from '../../core/sockets.ts';
import { withDeadline } from '../../core/wait.ts';
import type { QmpClient } from '../../qmp/client.ts';
import { pinVcpus } from '../../qmp/pin.ts';
import { bootTime, connectQmp, statusOf } from '../vmm/launch.ts';
import { agentHasRegistered } from '../vmm/registered.ts';
import { packDirectory } from './image.ts';
import { RUN_DIR, STATUS_PORT_ID, runArguments, runFilesIn, watchArguments } from './spec.ts';
import type { RunFilesOf, RunSpec } from './spec.ts';
import { SUPERVISOR, undoScript } from './supervisor.ts';
import type { RunLeftovers } from './supervisor.ts';

export interface RunOptions {
  /** Names its directory; one run at a time has it. */
  id: string;
  initrd: Buffer;
  /** To be packed as the root, which the spec then expects in the run's directory. */
  directory: string | undefined;
  /** Socket of the agent that registers it; left out: where an agent is by itself. */
  agentSocket?: string;
  /** CPUs of this machine for the guest's vCPUs, in their order; none: the scheduler's choice. */
  pin: readonly number[];
  /** What else is to be given back at the end: a NIC that was added for it. */
  leftovers: RunLeftovers;
  /** Told of each step, once. */
  onEvent?: (event: RunEvent) => void;
  timeoutMs: number;
  signal: AbortSignal;
}

/** Times in milliseconds since the guest's first instruction. */
export type RunEvent =
  | { event: 'running'; pid: number }
  | { event: 'up'; ms: number }
  | { event: 'open'; ms: number }
  | { event: 'answered'; ms: number }
  | { event: 'exited'; status: number };

interface State {
  owner: ProcessId;
  supervisor: ProcessId | undefined;
  undo: string;
}

const END_MS = 30_000;

/** Runs it to its end; gives the command's exit status. Throws HT_BOOT_FAILED, HT_INTERRUPTED by the signal. */
export async function runGuest(spec: RunSpec, o: RunOptions): Promise<number> {
  await sweepDeadRuns();
  const guest = new RunningGuest({ ...spec, initrd: runFilesIn(`${RUN_DIR}/${o.id}`).initrd }, o);
  try {
    return await guest.run();
  } finally {
    await guest.end();
  }
}

class RunningGuest {
  readonly #spec: RunSpec;
  readonly #o: RunOptions;
  readonly #files: RunFilesOf;
  #supervisor: ChildProcess | undefined;
  /** Its status is QEMU's. */
  #ended: Promise<number> = Promise.resolve(0);
  /** Cut when anything of this process ends. */
  #lifeline: Writable | undefined;
  #qmp: QmpClient | undefined;
  #status: net.Socket | undefined;
  /** What QEMU says, and the guest's first console: open, as the supervisor removes the files when QEMU has ended. */
  #said: number[] = [];

  constructor(spec: RunSpec, o: RunOptions) {
    this.#spec = spec;
    this.#o = o;
    this.#files = runFilesIn(`${RUN_DIR}/${o.id}`);
  }

  async run(): Promise<number> {
    const { timeoutMs, signal } = this.#o;
    const wait = { timeoutMs, signal };
    this.#makeDirectory();
    if (this.#o.directory !== undefined) await packDirectory(this.#o.directory, this.#files.root, signal);
    this.#spawn();
    const over = this.#ended.then((status): never => {
      throw this.#failed(`QEMU ended with status ${status} before the command did`);
    });
    over.catch(() => {}); // until somebody waits for it
    const connecting = new AbortController();
    this.#qmp = await Promise.race([this.#connect(connecting.signal), over]).catch((e: unknown) => {
      // else this process would stay until its deadline, for a QEMU that has ended
      connecting.abort(e);
      throw e;
    });
    this.#status = await this.#connectStatus();
    const exit = this.#follow(this.#qmp, this.#status);
    const { pid } = await this.#identifyQemu();
    if (this.#spec.net.kind === 'bridge') await attachTap(this.#spec.net.tap, this.#spec.net.bridge, signal);
    if (this.#o.pin.length > 0) await pinVcpus(this.#qmp, this.#o.pin, wait);
    if (this.#spec.ram === 'turtlefs') await agentHasRegistered(pid, timeoutMs, signal, this.#o.agentSocket);
    await this.#qmp.execute('cont', {}, wait);
    this.#o.onEvent?.({ event: 'running', pid });
    const stop = new Promise<never>((_, reject) => {
      const onAbort = (): void => reject(signal.reason as Error);
      if (signal.aborted) onAbort();
      else signal.addEventListener('abort', onAbort, { once: true });
    });
    const status = await Promise.race([exit, over, stop]);
    this.#o.onEvent?.({ event: 'exited', status });
    return status;
  }

  /** Ends QEMU and waits until the supervisor has removed all. Safe whatever was reached. */
  async end(): Promise<void> {
    this.#status?.destroy();
    this.#qmp?.close();
    this.#lifeline?.end();
    for (const fd of this.#said.splice(0)) closeSync(fd);
    if (this.#supervisor === undefined) return;
    await withDeadline('end of the guest', this.#ended, END_MS).catch((e: unknown) => {
      this.#supervisor?.kill('SIGKILL');
      throw e;
    });
    // the supervisor itself was killed: its work is ours
    if (readdirSync(RUN_DIR).includes(this.#o.id)) await sweepOne(this.#files.dir, true);
  }

  #makeDirectory(): void {
    makeDirectory(RUN_DIR);
    try {
      mkdirSync(this.#files.dir, { mode: 0o700 });
    } catch (e) {
      if (errnoCode(e) !== 'EEXIST') throw e;
      throw new HyperturtleError('HT_BUSY', `a run named '${this.#o.id}' is there: choose another --name`);
    }
    writeFileSync(this.#files.initrd, this.#o.initrd);
    this.#record(undefined);
  }

  #record(supervisor: ProcessId | undefined): void {
    const owner = identify(process.pid);
    if (owner === undefined) throw new Error('this process is not in /proc');
    const state: State = { owner, supervisor, undo: this.#undoScript() };
    writeFileSync(this.#files.state, JSON.stringify(state));
  }

  #undoScript(): string {
    return undoScript(this.#files.dir, this.#o.leftovers);
  }

  #spawn(): void {
    const { files, spec } = { files: this.#files, spec: this.#spec };
    const log = openSync(files.log, 'w');
    try {
      closeSync(openSync(files.serial, 'w'));
      for (const file of [files.log, files.serial]) this.#said.push(openSync(file, 'r'));
      const terminal = spec.console === 'terminal';
      const child = spawn(
        'sh',
        [
          '-c',
          SUPERVISOR,
          'sh',
          this.#undoScript(),
          spec.qemu,
          ...runArguments(spec),
          ...watchArguments(files),
        ],
        // a session of its own: what the terminal sends to this process's group is not for QEMU
        { detached: true, stdio: [terminal ? 'inherit' : 'ignore', 'inherit', log, 'pipe'] },
      );
      this.#supervisor = child;
      this.#lifeline = child.stdio[3] as Writable;
      this.#lifeline.on('error', () => {}); // the supervisor has ended: #ended tells
      this.#ended = statusOf(child);
      if (child.pid !== undefined) this.#record(identify(child.pid));
    } finally {
      closeSync(log);
    }
  }

  #connect(stop: AbortSignal): Promise<QmpClient> {
    const { timeoutMs, signal } = this.#o;
    const connected = connectQmp('the guest', this.#files.qmpSocket, {
      timeoutMs,
      signal: AbortSignal.any([signal, stop]),
    });
    connected.catch(() => {}); // when QEMU ends first, that is what is told
    return connected;
  }

  async #connectStatus(): Promise<net.Socket> {
    const socket = dial(this.#files.statusSocket);
    socket.on('error', () => {}); // QEMU's end: #ended tells
    await withDeadline(
      'the status port',
      new Promise<void>((resolve, reject) => {
        socket.once('connect', resolve);
        socket.once('error', reject);
      }),
      this.#o.timeoutMs,
      this.#o.signal,
    );
    return socket;
  }

  async #identifyQemu(): Promise<{ pid: number }> {
    // the supervisor's child that is not the reader of the lifeline
    const pid = this.#supervisor?.pid ?? 0;
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number);
    const qemu = children.find((c) =>
      readFileSync(`/proc/${c}/cmdline`, 'latin1').includes(this.#files.qmpSocket),
    );
    if (qemu === undefined) throw this.#failed('QEMU is not there');
    return Promise.resolve({ pid: qemu });
  }

  /** What the guest tells, on the guest's clock until it is laid on ours. Gives the exit status. */
  #follow(qmp: QmpClient, status: net.Socket): Promise<number> {
    const upMs = bootTime(qmp, STATUS_PORT_ID, { timeoutMs: 2 ** 31 - 1, signal: this.#o.signal });
    const exit = new Promise<number>((resolve, reject) => {
      let guestUpMs = 0;
      createInterface({ input: status }).on('line', (line) => {
        const [, what, rest = ''] = /^### (\w+) ?(.*)$/.exec(line) ?? [];
        switch (what) {
          case 'up':
            guestUpMs = Number(rest);
            this.#tell(upMs, (ms) => ({ event: 'up', ms }));
            return;
          case 'open':
          case 'answered':
            this.#tell(upMs, (ms) => ({ event: what, ms: ms + Number(rest) - guestUpMs }));
            return;
          case 'failed':
            reject(new HyperturtleError('HT_BOOT_FAILED', `the guest could not start the command: ${rest}`));
            return;
          case 'exit':
            resolve(Number(rest));
            return;
          default:
            return; // of a newer init
        }
      });
    });
    exit.catch(() => {}); // until somebody waits for it
    return exit;
  }

  #tell(upMs: Promise<number>, event: (upMs: number) => RunEvent): void {
    upMs.then(
      (ms) => this.#o.onEvent?.(event(ms)),
      () => {},
    );
  }

  #failed(what: string): HyperturtleError {
    const [said, tail] = this.#said.map((fd) => readFileSync(fd, 'utf8').trim().slice(-1500));
    return new HyperturtleError('HT_BOOT_FAILED', `${what}${said ? `: ${said}` : ''}`, { detail: { tail } });
  }
}

async function attachTap(tap: string, bridge: string, signal: AbortSignal): Promise<void> {
  await exec('ip', ['link', 'set', tap, 'master', bridge, 'up'], { timeoutMs: 10_000, signal });
}

/** Removes what runs left whose process and supervisor were both killed. */
async function sweepDeadRuns(): Promise<void> {
  let names: string[];
  try {
    names = readdirSync(RUN_DIR);
  } catch (e) {
    if (errnoCode(e) === 'ENOENT') return;
    throw e;
  }
  for (const name of names) await sweepOne(path.join(RUN_DIR, name), false);
}

async function sweepOne(dir: string, own: boolean): Promise<void> {
  let state: State;
  try {
    state = JSON.parse(readFileSync(path.join(dir, 'state.json'), 'utf8')) as State;
  } catch (e) {
    // just being made or removed
    if (errnoCode(e) === 'ENOENT' || e instanceof SyntaxError) return;
    throw e;
  }
  if (!own && isRunning(state.owner)) return;
  if (state.supervisor !== undefined && isRunning(state.supervisor)) return; // it is at it
  for (const pid of processesNaming(`${dir}/qmp`)) {
    const id = identify(pid);
    if (id) await killProcess(id);
  }
  await exec('sh', ['-c', state.undo], { timeoutMs: 120_000 });
  rmSync(dir, { recursive: true, force: true });
}

/** QEMUs that were left alone, by a path that only they have in their arguments. */
function processesNaming(text: string): number[] {
  return readdirSync('/proc')
    .filter((p) => /^\d+$/.test(p) && Number(p) !== process.pid)
    .map(Number)
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(`unix:${text},`);
      } catch {
        return false; // it has just ended
      }
    });
}
