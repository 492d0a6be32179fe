/**
 * One end of a connection that speaks newline-delimited JSON-RPC 2.0, on any Duplex. Both ends are the same class:
 * a daemon serves methods, an agent calls them. The Duplex belongs to the peer from its construction on.
 *
 * Whatever the other side sends, this costs a bounded amount of memory and work: bytes are read only while there is
 * a reason to (`#pump`), and everything that could pile up has a limit (limits.ts).
 */
import { randomBytes } from 'node:crypto';
import type { Duplex } from 'node:stream';
import type { z } from 'zod';
import { HyperturtleError } from '../core/errors.ts';
import { TokenBucket } from './bucket.ts';
import { fromWireError, toWireError, wireError } from './errors.ts';
import type { ErrorKind, WireError } from './errors.ts';
import type { ServedMethods } from './handlers.ts';
import { DEFAULT_LIMITS } from './limits.ts';
import type { RpcLimits } from './limits.ts';
import { LineReader } from './lines.ts';
import { decode, encode } from './message.ts';
import type { Incoming, RpcId } from './message.ts';
import { Output } from './output.ts';
import { Outstanding } from './outstanding.ts';
import { Running, Session } from './running.ts';
import type { Answer, Job } from './running.ts';
import { CANCEL, CancelParams, NOTIFICATIONS } from './schema.ts';
import type {
  MethodSpec,
  MethodTable,
  NotificationArguments,
  NotificationName,
  NotificationParams,
  ParamsOf,
  ResultOf,
} from './schema.ts';

