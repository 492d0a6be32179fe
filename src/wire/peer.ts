/**
 * One end of a connection that speaks newline-delimited JSON-RPC 2.0, on any Duplex. Both ends are the same class:
 * a daemon serves methods, an agent calls them. The Duplex belongs to the peer from its construction on.
 */
import type { Duplex } from 'node:stream';
import type { ServedMethods } from './handlers.ts';
import type { RpcLimits } from './limits.ts';
import type {
  MethodSpec,
  MethodTable,
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
  onNotify?: <N extends NotificationName>(name: N, params: NotificationParams<N>) => void;
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
  requests: number;
  /** Lines answered with an error of JSON-RPC itself, or ignored as they were no request. */
  badLines: number;
  ignoredLines: number;
  droppedNotifications: number;
  /** How often reading was paused: for rate, for requests in progress, for output that is not taken. */
  pauses: number;
}

export class RpcPeer<C extends MethodTable> {
  constructor(stream: Duplex, options: RpcPeerOptions<C>) {
    void stream;
    void options;
  }

  /**
   * Calls a method. Throws the other side's error (code by kind, `detail.kind`, `detail.rule`, `detail.log` ...);
   * HT_TIMEOUT; the signal's reason; HT_UNAVAILABLE when the connection ends before the answer; HT_BUSY when too
   * much is outstanding; HT_WIRE when request or answer do not fit the schema or a frame. After a timeout or an
   * abort the other side is told to cancel.
   */
  request<M extends keyof C & string>(
    method: M,
    params: ParamsOf<C, M>,
    options: RequestOptions = {},
  ): Promise<ResultOf<C, M>> {
    void [method, params, options];
    throw new Error('not written yet');
  }

  /** The same for a method that is known at run time only: for proxies, which pass on `context.signal`. */
  call(spec: MethodSpec, method: string, params: unknown, options: RequestOptions = {}): Promise<unknown> {
    void [spec, method, params, options];
    throw new Error('not written yet');
  }

  /** Sends a notification in the current session. False: dropped, see RpcSession.notify. */
  notify<N extends NotificationName>(name: N, params: NotificationParams<N>): boolean {
    void [name, params];
    throw new Error('not written yet');
  }

  /** Takes effect at once: after a reload of quotas. */
  setLimits(limits: Partial<RpcLimits>): void {
    void limits;
  }

  get closed(): boolean {
    return false;
  }

  readonly counters: Readonly<RpcCounters> = {
    linesRead: 0,
    bytesRead: 0,
    requests: 0,
    badLines: 0,
    ignoredLines: 0,
    droppedNotifications: 0,
    pauses: 0,
  };

  /** Ends the session, aborts handlers, rejects own requests with `reason` or HT_UNAVAILABLE, destroys the stream. */
  close(reason?: Error): void {
    void reason;
  }
}
