/** What becomes of each request of a VM's: counted, logged where it changes something, and told as an event where it is refused. */
import { isHyperturtleError, messageOf } from '../../core/errors.ts';
import type { Log } from '../log.ts';
import { setOwn } from '../../core/own.ts';
import { kindOf } from '../../wire/errors.ts';
import type { ServedMethods } from '../../wire/handlers.ts';
import { messageWithReason } from '../../core/verifier-log.ts';
import type { EventRing } from './events.ts';

/** Methods that change something: each is a line of the audit log. */
const AUDITED: ReadonlySet<string> = new Set([
  'hello',
  'load',
  'unload',
  'replace',
  'link',
  'unlink',
  'map.set',
  'map.delete',
  'map.watch',
  'nic.add',
  'nic.del',
]);

export interface AuditOptions {
  events: EventRing;
  audit: Log;
  /** Each request: for metrics. `outcome` is `ok` or the error's kind. */
  onCall: (method: string, outcome: string) => void;
  /** Throws what a request is refused for before it is begun. */
  admit: (method: string) => void;
}

export function audited(methods: ServedMethods, options: AuditOptions): ServedMethods {
  return Object.fromEntries(
    Object.entries(methods).map(([name, { spec, call }]) => [
      name,
      {
        spec,
        call: async (params, context) => {
          try {
            options.admit(name);
            const result = await call(params, context);
            granted(options, name, params);
            return result;
          } catch (e) {
            refused(options, name, params, e);
            throw e;
          }
        },
      },
    ]),
  );
}

function granted({ onCall, audit }: AuditOptions, method: string, params: unknown): void {
  onCall(method, 'ok');
  if (AUDITED.has(method)) audit.info({ method, ...subjectOf(params), outcome: 'ok' }, 'granted');
}

function refused({ onCall, audit, events }: AuditOptions, method: string, params: unknown, e: unknown): void {
  const kind = kindOf(e);
  onCall(method, kind);
  const rule = isHyperturtleError(e) ? e.detail['rule'] : undefined;
  const because = { ...(rule === undefined ? {} : { rule }), why: messageOf(e) };
  const line = { method, ...subjectOf(params), outcome: kind, ...because };
  if (kind === 'INTERNAL') audit.error({ ...line, err: e }, 'failed');
  else if (AUDITED.has(method)) audit.info(line, 'refused');
  tellRefusal(events, method, params, e);
}

function tellRefusal(events: EventRing, method: string, params: unknown, e: unknown): void {
  if (!isHyperturtleError(e)) return;
  const { quota, limit, rule } = e.detail;
  if (typeof quota === 'string' && typeof limit === 'number')
    return events.add({ type: 'quota.refused', quota, limit, method });
  const { object } = subjectOf(params);
  if ((method !== 'load' && method !== 'replace') || object === undefined) return;
  const kind = kindOf(e);
  if (!['REFUSED', 'VERIFIER', 'SIGNATURE', 'QUOTA'].includes(kind)) return;
  events.add({
    type: 'object.refused',
    object,
    kind,
    ...(typeof rule === 'string' ? { rule } : {}),
    message: messageWithReason(e).slice(0, 2048),
  });
}

/** What a request is about, for the log: names only, never content. */
function subjectOf(params: unknown): { object?: string; [field: string]: unknown } {
  if (typeof params !== 'object' || params === null) return {};
  const given = new Map<string, unknown>(Object.entries(params));
  const out: { object?: string; [field: string]: unknown } = {};
  const object = given.get('object') ?? given.get('name');
  if (typeof object === 'string') out.object = object;
  for (const field of [
    'program',
    'hook',
    'target',
    'order',
    'id',
    'network',
    'mac',
    'map',
    'watch',
    'bootId',
  ])
    if (given.has(field)) setOwn(out, field, given.get(field));
  return out;
}
