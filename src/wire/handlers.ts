/** What a side answers: methods with their schemas and handlers, put together from one or more tables. */
import type {
  MethodSpec,
  MethodTable,
  NotificationName,
  NotificationParams,
  ParamsOf,
  ResultOf,
} from './schema.ts';

/**
 * From one `hello` to the next, or (where sockets need no hello) from connection to its end. The object's identity
 * is the session's: owners keep what belongs to it in a WeakMap, or release it on `signal`.
 */
export interface RpcSession {
  /** Aborted when the session ends: another hello, or the connection is closed. */
  readonly signal: AbortSignal;
  /**
   * Sends a notification. False: it was dropped, because the session is over or its peer does not read; in the
   * second case `onDrain` of the peer's options is called when there is room again.
   */
  notify<N extends NotificationName>(name: N, params: NotificationParams<N>): boolean;
}

export interface CallContext {
  /** Aborted when the caller cancels, the deadline passes, or the session ends. */
  readonly signal: AbortSignal;
  readonly session: RpcSession;
  readonly method: string;
}

type Handler<T extends MethodTable, M extends keyof T> = (
  params: ParamsOf<T, M>,
  context: CallContext,
) => ResultOf<T, M> | Promise<ResultOf<T, M>>;

export type Handlers<T extends MethodTable> = { readonly [M in keyof T]: Handler<T, M> };

/** A method with its handler; `params` have passed its schema. */
export interface ServedMethod {
  readonly spec: MethodSpec;
  readonly call: (params: unknown, context: CallContext) => unknown;
}
export type ServedMethods = Readonly<Record<string, ServedMethod>>;

/** All methods of a table. Several are merged by `{...serve(A, a), ...serve(B, b)}`. */
export function serve<T extends MethodTable>(table: T, handlers: Handlers<T>): ServedMethods {
  return serveAll(table, (method, params, context) =>
    // the peer has checked the params against this method's schema
    handlers[method](params as ParamsOf<T, keyof T>, context),
  );
}

/** All methods of a table by one function: for proxies. What it returns is not checked. */
export function serveAll<T extends MethodTable>(
  table: T,
  call: (method: keyof T & string, params: unknown, context: CallContext) => unknown,
): ServedMethods {
  return Object.fromEntries(
    Object.entries(table).map(([method, spec]) => [
      method,
      { spec, call: (params: unknown, context: CallContext) => call(method, params, context) },
    ]),
  );
}
