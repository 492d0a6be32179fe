/**
 * One end of a connection that speaks newline-delimited JSON-RPC 2.0, on any Duplex. Both ends are the same class:
 * a daemon serves methods, an agent calls them. The Duplex belongs to the peer from its construction on.
 *
 * This file joins the parts: what is asked here (`call`, outstanding.ts), what is answered (serving.ts), bytes in and out.
 * Whatever the other side sends, this costs a bounded amount of memory and work: bytes are read only while there is
 * a reason to (reader.ts), and everything that could pile up has a limit (limits.ts).
 */
import { randomBytes } from 'node:crypto';
import type { Duplex } from 'node:stream';
import type { z } from 'zod';
import { HyperturtleError } from '../core/errors.ts';
import { fromWireError, unavailable, wireError } from './errors.ts';
import { DEFAULT_LIMITS } from './limits.ts';
import type { RpcLimits } from './limits.ts';
import { isNoise } from './lines.ts';
import type { Line } from './lines.ts';
import { decode, encode } from './message.ts';
import type { Incoming } from './message.ts';
import { Output } from './output.ts';
import { Outstanding } from './outstanding.ts';
import { newCounters } from './peer-options.ts';
import type { RequestOptions, RpcCounters, RpcPeerOptions } from './peer-options.ts';
import { Reader } from './reader.ts';
import { CANCEL, NOTIFICATIONS } from './schema.ts';
import type {
  MethodSpec,
  MethodTable,
  NotificationArguments,
  NotificationName,
  NotificationParams,
  ParamsOf,
  ResultOf,
} from './schema.ts';
import { Serving } from './serving.ts';
import { firstIssue } from './text.ts';
import { tolerant } from './tolerant.ts';
import { own } from '../core/own.ts';

export type { RequestOptions, RpcCounters, RpcPeerOptions, WireLog } from './peer-options.ts';

const DEFAULT_TIMEOUT_MS = 30_000;

export class RpcPeer<C extends MethodTable> {
  readonly #stream: Duplex;
  readonly #options: RpcPeerOptions<C>;
  readonly #needsHello: boolean;
  #limits: RpcLimits;

  readonly #reader: Reader;
  readonly #output: Output;
  readonly #outstanding = new Outstanding();
  readonly #serving: Serving;

  /** As a client: the hello has been answered. */
  #greeted = false;
  #stall: NodeJS.Timeout | undefined;
  #hasDropped = false;
  /** Lines since the last one that began as a message. */
  #noise = 0;
  #closed = false;
  readonly #counters = newCounters();

  constructor(stream: Duplex, options: RpcPeerOptions<C>) {
    this.#stream = stream;
    this.#options = options;
    const { methods } = options;
    const served = methods !== undefined && Object.keys(methods).length > 0 ? methods : undefined;
    this.#needsHello = options.session !== 'connection';
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#output = new Output(stream, () => this.#onTaken());
    this.#serving = new Serving({
      methods: served,
      needsHello: this.#needsHello,
      trusted: options.trusted ?? false,
      limits: () => this.#limits,
      counters: this.#counters,
      write: (bytes) => {
        if (!this.#closed) this.#write(bytes);
      },
      notify: (name, params) => this.#sendNotification(name, params),
      onRoom: () => this.#reader.resume(),
      onBug: (method, e) => this.#logBug(method, e),
    });

    this.#reader = new Reader(stream, this.#limits, this.#counters, {
      obstacle: () => this.#obstacle(),
      onLine: (line) => this.#onLine(line),
    });
    stream.on('end', () => this.#close(undefined));
    stream.on('error', (e) => this.#close(unavailable(`connection lost: ${e.message}`, e)));
    stream.on('close', () => this.#close(undefined));
    // ends what an earlier process may have left half-written on this port
    this.#output.add(Buffer.from('\n'));
    if (this.#needsHello && served) this.#write(encode({ method: 'hello.wanted', params: {} }));
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
    const spec = own(this.#options.calls, method) as C[M];
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
    const checked = spec.params().safeParse(params);
    if (!checked.success)
      throw new HyperturtleError('HT_USAGE', `${method}: ${firstIssue(checked.error)}`, {
        detail: { kind: 'INVALID_PARAMS' },
      });
    if (this.#outstanding.size >= this.#limits.maxOutstanding || this.#outputFull())
      throw new HyperturtleError('HT_BUSY', `${method}: too much is waiting for the other side: try again`);
    const isHello = this.#needsHello && method === 'hello';
    const nonce = isHello ? (params as { nonce?: unknown }).nonce : undefined;
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
        const result = tolerant(spec.result()).safeParse(answer.result);
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
    return this.#serving.session?.notify(name, params) ?? false;
  }

  /** Takes effect at once: after a reload of quotas. The frame's limit stays. */
  setLimits(limits: Partial<Omit<RpcLimits, 'maxFrameBytes'>>): void {
    this.#limits = { ...this.#limits, ...limits };
    this.#reader.setRates(this.#limits);
  }

  get closed(): boolean {
    return this.#closed;
  }

  get counters(): Readonly<RpcCounters> {
    return this.#counters;
  }

  get inProgress(): number {
    return this.#serving.inProgress;
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

  // reading

  /** Before each line: starts what was held if there is room for it now. */
  #obstacle(): 'pausedForRequests' | 'pausedForOutput' | undefined {
    if (!this.#serving.startHeld()) return 'pausedForRequests';
    return this.#outputFull() ? 'pausedForOutput' : undefined;
  }

  #onLine(line: Line): 'thrown away' | 'taken' {
    const { maxFrameBytes, maxValues, maxNoiseAnswers } = this.#limits;
    if (line === 'too-long') {
      this.#serving.refuse(
        null,
        wireError('PARSE_ERROR', `a line of at most ${maxFrameBytes} bytes is expected`),
      );
      return 'taken';
    }
    if (line.length === 0) return 'thrown away';
    if (!isNoise(line)) this.#noise = 0;
    else if (++this.#noise > maxNoiseAnswers) {
      this.#counters.badLines++;
      return 'thrown away';
    }
    this.#onMessage(decode(line, maxValues));
    return 'taken';
  }

  #onMessage(message: Incoming): void {
    switch (message.kind) {
      case 'request':
        this.#serving.onRequest(message.id, message.method, message.params);
        return;
      case 'notification':
        if (message.method === CANCEL) this.#serving.onCancel(message.params);
        else this.#onNotification(message.method, message.params);
        return;
      case 'result':
      case 'error':
        if (!this.#outstanding.take(message)) this.#counters.ignoredLines++;
        return;
      case 'bad':
        this.#serving.refuse(message.id, message.error);
        return;
    }
  }

  #onNotification(name: string, params: unknown): void {
    const { onNotify } = this.#options;
    const ready = this.#greeted || !this.#needsHello;
    const schema: (() => z.ZodType) | undefined = Object.hasOwn(NOTIFICATIONS, name)
      ? NOTIFICATIONS[name as NotificationName]
      : undefined;
    const checked = ready && onNotify && schema ? tolerant(schema()).safeParse(params) : undefined;
    if (!checked?.success) {
      this.#counters.ignoredLines++;
      return;
    }
    // name and params fit each other: the schema was found by the name
    this.#callBack('onNotify', () => onNotify!(...([name, checked.data] as NotificationArguments)));
  }

  // writing

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
    this.#reader.resume();
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

  #close(reason: Error | undefined): void {
    if (this.#closed) return;
    this.#closed = true;
    const why = reason ?? unavailable('the connection was closed');
    this.#serving.endSession(why);
    this.#outstanding.failAll(why);
    this.#reader.stop();
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
