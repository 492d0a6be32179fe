/**
 * The connection to the host: opened, greeted, kept alive by pings, and opened again whenever it ends, whichever side
 * or level was restarted. It owns the channel. Everything else asks it for requests and is told of each session.
 */
import { readFileSync } from 'node:fs';
import os from 'node:os';
import { HyperturtleError, isHyperturtleError, messageOf } from '../../core/errors.ts';
import { ChildAbort } from '../../core/lifecycle.ts';
import { Backoff } from '../../core/retry.ts';
import { sleep } from '../../core/wait.ts';
import { kindOf } from '../../wire/errors.ts';
import { hello } from '../../wire/hello.ts';
import { RpcPeer } from '../../wire/peer.ts';
import { about } from '../../wire/traced.ts';
import type { Tracing } from '../../core/tracing.ts';
import type { RequestOptions, WireLog } from '../../wire/peer.ts';
import { METHODS } from '../../wire/schema.ts';
import type { MethodSpec, NotificationArguments, Params, Result } from '../../wire/schema.ts';
import { openChannel } from './port.ts';
import { notConnected } from './reconcile.ts';
import type { HostCalls } from './reconcile.ts';

export interface UplinkTimes {
  /** First wait after a failure; doubles up to `retryMaxMs`. */
  retryMinMs: number;
  retryMaxMs: number;
  helloMs: number;
  /** Between pings, each of which may take `pingTimeoutMs`. */
  pingEveryMs: number;
  pingTimeoutMs: number;
}

const UPLINK_TIMES: UplinkTimes = {
  retryMinMs: 100,
  retryMaxMs: 5000,
  helloMs: 15_000,
  pingEveryMs: 10_000,
  pingTimeoutMs: 20_000,
};

/** A session lost unnoticed is there again within that time, or the request fails. */
const AGAIN_MS = 5000;

/** Asked twice they answer the same: what the lost session may have done does no harm. */
const REPEATABLE: ReadonlySet<string> = new Set([
  ...['ping', 'limits', 'list', 'stats', 'doctor', 'map.get', 'map.dump', 'nic.list'],
  ...['load', 'link'],
]);

/** The session is lost, whatever the stream says. */
function begunAnew(): HyperturtleError {
  return new HyperturtleError(
    'HT_UNAVAILABLE',
    'the host was restarted: whether this was done is not known, look (hyperturtle list) or try again',
    { detail: { kind: 'UNAVAILABLE', begunAnew: true } },
  );
}

export type UplinkState = 'connected' | 'connecting' | 'waiting';

export interface UplinkOptions {
  port: string;
  version: string;
  log: WireLog & { info(fields: object, message: string): void };
  times?: Partial<UplinkTimes>;
  tracing?: Tracing | undefined;
  /** A session has begun. What it throws ends the session; so `signal`, aborted at its end, is to be heeded. */
  onSession: (host: HostCalls, welcome: Result<'hello'>, signal: AbortSignal) => Promise<void>;
  onNotify: (...notification: NotificationArguments) => void;
}

export class Uplink implements HostCalls {
  readonly #o: UplinkOptions;
  readonly #times: UplinkTimes;
  #peer: RpcPeer<typeof METHODS> | undefined;
  #state: UplinkState = 'connecting';
  #since = new Date();
  #sessions = 0;
  #welcome: Result<'hello'> | undefined;
  #lastError: string | undefined;
  readonly #waiters = new Set<() => void>();
  /** Aborted to end the wait between two tries. */
  #waiting: ChildAbort | undefined;
  readonly #backoff: Backoff;

  constructor(options: UplinkOptions) {
    this.#o = options;
    this.#times = { ...UPLINK_TIMES, ...options.times };
    // the spread keeps the machines of one host from coming all at once
    this.#backoff = new Backoff(this.#times.retryMinMs, this.#times.retryMaxMs, 1 / 2);
  }

  get status(): {
    state: UplinkState;
    since: Date;
    sessions: number;
    lastError: string | undefined;
    welcome: Result<'hello'> | undefined;
  } {
    return {
      state: this.#state,
      since: this.#since,
      sessions: this.#sessions,
      lastError: this.#lastError,
      welcome: this.#welcome,
    };
  }

  /** Connects again and again until `signal` aborts; then returns, with the channel closed. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      this.#enter('connecting');
      const begun = this.#sessions;
      try {
        await this.#session(signal);
      } catch (e) {
        if (signal.aborted) break;
        this.#fail(e);
      }
      // after a session that worked, the other side was most likely restarted: soon again
      if (this.#sessions > begun) this.#backoff.reset();
      this.#enter('waiting');
      using waiting = new ChildAbort(signal);
      this.#waiting = waiting;
      await sleep(this.#backoff.nextMs(), waiting.signal).catch(() => {});
    }
  }

  /** There is a sign of a host, perhaps another one: it is tried at once, and soon again. */
  hurry(): void {
    this.#backoff.reset();
    this.#waiting?.abort();
  }

