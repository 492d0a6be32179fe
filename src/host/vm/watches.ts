/**
 * `map.watch`: looks at a map in intervals and tells what changed; of a ring buffer, takes its records. The work is
 * bounded by the VM's budget: a tick looks at as many entries as that has, and the next one goes on from there.
 */
import { createHash } from 'node:crypto';
import { MapAccess } from '../../bpf/map-ops.ts';
import type { OwnedFd } from '../../bpf/fds.ts';
import { RingReader } from '../../bpf/ring.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { BPF_MAP_TYPE_RINGBUF } from '../../kernel/bpf.ts';
import type { RpcSession } from '../../wire/handlers.ts';
import type { MapChange, Params } from '../../wire/schema.ts';
import { base64, keyOf, tableOf } from './map-methods.ts';
import { quotaError } from './admit.ts';
import type { VmObjects } from './objects.ts';
import type { Budget } from './budget.ts';

/** Without `keys`: larger maps would cost too much to look through again and again. */
const MAX_WATCHED_ENTRIES = 4096;
const RECORDS_PER_TICK = 256;
/** In one notification, before base64. */
const NOTIFICATION_BYTES = 256 << 10;

type Send = (changes: MapChange[]) => boolean;

interface Watcher {
  /** Looks once. Throws HT_NOT_FOUND when the map is gone. */
  tick(send: Send): void;
  close(): void;
}

/** All watches of one VM, over all its sessions. */
export class Watches {
  readonly #objects: VmObjects;
  readonly #work: Budget;
  readonly #quota: () => number;
  readonly #stops = new Map<number, { session: RpcSession; stop: () => void }>();
  /** Watched ring buffers, as object/map: two readers would take records from each other. */
  readonly #rings = new Set<string>();
  #nextId = 1;

  constructor(objects: VmObjects, work: Budget, quota: () => number) {
    this.#objects = objects;
    this.#work = work;
    this.#quota = quota;
  }

  get size(): number {
    return this.#stops.size;
  }

  /** Ends with the session, the map, or `remove`. Throws HT_QUOTA, HT_NOT_FOUND, HT_IN_USE, HT_USAGE. */
  add(params: Params<'map.watch'>, session: RpcSession): number {
    if (this.#stops.size >= this.#quota()) throw quotaError('watches', this.#quota());
    const watcher = this.#watcher(params);
    const id = this.#nextId++;
    let dropped = 0;
    const send: Send = (changes) => {
      const sent = session.notify('map.changed', { watch: id, changes, dropped });
      dropped = sent ? 0 : dropped + changes.length;
      return sent;
    };
    const timer = setInterval(() => {
      try {
        watcher.tick(send);
      } catch {
        stop(); // the map is gone
      }
    }, params.intervalMs);
    const stop = (): void => {
      clearInterval(timer);
      session.signal.removeEventListener('abort', stop);
      watcher.close();
      this.#stops.delete(id);
    };
    session.signal.addEventListener('abort', stop, { once: true });
    this.#stops.set(id, { session, stop });
    return id;
  }

  /** Throws HT_NOT_FOUND for one that this session does not have. */
  remove(id: number, session: RpcSession): void {
    const found = this.#stops.get(id);
    if (found?.session !== session)
      throw new HyperturtleError('HT_NOT_FOUND', `this session has no watch ${id}`);
    found.stop();
  }

  clear(): void {
    for (const { stop } of [...this.#stops.values()]) stop();
  }

  #watcher(params: Params<'map.watch'>): Watcher {
    const { file } = this.#objects.map(params.object, params.map);
    return new MapAccess(file).info.type === BPF_MAP_TYPE_RINGBUF ? this.#ring(params) : this.#table(params);
  }

  #ring(params: Params<'map.watch'>): Watcher {
    const objects = this.#objects;
    const name = `${params.object}/${params.map}`;
    if (this.#rings.has(name))
      throw new HyperturtleError(
        'HT_IN_USE',
        `ring buffer '${params.map}' is watched already: it gives each record once`,
      );
    let reader: { file: OwnedFd; ring: RingReader } | undefined;
    this.#rings.add(name);
    return {
      tick: (send) => {
        const { file } = objects.map(params.object, params.map);
        if (reader?.file !== file) {
          // the object was replaced: the same map by another descriptor, or a new one
          reader?.ring.close();
          reader = { file, ring: new RingReader(file) };
        }
        const records = reader.ring.read(this.#work.takeSome(RECORDS_PER_TICK));
        inParts(
          records.map((r) => ({ key: '', value: base64(r) })),
          send,
        );
      },
      close: () => {
        reader?.ring.close();
        this.#rings.delete(name);
      },
    };
  }

  #table(params: Params<'map.watch'>): Watcher {
    const objects = this.#objects;
    const first = tableOf(objects, params);
    const keys = params.keys?.map((k) => keyOf(first, k));
    if (!keys && first.info.maxEntries > MAX_WATCHED_ENTRIES)
      throw new HyperturtleError(
        'HT_USAGE',
        `map '${params.map}' has up to ${first.info.maxEntries} entries: say which keys, or dump it; at most ${MAX_WATCHED_ENTRIES} are watched without keys`,
      );
    const seen = new Map<string, { digest: string; round: number }>();
    let round = 0;
    let cursor: Uint8Array | undefined;
    let at = 0;
    return {
      tick: (send) => {
        const map = tableOf(objects, params);
        const changes: MapChange[] = [];
        const look = (key: Uint8Array, values: Uint8Array[] | undefined): void => {
          const name = base64(key);
          const before = seen.get(name);
          if (!values) {
            if (before) changes.push({ key: name, value: null });
            seen.delete(name);
            return;
          }
          const digest = digestOf(values);
          seen.set(name, { digest, round });
          if (before?.digest === digest) return;
          if (map.info.perCpu) changes.push({ key: name, value: null, perCpu: values.map(base64) });
          else changes.push({ key: name, value: base64(values[0] ?? new Uint8Array()) });
        };
        if (keys) {
          for (let n = this.#work.takeSome(keys.length); n > 0; n--) {
            const key = keys[at++ % keys.length];
            if (key) look(key, map.get(key));
          }
        } else {
          const most = this.#work.takeSome(MAX_WATCHED_ENTRIES);
          if (most === 0) return;
          const page = map.page(most, cursor);
          for (const entry of page.entries) look(entry.key, entry.values);
          cursor = page.next;
          if (cursor === undefined) {
            // the map's end: what was not met on the way has gone
            for (const [name, entry] of seen)
              if (entry.round !== round) {
                seen.delete(name);
                changes.push({ key: name, value: null });
              }
            round++;
          }
        }
        // a notification that was dropped is not told again: `dropped` says so
        inParts(changes, send);
      },
      close: () => seen.clear(),
    };
  }
}

function digestOf(values: readonly Uint8Array[]): string {
  const hash = createHash('sha1');
  for (const v of values) hash.update(v);
  return hash.digest('base64');
}

function inParts(changes: readonly MapChange[], send: Send): void {
  let part: MapChange[] = [];
  let bytes = 0;
  const sizeOf = (c: MapChange): number =>
    c.key.length + (c.value?.length ?? 0) + (c.perCpu ?? []).reduce((n, v) => n + v.length, 0);
  for (const change of changes) {
    const size = sizeOf(change);
    if (part.length > 0 && bytes + size > NOTIFICATION_BYTES) {
      send(part);
      part = [];
      bytes = 0;
    }
    part.push(change);
    bytes += size;
  }
  if (part.length > 0) send(part);
}
