/**
 * How the clients of the network programs reach their maps: over the wire from an L1, or by descriptors where the
 * program was loaded by this process. One object's maps, by name.
 */
import { HyperturtleError } from '../core/errors.ts';
import type { Params, Result } from '../wire/schema.ts';

interface MapContents {
  key: Uint8Array;
  /** One value; of a per-CPU map one for each possible CPU. */
  values: Uint8Array[];
}

export interface MapAccess {
  /** Undefined without the key. */
  get(map: string, key: Uint8Array): Promise<Uint8Array[] | undefined>;
  /** A per-CPU map gets the value for each CPU. */
  set(map: string, key: Uint8Array, value: Uint8Array): Promise<void>;
  /** False when there was no such key. */
  delete(map: string, key: Uint8Array): Promise<boolean>;
  dump(map: string): Promise<MapContents[]>;
}

type MapMethod = 'map.get' | 'map.set' | 'map.delete' | 'map.dump';
/** One request to the agent or the host. */
export type Ask = <M extends MapMethod>(method: M, params: Params<M>) => Promise<Result<M>>;

const PAGE = 1024;

/** Maps of a loaded object over the wire. Throws what the other side answers. */
export function wireMaps(ask: Ask, object: string): MapAccess {
  const text = (b: Uint8Array): string => Buffer.from(b).toString('base64');
  const bytes = (s: string): Uint8Array => Buffer.from(s, 'base64');
  return {
    async get(map, key) {
      const r = await ask('map.get', { object, map, key: text(key) });
      if (r.perCpu) return r.perCpu.map(bytes);
      return r.value === null ? undefined : [bytes(r.value)];
    },
    async set(map, key, value) {
      await ask('map.set', { object, map, key: text(key), value: text(value) });
    },
    async delete(map, key) {
      return (await ask('map.delete', { object, map, key: text(key) })).existed;
    },
    async dump(map) {
      const all: MapContents[] = [];
      let cursor: string | undefined;
      do {
        const page: Result<'map.dump'> = await ask('map.dump', {
          object,
          map,
          limit: PAGE,
          ...(cursor === undefined ? {} : { cursor }),
        });
        for (const e of page.entries)
          all.push({
            key: bytes(e.key),
            values: e.perCpu?.map(bytes) ?? (e.value === undefined ? [] : [bytes(e.value)]),
          });
        cursor = page.cursor;
      } while (cursor !== undefined);
      return all;
    },
  };
}

export function index(n: number): Uint8Array {
  const key = new Uint8Array(4);
  new DataView(key.buffer).setUint32(0, n, true);
  return key;
}

/** An entry that arrays always have. Throws HT_NOT_FOUND when the object is not what it was taken for. */
export async function entry(maps: MapAccess, map: string, n: number): Promise<Uint8Array[]> {
  const values = await maps.get(map, index(n));
  if (values && values.length > 0) return values;
  throw new HyperturtleError('HT_NOT_FOUND', `map '${map}' has no entry ${n}: is this the program's object?`);
}

export async function one(maps: MapAccess, map: string, n: number): Promise<Uint8Array> {
  return (await entry(maps, map, n))[0]!;
}