  async request<M extends keyof typeof METHODS>(
    method: M,
    params: Params<M>,
    options: RequestOptions = {},
  ): Promise<Result<M>> {
    return this.#traced(method, params, () =>
      this.#guard(method, (peer) => peer.request(method, params, options), options.signal),
    );
  }

  /** The same for a method known at run time only. */
  async call(spec: MethodSpec, method: string, params: unknown, options: RequestOptions): Promise<unknown> {
    return this.#traced(method, params, () =>
      this.#guard(method, (peer) => peer.call(spec, method, params, options), options.signal),
    );
  }

  #traced<T>(method: string, params: unknown, run: () => Promise<T>): Promise<T> {
    const { tracing } = this.#o;
    if (!tracing || method === 'report') return run();
    const attributes = { 'rpc.system': 'jsonrpc', 'rpc.method': method, ...about(params) };
    return tracing.span({ name: `host ${method}`, kind: 'client', attributes }, run);
  }

  /** Resolves when connected, or after the time: then a request says what is the matter. */
  async whenConnected(timeoutMs: number, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.#peer?.closed === false && this.#state === 'connected') return;
    const stop = new ChildAbort(signal);
    let wake = (): void => {};
    const connected = new Promise<void>((resolve) => (wake = resolve));
    this.#waiters.add(wake);
    try {
      await Promise.race([connected, sleep(timeoutMs, stop.signal)]);
    } finally {
      this.#waiters.delete(wake);
      stop.abort();
    }
  }

  #current(): RpcPeer<typeof METHODS> {
    if (this.#peer === undefined || this.#state !== 'connected') throw notConnected(this.#lastError);
    return this.#peer;
  }

  /**
   * When the host has forgotten this session, as it was restarted unnoticed, it is greeted again, and asked again where that
   * does no harm, unless the asker belongs to the session that is over.
   */
  async #guard<T>(
    method: string,
    ask: (peer: RpcPeer<typeof METHODS>) => Promise<T>,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    const peer = this.#current();
    try {
      return await ask(peer);
    } catch (e) {
      const notDone = kindOf(e) === 'NO_HELLO';
      const perhaps = isHyperturtleError(e) && e.detail['begunAnew'] === true;
      if (!notDone && !(perhaps && REPEATABLE.has(method))) throw e;
      peer.close(begunAnew());
      await this.whenConnected(AGAIN_MS, signal ?? AbortSignal.timeout(AGAIN_MS));
      return ask(this.#current());
    }
  }

  /** Throws what ended it, or what kept it from beginning. */
  async #session(signal: AbortSignal): Promise<void> {
    const { log } = this.#o;
    const stream = await openChannel(this.#o.port, signal);
    const ended = new ChildAbort(signal);
    const over = ended.signal;
    const peer: RpcPeer<typeof METHODS> = new RpcPeer(stream, {
      calls: METHODS,
      onNotify: (...notification) => {
        // comes when another daemon took the port up without its having looked closed; before our hello is
        // answered it says what we know, and the peer does not pass it on
        if (notification[0] === 'hello.wanted') peer.close(begunAnew());
        else this.#o.onNotify(...notification);
      },
      onClose: (reason) =>
        ended.abort(reason ?? new HyperturtleError('HT_CHANNEL', 'the host has closed the connection')),
      log,
    });
    try {
      const welcome = await hello(peer, whoAmI(this.#o.version), {
        timeoutMs: this.#times.helloMs,
        signal: over,
      });
      this.#peer = peer;
      this.#welcome = welcome;
      this.#sessions++;
      this.#lastError = undefined;
      this.#enter('connected');
      log.info({ vm: welcome.vm, daemon: welcome.daemon, session: this.#sessions }, 'connected to the host');
      await Promise.all([this.#o.onSession(this, welcome, over), this.#ping(peer, over)]);
    } catch (e) {
      // the end of the connection is the reason, not the requests that failed by it
      throw over.aborted ? over.reason : e;
    } finally {
      this.#peer = undefined;
      this.#welcome = undefined;
      peer.close();
      ended.abort();
    }
  }

  /** A restart of the other side does not always end a virtio-serial stream; a ping finds out. */
  async #ping(peer: RpcPeer<typeof METHODS>, signal: AbortSignal): Promise<never> {
    for (;;) {
      await sleep(this.#times.pingEveryMs, signal);
      await peer.request('ping', {}, { timeoutMs: this.#times.pingTimeoutMs, signal });
    }
  }

  #enter(state: UplinkState): void {
    if (state === this.#state) return;
    // between tries the state says 'waiting' since the first of them
    if (state === 'connected' || this.#state === 'connected') this.#since = new Date();
    this.#state = state;
    if (state !== 'connected') return;
    for (const wake of this.#waiters) wake();
  }

  #fail(e: unknown): void {
    const message = messageOf(e);
    const { log } = this.#o;
    // the same again and again is said once
    if (message !== this.#lastError)
      if (isHyperturtleError(e)) log.info({ code: e.code }, `not connected to the host: ${message}`);
      else log.error({ err: e }, 'not connected to the host');
    this.#lastError = message;
  }
}

function whoAmI(version: string): Pick<Params<'hello'>, 'agent' | 'bootId'> {
  return {
    agent: { version, kernel: os.release() },
    bootId: readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim(),
  };
}
