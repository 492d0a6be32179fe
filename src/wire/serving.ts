/**
 * The answering half of a connection: hello first, a session from each hello to the next, and one request at most
 * that is held back while there is no room for it. Requests under way are in running.ts.
 */
import { encode } from './message.ts';
import type { RpcId } from './message.ts';
import { toWireError, unavailable, wireError } from './errors.ts';
import type { ErrorKind, WireError } from './errors.ts';
import type { ServedMethods } from './handlers.ts';
import type { RpcLimits } from './limits.ts';
import type { RpcCounters } from './peer-options.ts';
import { Running, Session } from './running.ts';
import type { Answer, Job } from './running.ts';
import { CancelParams } from './schema.ts';
import { firstIssue, printable } from './text.ts';
import { own } from '../core/own.ts';

const NO_HELLO = wireError('NO_HELLO', 'hello is expected first');

export interface ServingOptions {
  /** Undefined: nothing is answered, not even a bad line. */
  methods: ServedMethods | undefined;
  needsHello: boolean;
  trusted: boolean;
  limits: () => RpcLimits;
  counters: RpcCounters;
  /** Nothing is written once the connection is closed. */
  write: (bytes: Buffer) => void;
  notify: (name: string, params: unknown) => boolean;
  /** There may be room for what is held, and for reading on. */
  onRoom: () => void;
  /** Logs and returns the reference under which the log has it. */
  onBug: (method: string, e: unknown) => string;
}

export class Serving {
  readonly #options: ServingOptions;
  readonly #running: Running;
  #session: Session | undefined;
  /** A request that waits for room; nothing is read meanwhile. */
  #held: Job | undefined;
  /** The session's hello is not answered yet. */
  #greeting = false;
  /** Handlers of hello that have not ended: at most one, though it be of an older session. */
  #hellos = 0;

  constructor(options: ServingOptions) {
    this.#options = options;
    this.#running = new Running({ trusted: options.trusted, onBug: options.onBug });
    if (!options.needsHello) this.#session = new Session(options.notify);
  }

  get session(): Session | undefined {
    return this.#session;
  }

  get inProgress(): number {
    return this.#running.size;
  }

  /** Starts what is held. False: there is no room for it yet. */
  startHeld(): boolean {
    const job = this.#held;
    if (job === undefined) return true;
    if (!this.#hasRoom(job)) return false;
    this.#held = undefined;
    this.#start(job);
    return true;
  }

  /** Refuses it, or holds it for `startHeld`. */
  onRequest(id: RpcId, method: string, params: unknown): void {
    const { methods, counters } = this.#options;
    if (methods === undefined) {
      counters.ignoredLines++;
      return;
    }
    const refuse = (kind: ErrorKind, why: string): void => this.refuse(id, wireError(kind, why));
    const isHello = this.#isHello(method);
    if (!isHello && this.#session === undefined) return this.refuse(id, NO_HELLO);
    const served = own(methods, method);
    if (served === undefined) return refuse('METHOD_NOT_FOUND', `there is no method '${printable(method)}'`);
    const checked = served.spec.params().safeParse(params);
    if (!checked.success) return refuse('INVALID_PARAMS', `${method}: ${firstIssue(checked.error)}`);
    if (isHello) {
      this.endSession(unavailable('a new session was begun'));
      this.#session = new Session(this.#options.notify);
    }
    const session = this.#session!;
    if (this.#running.has(session, id))
      return refuse('INVALID_REQUEST', 'this id is in use by another request');
    counters.requests++;
    this.#held = { id, method, params: checked.data, served, session };
  }

  onCancel(params: unknown): void {
    const checked = CancelParams().safeParse(params);
    const session = this.#session;
    const found = checked.success && session !== undefined && this.#running.cancel(session, checked.data.id);
    if (!found) this.#options.counters.ignoredLines++;
  }

  refuse(id: RpcId | null, error: WireError): void {
    this.#options.counters.badLines++;
    if (this.#options.methods !== undefined) this.#options.write(encode({ id, error }));
  }

  /** Handlers are aborted with `reason`; nothing of the session is answered any more. */
  endSession(reason: Error): void {
    if (this.#session === undefined) return;
    this.#greeting = false;
    this.#held = undefined;
    this.#running.endSession(this.#session, reason);
    this.#session = undefined;
  }

  /** A hello is alone: what comes after it waits until it is answered, another one until its handler has ended. */
  #hasRoom(job: Job): boolean {
    if (this.#isHello(job.method)) return this.#hellos === 0;
    return !this.#greeting && this.#running.hasRoomFor(job, this.#options.limits().maxInProgress);
  }

  #start(job: Job): void {
    const { limits, write, onRoom } = this.#options;
    const isHello = this.#isHello(job.method);
    if (isHello) {
      this.#greeting = true;
      this.#hellos++;
    }
    this.#running.start(
      job,
      limits().maxRequestMs,
      (answer) => {
        write(this.#encodeAnswer(job, answer));
        if (isHello) this.#onGreeted('error' in answer);
        onRoom();
      },
      () => {
        if (isHello) this.#hellos--;
        onRoom();
      },
    );
  }

  #onGreeted(refused: boolean): void {
    this.#greeting = false;
    if (!refused) return;
    const held = this.#held;
    this.endSession(unavailable('hello was refused'));
    if (held) this.refuse(held.id, NO_HELLO);
  }

  #isHello(method: string): boolean {
    return this.#options.needsHello && method === 'hello';
  }

  #encodeAnswer({ id, method }: Job, answer: Answer): Buffer {
    const { maxFrameBytes } = this.#options.limits();
    try {
      const bytes = encode({ id, ...answer });
      if (bytes.length <= maxFrameBytes) return bytes;
      const why = `the answer has ${bytes.length} bytes, at most ${maxFrameBytes} can be sent: ask for less`;
      return encode({ id, error: wireError('INTERNAL', why) });
    } catch (e) {
      return encode({ id, error: toWireError(e, { reference: this.#options.onBug(method, e) }) });
    }
  }
}
