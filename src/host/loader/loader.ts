/**
 * Loads objects in worker processes, so that a crash of libbpf, a verification without end or a worker that eats
 * memory costs one request and nobody else. A warm worker waits; each serves one request and ends, so that nothing of
 * one VM's object can reach another's.
 */
import type { OwnedFd } from '../../bpf/fds.ts';
import { programFile } from '../../core/code-file.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { EXIT_STATUS } from '../../core/exit-status.ts';
import type { ErrorCode } from '../../core/errors.ts';
import { ChildAbort } from '../../core/lifecycle.ts';
import { patient } from '../../core/patience.ts';
import { HOOK_TABLE } from '../hooks.ts';
import type { HookSpec } from '../hooks.ts';
import { adopt } from './adopt.ts';
import type { LoadedObject } from './adopt.ts';
import type { WorkerAnswer } from './messages.ts';
import { withoutAddresses } from './scrub.ts';
import { Turns } from './turns.ts';
import { WorkerProcess } from './worker-process.ts';

export type { LoadedMap, LoadedObject, LoadedProgram } from './adopt.ts';

export interface LoadRequest {
  /** VM that asks: VMs get workers in turn. */
  vm: string;
  /** For messages and the kernel's names. */
  name: string;
  /** Must have passed checkObject. */
  elf: Uint8Array;
  /** Values for `const volatile` variables. */
  constants?: Readonly<Record<string, bigint | number>>;
  /** Existing maps to use in place of the object's own, by map name: `{ arena: array.file }`. Stay the caller's. */
  reuse?: Readonly<Record<string, OwnedFd>>;
  signal?: AbortSignal | undefined;
  /** Waiting for a worker and loading together. Default 30000. */
  timeoutMs?: number;
}

export interface LoaderOptions {
  /** Most workers at once, the warm one aside. Default 2. */
  workers?: number;
  /** Most memory that a worker may allocate, in MiB. Default 1024. */
  workerMemoryMib?: number;
  /** Most requests that wait. Default 64. */
  queue?: number;
  hooks?: readonly HookSpec[];
  /** The worker's compiled program; tests run from sources and must say. */
  workerPath?: string;
}

export interface LoaderStatus {
  /** Process ids of all workers, the warm one and those that are just ending included. */
  pids: number[];
  /** Processes of the workers that load now. */
  busyPids: number[];
  busy: number;
  waiting: number;
  /** Since start: requests answered, workers killed for their deadline or the caller, workers that ended by themselves. */
  loads: number;
  killed: number;
  crashed: number;
}

interface Job {
  request: LoadRequest;
  /** Called once, when a worker takes it. */
  start: (worker: WorkerProcess) => void;
}

const DEFAULT_TIMEOUT_MS = 30_000;
/** A worker that cannot start at all is tried again no more often than this. */
const RESTART_MS = 1_000;

export class Loader implements AsyncDisposable {
  readonly #options: Required<LoaderOptions>;
  readonly #turns = new Turns<Job>();
  readonly #workers = new Set<WorkerProcess>();
  readonly #running = new Set<WorkerProcess>();
  /** Requests under way by VM. */
  readonly #busy = new Map<string, number>();
  readonly #cancel = new AbortController();
  #warm: WorkerProcess | undefined;
  #restart: NodeJS.Timeout | undefined;
  #loads = 0;
  #killed = 0;
  #crashed = 0;

