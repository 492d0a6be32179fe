/** What an RpcPeer is made with, and what it counts. */
import type { ServedMethods } from './handlers.ts';
import type { RpcLimits } from './limits.ts';
import type { MethodTable, NotificationArguments } from './schema.ts';

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

/** Why nothing is read for a while. */
export type Pause = 'pausedForRate' | 'pausedForRequests' | 'pausedForOutput';

export interface RpcCounters extends Record<Pause, number> {
  linesRead: number;
  bytesRead: number;
  /** Requests that came to a handler. */
  requests: number;
  /** Lines that were no message, or a request that was refused before its handler. */
  badLines: number;
  /** Messages nobody waits for: answers to older requests, notifications of other sessions or unknown ones. */
  ignoredLines: number;
  droppedNotifications: number;
}

export function newCounters(): RpcCounters {
  return {
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
}
