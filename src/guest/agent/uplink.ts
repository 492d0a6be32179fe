/**
 * The connection to the host: opened, greeted, kept alive by pings, and opened again whenever it ends, whichever side
 * or level was restarted. It owns the channel. Everything else asks it for requests and is told of each session.
 */
import { randomInt } from 'node:crypto';
import { readFileSync } from 'node:fs';
import os from 'node:os';
import { HyperturtleError, isHyperturtleError, messageOf } from '../../core/errors.ts';
import { sleep } from '../../core/wait.ts';
import { kindOf } from '../../wire/errors.ts';
import { hello } from '../../wire/hello.ts';
import { RpcPeer } from '../../wire/peer.ts';
import type { RequestOptions, WireLog } from '../../wire/peer.ts';
import { METHODS } from '../../wire/schema.ts';
import type { MethodSpec, NotificationName, NotificationParams, Params, Result } from '../../wire/schema.ts';
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

export const UPLINK_TIMES: UplinkTimes = {
  retryMinMs: 100,
  retryMaxMs: 5000,
  helloMs: 15_000,
  pingEveryMs: 10_000,
  pingTimeoutMs: 20_000,
};

export type UplinkState = 'connected' | 'connecting' | 'waiting';

export interface UplinkOptions {
  port: string;
  version: string;
  log: WireLog & { info(fields: object, message: string): void };
  times?: Partial<UplinkTimes>;
  /** A session has begun. What it throws ends the session; so `signal`, aborted at its end, is to be heeded. */
  onSession: (host: HostCalls, welcome: Result<'hello'>, signal: AbortSignal) => Promise<void>;
  onNotify: <N extends NotificationName>(name: N, params: NotificationParams<N>) => void;
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

  constructor(options: UplinkOptions) {
    this.#o = options;
    this.#times = { ...UPLINK_TIMES, ...options.times };
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
    let waitMs = this.#times.retryMinMs;
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
      if (this.#sessions > begun) waitMs = this.#times.retryMinMs;
      this.#enter('waiting');
      // the spread keeps the machines of one host from coming all at once
      await sleep(randomInt(Math.ceil(waitMs / 2), waitMs + 1), signal).catch(() => {});
      waitMs = Math.min(waitMs * 2, this.#times.retryMaxMs);
    }
  }

  async request<M extends keyof typeof METHODS>(
    method: M,
    params: Params<M>,
    options: RequestOptions = {},
  ): Promise<Result<M>> {
    const peer = this.#current();
    return this.#guard(peer, peer.request(method, params, options));
  }

  /** The same for a method known at run time only. */
  async call(spec: MethodSpec, method: string, params: unknown, options: RequestOptions): Promise<unknown> {
    const peer = this.#current();
    return this.#guard(peer, peer.call(spec, method, params, options));
  }

  /** Resolves when connected, or after the time: then a request says what is the matter. */
  async whenConnected(timeoutMs: number, signal: AbortSignal): Promise<void> {
    if (this.#state === 'connected') return;
    const stop = new AbortController();
    let wake = (): void => {};
    const connected = new Promise<void>((resolve) => (wake = resolve));
    this.#waiters.add(wake);
    try {
      await Promise.race([connected, sleep(timeoutMs, AbortSignal.any([stop.signal, signal]))]);
    } finally {
      this.#waiters.delete(wake);
      stop.abort();
    }
  }

  #current(): RpcPeer<typeof METHODS> {
    if (this.#peer === undefined || this.#state !== 'connected') throw notConnected(this.#lastError);
    return this.#peer;
  }

  /** The host forgot this session, as it was restarted unnoticed: greet it again. */
  async #guard<T>(peer: RpcPeer<typeof METHODS>, answer: Promise<T>): Promise<T> {
    try {
      return await answer;
    } catch (e) {
      if (kindOf(e) !== 'NO_HELLO') throw e;
      peer.close(new HyperturtleError('HT_CHANNEL', 'the host has begun anew'));
      throw notConnected('the host has begun anew');
    }
  }

  /** Throws what ended it, or what kept it from beginning. */
  async #session(signal: AbortSignal): Promise<void> {
    const { log } = this.#o;
    const stream = await openChannel(this.#o.port, signal);
    const ended = new AbortController();
    const over = AbortSignal.any([signal, ended.signal]);
    const peer = new RpcPeer(stream, {
      calls: METHODS,
      onNotify: (name, params) => this.#o.onNotify(name, params),
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
      throw ended.signal.aborted ? ended.signal.reason : e;
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