  /** Starts the warm worker at once. */
  constructor(options: LoaderOptions = {}) {
    this.#options = {
      workers: options.workers ?? 2,
      workerMemoryMib: options.workerMemoryMib ?? 1024,
      queue: options.queue ?? 64,
      hooks: options.hooks ?? HOOK_TABLE,
      workerPath: options.workerPath ?? programFile('host/loader/worker'),
    };
    this.#warmUp();
  }

  /**
   * Throws HT_VERIFIER_REJECTED (detail.log: tail of the verifier's log), HT_BPF, HT_REFUSED (verified instructions
   * above the hook's budget), HT_TIMEOUT, HT_BUSY (queue full), HT_CRASHED (the worker ended), or the signal's reason.
   */
  async load(request: LoadRequest): Promise<LoadedObject> {
    const timeoutMs = patient(request.timeoutMs ?? DEFAULT_TIMEOUT_MS);
    const what = `loading object '${request.name}'`;
    // disposed of: AbortSignal.any would leave something in the loader's own signal for each request
    using over = new ChildAbort(this.#cancel.signal);
    const timer = setTimeout(
      () => over.abort(new HyperturtleError('HT_TIMEOUT', `${what}: not within ${timeoutMs / 1000} s`)),
      timeoutMs,
    );
    const signal = request.signal ? AbortSignal.any([over.signal, request.signal]) : over.signal;
    try {
      const worker = await this.#acquire(request, signal);
      try {
        return await this.#run(worker, request, signal);
      } finally {
        this.#release(request.vm, worker);
      }
    } finally {
      clearTimeout(timer);
    }
  }

  status(): LoaderStatus {
    return {
      pids: Array.from(this.#workers, (w) => w.pid),
      busyPids: Array.from(this.#running, (w) => w.pid),
      busy: this.#busyCount(),
      waiting: this.#turns.length,
      loads: this.#loads,
      killed: this.#killed,
      crashed: this.#crashed,
    };
  }

  /** Ends all workers and waits until they are gone; requests under way fail with HT_INTERRUPTED. */
  async close(): Promise<void> {
    this.#cancel.abort(new HyperturtleError('HT_INTERRUPTED', 'the loader is being closed'));
    clearTimeout(this.#restart);
    this.#warm = undefined;
    const all = Array.from(this.#workers);
    for (const w of all) w.kill();
    await Promise.all(all.map((w) => w.ended));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #acquire(request: LoadRequest, signal: AbortSignal): Promise<WorkerProcess> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(reasonOf(signal));
      if (this.#turns.length >= this.#options.queue)
        return reject(
          new HyperturtleError(
            'HT_BUSY',
            `${this.#turns.length} objects wait to be loaded already: try again later`,
            {
              detail: { retryAfterMs: 1000 },
            },
          ),
        );
      const onAbort = (): void => {
        this.#turns.remove(request.vm, job);
        reject(reasonOf(signal));
      };
      const job: Job = {
        request,
        start: (worker) => {
          signal.removeEventListener('abort', onAbort);
          resolve(worker);
        },
      };
      signal.addEventListener('abort', onAbort, { once: true });
      this.#turns.push(request.vm, job);
      this.#dispatch();
    });
  }

  #dispatch(): void {
    while (this.#busyCount() < this.#options.workers && this.#turns.length > 0) {
      // one VM never holds all workers: another's request finds one at once
      const most = Math.max(1, this.#options.workers - 1);
      const job = this.#turns.next((vm) => (this.#busy.get(vm) ?? 0) < most);
      if (job === undefined) return;
      const { vm } = job.request;
      let worker: WorkerProcess;
      try {
        worker = this.#warm ?? this.#spawn();
      } catch {
        this.#turns.push(vm, job); // no process is free now: its deadline ends it, or the next try serves it
        return this.#warmLater();
      }
      this.#warm = undefined;
      this.#running.add(worker);
      this.#busy.set(vm, (this.#busy.get(vm) ?? 0) + 1);
      job.start(worker);
    }
  }

  async #run(worker: WorkerProcess, request: LoadRequest, signal: AbortSignal): Promise<LoadedObject> {
    const reuse = Object.entries(request.reuse ?? {});
    const aborted = new Promise<never>((_, reject) => {
      if (signal.aborted) reject(reasonOf(signal));
      signal.addEventListener('abort', () => reject(reasonOf(signal)), { once: true });
    });
    aborted.catch(() => {}); // nobody may be waiting any more
    let answer: WorkerAnswer;
    try {
      await Promise.race([worker.ready, aborted]);
      answer = await Promise.race([
        worker.request(
          {
            name: request.name,
            elf: Buffer.from(request.elf).toString('base64'),
            constants: Object.fromEntries(
              Object.entries(request.constants ?? {}).map(([k, v]) => [k, String(v)]),
            ),
            reuse: reuse.map(([name]) => name),
          },
          reuse.map(([, file]) => file.fd),
        ),
        aborted,
      ]);
    } catch (e) {
      if (signal.aborted) this.#killed++;
      else this.#crashed++;
      throw e;
    }
    this.#loads++;
    if (answer.kind === 'loaded') return adopt(worker, answer, request, this.#options.hooks);
    if (answer.kind === 'failed')
      throw new HyperturtleError(
        Object.hasOwn(EXIT_STATUS, answer.code) ? (answer.code as ErrorCode) : 'HT_BPF',
        withoutAddresses(answer.message),
        {
          detail: {
            log: withoutAddresses(answer.log),
            ...(answer.errno === undefined ? {} : { errno: answer.errno }),
          },
        },
      );
    throw new HyperturtleError('HT_CRASHED', 'the loading process answered nothing');
  }

  #release(vm: string, worker: WorkerProcess): void {
    const left = (this.#busy.get(vm) ?? 1) - 1;
    if (left > 0) this.#busy.set(vm, left);
    else this.#busy.delete(vm);
    this.#running.delete(worker);
    worker.kill();
    this.#warmUp();
    this.#dispatch();
  }

  #spawn(): WorkerProcess {
    const worker = new WorkerProcess(this.#options.workerPath, this.#options.workerMemoryMib);
    this.#workers.add(worker);
    void worker.ended.then(() => {
      this.#workers.delete(worker);
      if (this.#warm !== worker) return;
      this.#warm = undefined;
      this.#warmLater();
    });
    return worker;
  }

  #warmUp(): void {
    if (this.#warm || this.#cancel.signal.aborted) return;
    try {
      this.#warm = this.#spawn();
    } catch {
      this.#warmLater();
    }
  }

  #warmLater(): void {
    clearTimeout(this.#restart);
    if (this.#cancel.signal.aborted) return;
    this.#restart = setTimeout(() => {
      this.#warmUp();
      this.#dispatch();
    }, RESTART_MS).unref();
  }

  #busyCount(): number {
    let n = 0;
    for (const busy of this.#busy.values()) n += busy;
    return n;
  }
}

function reasonOf(signal: AbortSignal): Error {
  return signal.reason instanceof Error
    ? signal.reason
    : new HyperturtleError('HT_INTERRUPTED', 'interrupted');
}
