/** Requests of the other side that are being worked on, each with its deadline, and the sessions they belong to. */
import { HyperturtleError } from '../core/errors.ts';
import { patient } from '../core/patience.ts';
import { toWireError, wireError, wireFailure } from './errors.ts';
import type { WireError } from './errors.ts';
import type { RpcSession, ServedMethod } from './handlers.ts';
import type { RpcId } from './message.ts';
import type { NotificationName, NotificationParams } from './schema.ts';

export class Session implements RpcSession {
  readonly #ended = new AbortController();
  readonly #send: (name: string, params: unknown) => boolean;

  constructor(send: (name: string, params: unknown) => boolean) {
    this.#send = send;
  }

  get signal(): AbortSignal {
    return this.#ended.signal;
  }

  notify<N extends NotificationName>(name: N, params: NotificationParams<N>): boolean {
    return !this.signal.aborted && this.#send(name, params);
  }

  end(reason: Error): void {
    this.#ended.abort(reason);
  }
}

/** A request that has passed its schema. */
export interface Job {
  id: RpcId;
  method: string;
  params: unknown;
  served: ServedMethod;
  session: Session;
}

export type Answer = { result: unknown } | { error: WireError };

interface RunningJob {
  job: Job;
  abort: AbortController;
  cancelled: boolean;
}

export class Running {
  readonly #jobs = new Set<RunningJob>();
  #large = 0;
  readonly #trusted: boolean;
  readonly #onBug: (method: string, e: unknown) => string;

  /** `onBug` logs what the other side is not told, and returns the reference under which it did. */
  constructor(options: { trusted: boolean; onBug: (method: string, e: unknown) => string }) {
    this.#trusted = options.trusted;
    this.#onBug = options.onBug;
  }

  get size(): number {
    return this.#jobs.size;
  }

  hasRoomFor(job: Job, max: number): boolean {
    return this.#jobs.size < max && !(job.served.spec.large && this.#large > 0);
  }

  has(session: Session, id: RpcId): boolean {
    return this.#find(session, id) !== undefined;
  }

  /**
   * Calls the handler. `answer` is called at most once: by the handler's end or by the deadline, and not at all when
   * the session has ended. `done` is called when the handler has ended, however late.
   */
  start(job: Job, deadlineMs: number, answer: (a: Answer) => void, done: () => void): void {
    const { served, session } = job;
    const timeoutMs = patient(deadlineMs);
    const running: RunningJob = { job, abort: new AbortController(), cancelled: false };
    const large = served.spec.large === true ? 1 : 0;
    this.#jobs.add(running);
    this.#large += large;
    let answered = false;
    const tell = (a: Answer): void => {
      if (answered || session.signal.aborted) return;
      answered = true;
      answer(a);
    };
    const timer = setTimeout(() => {
      const late = new HyperturtleError(
        'HT_TIMEOUT',
        `${job.method}: not done within ${timeoutMs / 1000} s, given up`,
      );
      tell({ error: toWireError(late) });
      running.abort.abort(late);
    }, timeoutMs);
    const end = (a: Answer): void => {
      clearTimeout(timer);
      this.#jobs.delete(running);
      this.#large -= large;
      tell(a);
      done();
    };
    new Promise((resolve) => {
      const context = { signal: running.abort.signal, session, method: job.method };
      resolve(served.call(job.params, context));
    }).then(
      (result) => end({ result }),
      (e: unknown) => end({ error: running.cancelled ? CANCELLED : this.#error(job.method, e) }),
    );
  }

  /** False: there is no such request. */
  cancel(session: Session, id: RpcId): boolean {
    const running = this.#find(session, id);
    if (running === undefined) return false;
    running.cancelled = true;
    running.abort.abort(wireFailure('CANCELLED', CANCELLED.message));
    return true;
  }

  /** Aborts what belongs to the session; its answers are not sent. */
  endSession(session: Session, reason: Error): void {
    session.end(reason);
    for (const running of this.#jobs) if (running.job.session === session) running.abort.abort(reason);
  }

  #find(session: Session, id: RpcId): RunningJob | undefined {
    for (const running of this.#jobs)
      if (running.job.session === session && running.job.id === id) return running;
    return undefined;
  }

  #error(method: string, e: unknown): WireError {
    const error = toWireError(e, { trusted: this.#trusted });
    return error.data?.kind === 'INTERNAL'
      ? toWireError(e, { trusted: this.#trusted, reference: this.#onBug(method, e) })
      : error;
  }
}

const CANCELLED = wireError('CANCELLED', 'cancelled by its caller');