/** A pino logger fits. */
export interface WireLog {
  debug(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface RpcPeerOptions<C extends MethodTable> {
  /** Methods this side calls: `METHODS`, or `{}`. Results are checked against them. */
  calls: C;
  /** Methods this side answers, by `serve()`. Default: none; then bad lines are counted and not answered. */
  methods?: ServedMethods;
  /**
   * 'hello': nothing is answered, and no notification taken, before a hello; each further hello begins a new
   * session. 'connection': the connection is the session (local sockets). Default 'hello'.
   */
  session?: 'hello' | 'connection';
  limits?: Partial<RpcLimits>;
  /** Errors of the host's own are told to the other side in full: for operators' sockets. Default false. */
  trusted?: boolean;
  /** `(name, params) => { if (name === 'event') ... }`; they have passed their schema. */
  onNotify?: (...notification: NotificationArguments) => void;
  /** There is room for notifications again after some were dropped. */
  onDrain?: () => void;
  /** Called once. `reason` is undefined when this side closed or the other side ended its output. */
  onClose?: (reason: Error | undefined) => void;
  log?: WireLog;
}

export interface RequestOptions {
  /** Default 30,000. */
  timeoutMs?: number;
  signal?: AbortSignal | undefined;
}

export interface RpcCounters {
  linesRead: number;
  bytesRead: number;
  /** Requests that came to a handler. */
  requests: number;
  /** Lines that were no message, or a request that was refused before its handler. */
  badLines: number;
  /** Messages nobody waits for: answers to older requests, notifications of other sessions or unknown ones. */
  ignoredLines: number;
  droppedNotifications: number;
  /** How often reading was paused, by what for. */
  pausedForRate: number;
  pausedForRequests: number;
  pausedForOutput: number;
}

/** Lines taken in one turn of the event loop, before others have theirs. */
const LINES_PER_TURN = 64;
const DEFAULT_TIMEOUT_MS = 30_000;
const NO_HELLO = wireError('NO_HELLO', 'hello is expected first');

export class RpcPeer<C extends MethodTable> {
  readonly #stream: Duplex;
  readonly #options: RpcPeerOptions<C>;
  readonly #methods: ServedMethods | undefined;
  readonly #needsHello: boolean;
  #limits: RpcLimits;

  readonly #lines: LineReader;
  readonly #lineBucket: TokenBucket;
  readonly #byteBucket: TokenBucket;
  readonly #output: Output;
  readonly #outstanding = new Outstanding();
  readonly #running: Running;

  #session: Session | undefined;
  /** As a client: the hello has been answered. */
  #greeted = false;
  /** A request that waits for room; nothing is read meanwhile. */
  #held: Job | undefined;
  /** The session's hello is not answered yet. */
  #greeting = false;
  /** Handlers of hello that have not ended: at most one, though it be of an older session. */
  #hellos = 0;
  #pumping = false;
  /** Set while a timer or an immediate will go on reading. */
  #wake: { cancel: () => void } | undefined;
  #paused: 'pausedForRate' | 'pausedForRequests' | 'pausedForOutput' | undefined;
  #stall: NodeJS.Timeout | undefined;
  #hasDropped = false;
  #closed = false;
  readonly #counters: RpcCounters = {
    linesRead: 0,
    bytesRead: 0,
    requests: 0,
    badLines: 0,
    ignoredLines: 0,
    droppedNotifications: 0,
    pausedForRate: 0,
    pausedForRequests: 0,
    pausedForOutput: 0,
  };

  constructor(stream: Duplex, options: RpcPeerOptions<C>) {
    this.#stream = stream;
    this.#options = options;
    const { methods } = options;
    this.#methods = methods !== undefined && Object.keys(methods).length > 0 ? methods : undefined;
    this.#needsHello = options.session !== 'connection';
    const limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#limits = limits;
    this.#lines = new LineReader(limits.maxFrameBytes);
    this.#lineBucket = new TokenBucket(limits.requestsPerSecond, burstOf(limits));
    this.#byteBucket = new TokenBucket(limits.bytesPerSecond, 2 * limits.maxFrameBytes);
    this.#running = new Running({
      trusted: options.trusted ?? false,
      onBug: (method, e) => this.#logBug(method, e),
    });
    this.#output = new Output(stream, () => this.#onTaken());
    if (!this.#needsHello) this.#session = this.#newSession();

    stream.on('readable', () => this.#pump());
    stream.on('end', () => this.#close(undefined));
    stream.on('error', (e) => this.#close(unavailable(`connection lost: ${e.message}`, e)));
    stream.on('close', () => this.#close(undefined));
    // ends what an earlier process may have left half-written on this port
    this.#output.add(Buffer.from('\n'));
    if (this.#needsHello && this.#methods) this.#write(encode({ method: 'hello.wanted', params: {} }));
    if (stream.destroyed) process.nextTick(() => this.#close(undefined));
  }

  /**
   * Calls a method. Throws the other side's error (code by kind, `detail.kind`, `detail.rule`, `detail.log` ...);
   * HT_TIMEOUT; the signal's reason; HT_UNAVAILABLE when the connection ends before the answer; HT_BUSY when too
   * much is outstanding; HT_USAGE when `params` do not fit the schema; HT_WIRE when they do not fit a frame, or the
   * answer does not fit its schema. After a timeout or an abort the other side is told to cancel.
   */
  request<M extends keyof C & string>(
    method: M,
    params: ParamsOf<C, M>,
    options: RequestOptions = {},
  ): Promise<ResultOf<C, M>> {
    const spec = this.#options.calls[method] as C[M];
    return this.call(spec, method, params, options) as Promise<ResultOf<C, M>>;
  }

  /** The same for a method that is known at run time only: for proxies, which pass on `context.signal`. */
  async call(
    spec: MethodSpec,
    method: string,
    params: unknown,
    options: RequestOptions = {},
  ): Promise<unknown> {
    if (this.#closed) throw unavailable(`${method}: the connection is closed`);
    const checked = spec.params.safeParse(params);
    if (!checked.success)
      throw new HyperturtleError('HT_USAGE', `${method}: ${firstIssue(checked.error)}`, {
        detail: { kind: 'INVALID_PARAMS' },
      });
    if (this.#outstanding.size >= this.#limits.maxOutstanding || this.#outputFull())
      throw new HyperturtleError('HT_BUSY', `${method}: too much is waiting for the other side: try again`);
    const nonce = this.#isHello(method) ? (params as { nonce?: unknown }).nonce : undefined;
    if (nonce !== undefined) {
      this.#greeted = false;
      this.#outstanding.failAll(unavailable('a new session was begun'));
    }
    return this.#outstanding.ask<unknown>(
      method,
      { timeoutMs: options.timeoutMs ?? DEFAULT_TIMEOUT_MS, signal: options.signal },
      (id) => {
        const bytes = encode({ id, method, params });
        if (bytes.length > this.#limits.maxFrameBytes)
          throw new HyperturtleError(
            'HT_WIRE',
            `${method}: the request has ${bytes.length} bytes, at most ${this.#limits.maxFrameBytes} can be sent`,
          );
        this.#write(bytes);
      },
      (answer) => {
        if (answer.kind === 'error') throw fromWireError(answer.error);
        const result = spec.result.safeParse(answer.result);
        if (!result.success)
          throw new HyperturtleError(
            'HT_WIRE',
            `${method}: the answer is not as documented: ${firstIssue(result.error)}`,
          );
        if (nonce !== undefined) {
          if ((result.data as { nonce?: unknown }).nonce !== nonce) return undefined;
          this.#greeted = true;
        }
        return { value: result.data };
      },
      (id) => {
        if (!this.#closed && !this.#outputFull()) this.#write(encode({ method: CANCEL, params: { id } }));
      },
    );
  }

  /** Sends a notification in the current session. False: dropped, see RpcSession.notify. */
  notify<N extends NotificationName>(name: N, params: NotificationParams<N>): boolean {
    return this.#session?.notify(name, params) ?? false;
  }

  /** Takes effect at once: after a reload of quotas. The frame's limit stays. */
  setLimits(limits: Partial<Omit<RpcLimits, 'maxFrameBytes'>>): void {
    this.#limits = { ...this.#limits, ...limits };
    this.#lineBucket.setRate(this.#limits.requestsPerSecond, burstOf(this.#limits));
    this.#byteBucket.setRate(this.#limits.bytesPerSecond, 2 * this.#limits.maxFrameBytes);
    this.#wakeUp();
  }

  get closed(): boolean {
    return this.#closed;
  }

  get counters(): Readonly<RpcCounters> {
    return this.#counters;
  }

  get inProgress(): number {
    return this.#running.size;
  }

  get queuedBytes(): number {
    return this.#output.queuedBytes;
  }

  /** Waits until all output is taken, or the connection or `timeoutMs` ends. For a last word before `close()`. */
  async flush(timeoutMs: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => {
        forget();
        resolve();
      }, timeoutMs);
      const forget = this.#output.whenEmpty(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  /** Ends the session, aborts handlers, rejects own requests with `reason` or HT_UNAVAILABLE, destroys the stream. */
  close(reason?: Error): void {
    this.#close(reason);
  }

  #newSession(): Session {
    const session: Session = new Session((name, params) => this.#sendNotification(name, params));
    return session;
  }

  // reading

  /** Takes lines while nothing speaks against it. Called whenever that may have changed. */
  #pump(): void {
    if (this.#pumping || this.#closed) return;
    this.#pumping = true;
    try {
      for (let budget = LINES_PER_TURN; !this.#closed && this.#mayRead(budget); ) {
        const line = this.#lines.next();
        if (line !== undefined) {
          budget--;
          this.#counters.linesRead++;
          this.#lineBucket.take(1);
          if (line === 'too-long')
            this.#refuse(
              null,
              wireError('PARSE_ERROR', `a line of at most ${this.#limits.maxFrameBytes} bytes is expected`),
            );
          else if (line.length > 0) this.#onMessage(decode(line, this.#limits.maxValues));
          continue;
        }
        const chunk = this.#stream.read() as Buffer | null;
        if (chunk === null) return;
        this.#counters.bytesRead += chunk.length;
        this.#byteBucket.take(chunk.length);
        this.#lines.push(chunk);
      }
    } finally {
      this.#pumping = false;
    }
  }

  /** False: something will call `#pump()` again. */
  #mayRead(budget: number): boolean {
    if (this.#wake !== undefined) return false;
    if (this.#held !== undefined) {
      if (!this.#hasRoom(this.#held)) return this.#pause('pausedForRequests');
      const job = this.#held;
      this.#held = undefined;
      this.#start(job);
    }
    if (this.#outputFull()) return this.#pause('pausedForOutput');
    const waitMs = Math.max(this.#lineBucket.waitMs(), this.#byteBucket.waitMs());
    if (waitMs > 0) {
      const timer = setTimeout(() => this.#wakeUp(), waitMs);
      this.#wake = { cancel: () => clearTimeout(timer) };
      return this.#pause('pausedForRate');
    }
    this.#paused = undefined;
    if (budget > 0) return true;
    const immediate = setImmediate(() => this.#wakeUp());
    this.#wake = { cancel: () => clearImmediate(immediate) };
    return false;
  }

  #pause(why: 'pausedForRate' | 'pausedForRequests' | 'pausedForOutput'): false {
    if (this.#paused !== why) this.#counters[why]++;
    this.#paused = why;
    return false;
  }

  #wakeUp(): void {
    this.#wake?.cancel();
    this.#wake = undefined;
    this.#pump();
  }

  #onMessage(message: Incoming): void {
    switch (message.kind) {
      case 'request':
        this.#onRequest(message.id, message.method, message.params);
        return;
      case 'notification':
        if (message.method === CANCEL) this.#onCancel(message.params);
        else this.#onNotification(message.method, message.params);
        return;
      case 'result':
      case 'error':
        if (!this.#outstanding.take(message)) this.#counters.ignoredLines++;
        return;
      case 'bad':
        this.#refuse(message.id, message.error);
        return;
    }
  }

  #onRequest(id: RpcId, method: string, params: unknown): void {
    if (this.#methods === undefined) {
      this.#counters.ignoredLines++;
      return;
    }
    const refuse = (kind: ErrorKind, why: string): void => this.#refuse(id, wireError(kind, why));
    const isHello = this.#isHello(method);
    if (!isHello && this.#session === undefined) return this.#refuse(id, NO_HELLO);
    const served = Object.hasOwn(this.#methods, method) ? this.#methods[method] : undefined;
    if (served === undefined) return refuse('METHOD_NOT_FOUND', `there is no method '${printable(method)}'`);
    const checked = served.spec.params.safeParse(params);
    if (!checked.success) return refuse('INVALID_PARAMS', `${method}: ${firstIssue(checked.error)}`);
    if (isHello) {
      this.#endSession(unavailable('a new session was begun'));
      this.#session = this.#newSession();
    }
    const session = this.#session!;
    if (this.#running.has(session, id))
      return refuse('INVALID_REQUEST', 'this id is in use by another request');
    this.#counters.requests++;
    this.#held = { id, method, params: checked.data, served, session };
  }

  /** A hello is alone: what comes after it waits until it is answered, another one until its handler has ended. */
  #hasRoom(job: Job): boolean {
    if (this.#isHello(job.method)) return this.#hellos === 0;
    return !this.#greeting && this.#running.hasRoomFor(job, this.#limits.maxInProgress);
  }

  #start(job: Job): void {
    const isHello = this.#isHello(job.method);
    if (isHello) {
      this.#greeting = true;
      this.#hellos++;
    }
    this.#running.start(
      job,
      this.#limits.maxRequestMs,
      (answer) => {
        this.#answer(job, answer);
        if (isHello) this.#onGreeted('error' in answer);
        this.#pump();
      },
      () => {
        if (isHello) this.#hellos--;
        this.#pump();
      },
    );
  }

  #onGreeted(refused: boolean): void {
    this.#greeting = false;
    if (!refused) return;
    const held = this.#held;
    this.#endSession(unavailable('hello was refused'));
    if (held) this.#refuse(held.id, NO_HELLO);
  }

  #isHello(method: string): boolean {
    return this.#needsHello && method === 'hello';
  }

  #onCancel(params: unknown): void {
    const checked = CancelParams.safeParse(params);
    const session = this.#session;
    if (!checked.success || session === undefined) {
      this.#counters.ignoredLines++;
      return;
    }
    if (!this.#running.cancel(session, checked.data.id)) this.#counters.ignoredLines++;
  }

  #onNotification(name: string, params: unknown): void {
    const { onNotify } = this.#options;
    const ready = this.#greeted || !this.#needsHello;
    const schema: z.ZodType | undefined = Object.hasOwn(NOTIFICATIONS, name)
      ? NOTIFICATIONS[name as NotificationName]
      : undefined;
    const checked = ready && onNotify ? schema?.safeParse(params) : undefined;
    if (!checked?.success) {
      this.#counters.ignoredLines++;
      return;
    }
    // name and params fit each other: the schema was found by the name
    this.#callBack('onNotify', () => onNotify!(...([name, checked.data] as NotificationArguments)));
  }

  // writing

  #answer(job: Job, answer: Answer): void {
    if (this.#closed) return;
    this.#write(this.#encodeAnswer(job, answer));
  }

  #encodeAnswer({ id, method }: Job, answer: Answer): Buffer {
    const { maxFrameBytes } = this.#limits;
    try {
      const bytes = encode({ id, ...answer });
      if (bytes.length <= maxFrameBytes) return bytes;
      const why = `the answer has ${bytes.length} bytes, at most ${maxFrameBytes} can be sent: ask for less`;
      return encode({ id, error: wireError('INTERNAL', why) });
    } catch (e) {
      return encode({ id, error: toWireError(e, { reference: this.#logBug(method, e) }) });
    }
  }

  #refuse(id: RpcId | null, error: WireError): void {
    this.#counters.badLines++;
    if (this.#methods !== undefined) this.#write(encode({ id, error }));
  }

  #sendNotification(name: string, params: unknown): boolean {
    if (this.#closed) return false;
    const { maxQueuedNotificationBytes, maxFrameBytes } = this.#limits;
    if (this.#output.queuedBytes < maxQueuedNotificationBytes) {
      const bytes = encode({ method: name, params });
      if (bytes.length <= maxFrameBytes) {
        this.#write(bytes);
        return true;
      }
    }
    this.#hasDropped = true;
    this.#counters.droppedNotifications++;
    return false;
  }

  #write(bytes: Buffer): void {
    this.#output.add(bytes);
    if (this.#outputFull()) this.#watchStall();
  }

  #outputFull(): boolean {
    return this.#output.queuedBytes >= this.#limits.maxQueuedBytes;
  }

  #onTaken(): void {
    if (this.#stall !== undefined) {
      clearTimeout(this.#stall);
      this.#stall = undefined;
    }
    if (this.#closed) return;
    if (this.#outputFull()) this.#watchStall();
    if (this.#hasDropped && this.#output.queuedBytes < this.#limits.maxQueuedNotificationBytes / 2) {
      this.#hasDropped = false;
      this.#callBack('onDrain', () => this.#options.onDrain?.());
    }
    this.#pump();
  }

  #watchStall(): void {
    const { stallTimeoutMs } = this.#limits;
    this.#stall ??= setTimeout(
      () =>
        this.#close(
          new HyperturtleError(
            'HT_WIRE',
            `the other side has taken no output for ${stallTimeoutMs / 1000} s`,
          ),
        ),
      stallTimeoutMs,
    );
  }

  // the end

  #endSession(reason: Error): void {
    if (this.#session === undefined) return;
    this.#greeting = false;
    this.#held = undefined;
    this.#running.endSession(this.#session, reason);
    this.#session = undefined;
  }

  #close(reason: Error | undefined): void {
    if (this.#closed) return;
    this.#closed = true;
    const why = reason ?? unavailable('the connection was closed');
    this.#endSession(why);
    this.#outstanding.failAll(why);
    this.#wake?.cancel();
    clearTimeout(this.#stall);
    this.#output.clear();
    this.#stream.destroy();
    this.#callBack('onClose', () => this.#options.onClose?.(reason));
  }

  /** An owner's mistake must not stop the reading of this connection, let alone the process. */
  #callBack(what: string, f: () => void): void {
    try {
      f();
    } catch (e) {
      this.#logBug(what, e);
    }
  }

  /** Returns the reference under which the log has it. */
  #logBug(method: string, e: unknown): string {
    const reference = randomBytes(4).toString('hex');
    this.#options.log?.error({ method, reference, err: e }, 'a request failed for a reason of our own');
    return reference;
  }
}

function burstOf(limits: RpcLimits): number {
  return Math.max(16, limits.requestsPerSecond / 4);
}

function unavailable(message: string, cause?: unknown): HyperturtleError {
  return new HyperturtleError('HT_UNAVAILABLE', message, { cause });
}

/** The first thing wrong, with the path to it, in a bounded number of printable characters. */
function firstIssue(e: z.ZodError): string {
  const issue = e.issues[0];
  if (issue === undefined) return 'not as documented';
  const at = issue.path.map(String).join('.');
  return printable(at === '' ? issue.message : `${at}: ${issue.message}`);
}

function printable(text: string): string {
  return text.slice(0, 200).replace(/[^\x20-\x7e]/g, '?');
}
