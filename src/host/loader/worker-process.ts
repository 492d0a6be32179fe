/**
 * One worker process as the loader sees it. The loader owns it: kill() ends it whatever it does, and `ended` tells
 * when nothing of it is left.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { fdChannel, sendFds } from '../../bpf/fd-passing.ts';
import type { OwnedFd } from '../../bpf/fds.ts';
import { pidfdGetfd, pidfdOpen } from '../../bpf/sys.ts';
import { HyperturtleError, messageOf } from '../../core/errors.ts';
import { WorkerAnswer } from './messages.ts';
import type { WorkerRequest } from './messages.ts';

const STDERR_BYTES = 4096;

export class WorkerProcess {
  readonly pid: number;
  /** Resolves when it waits for its request; rejects when it cannot start. */
  readonly ready: Promise<void>;
  /** Resolves, and never rejects, when the process is gone: how it ended. */
  readonly ended: Promise<string>;
  readonly #child: ChildProcess;
  readonly #pidfd: OwnedFd;
  readonly #channel: OwnedFd;
  #stderr = '';
  #expect: { resolve: (a: WorkerAnswer) => void; reject: (e: Error) => void } | undefined;
  #gone: HyperturtleError | undefined;

  constructor(workerPath: string, memoryMib: number) {
    const [here, there] = fdChannel('channel to a worker');
    const child = spawn(
      process.execPath,
      ['--max-old-space-size=128', workerPath, String(memoryMib), String(process.pid)],
      { cwd: '/', env: {}, stdio: ['ignore', 'ignore', 'pipe', 'ipc', there.fd] },
    );
    there.close();
    this.#child = child;
    this.#channel = here;
    if (child.pid === undefined) {
      here.close();
      // the 'error' event tells the same once more
      child.on('error', () => {});
      throw new HyperturtleError('HT_CRASHED', `${process.execPath}: a worker cannot be started`);
    }
    this.pid = child.pid;
    // the child is not reaped before the event loop runs again: the number is still its own
    this.#pidfd = pidfdOpen(child.pid);
    child.stderr?.on('data', (chunk: Buffer) => {
      this.#stderr = (this.#stderr + chunk.toString('utf8')).slice(-STDERR_BYTES);
    });
    child.on('message', (message) => this.#take(message));
    this.ended = new Promise((resolve) => {
      const finish = (how: string): void => {
        this.#gone ??= new HyperturtleError(
          'HT_CRASHED',
          `the loading process ${how}${this.#stderr === '' ? '' : `: ${this.#stderr.trim().slice(-500)}`}`,
        );
        this.#fail(this.#gone);
        this.#pidfd.close();
        this.#channel.close();
        resolve(how);
      };
      child.on('error', (e) => finish(`failed: ${messageOf(e)}`));
      child.on('close', (code, signal) =>
        finish(signal ? `was ended by ${signal}` : `ended with status ${code}`),
      );
    });
    this.ready = this.#next().then((a) => {
      if (a.kind !== 'ready') throw new HyperturtleError('HT_CRASHED', 'a worker began with an answer');
    });
    // who waits for it sees the failure; nobody need wait
    this.ready.catch(() => {});
  }

  /** Sends the one request. `fds` are the maps to reuse, copied at once. */
  request(request: WorkerRequest, fds: readonly number[]): Promise<WorkerAnswer> {
    if (this.#gone) return Promise.reject(this.#gone);
    if (fds.length > 0) sendFds(this.#channel, fds);
    const answer = this.#next();
    this.#child.send(request, (e) => {
      // it is ending, or cannot be talked to any more: its end says how, and comes
      if (e) this.kill();
    });
    return answer;
  }

  /** A copy of one of its descriptors, which lives on without it. */
  copyFd(fd: number, what: string): OwnedFd {
    return pidfdGetfd(this.#pidfd, fd, what);
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  #next(): Promise<WorkerAnswer> {
    return new Promise((resolve, reject) => {
      this.#expect = { resolve, reject };
    });
  }

  #take(message: unknown): void {
    const parsed = WorkerAnswer().safeParse(message);
    const expect = this.#expect;
    this.#expect = undefined;
    if (!parsed.success) {
      expect?.reject(new HyperturtleError('HT_CRASHED', 'the loading process gave an answer without sense'));
      this.kill();
    } else expect?.resolve(parsed.data);
  }

  #fail(e: HyperturtleError): void {
    this.#expect?.reject(e);
    this.#expect = undefined;
  }
}
