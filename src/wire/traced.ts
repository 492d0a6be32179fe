/** Methods whose calls are spans. */
import type { Attributes, Tracing } from '../core/tracing.ts';
import type { ServedMethods } from './handlers.ts';

/** Not worth a span. */
const QUIET = new Set(['ping', 'report']);

/** The same methods; without tracing, themselves. `attributes` are of all of them: which VM, which socket. */
export function traced(
  methods: ServedMethods,
  tracing: Tracing | undefined,
  attributes: Attributes,
): ServedMethods {
  if (!tracing) return methods;
  return Object.fromEntries(
    Object.entries(methods).map(([method, served]) => [
      method,
      QUIET.has(method)
        ? served
        : {
            spec: served.spec,
            call: (params, context) =>
              tracing.span(
                {
                  name: method,
                  kind: 'server',
                  attributes: {
                    'rpc.system': 'jsonrpc',
                    'rpc.method': method,
                    ...attributes,
                    ...about(params),
                  },
                },
                () => Promise.resolve(served.call(params, context)),
              ),
          },
    ]),
  );
}

/** Names in a request, of which spans are found by; never an object's bytes, nor keys and values of maps. */
export function about(params: unknown): Record<string, string> {
  if (typeof params !== 'object' || params === null) return {};
  const given = new Map(Object.entries(params));
  return Object.fromEntries(
    ['name', 'object', 'hook', 'target', 'id'].flatMap((field) => {
      const value: unknown = given.get(field);
      return typeof value === 'string' || typeof value === 'number'
        ? [[`hyperturtle.${field}`, String(value)]]
        : [];
    }),
  );
}
