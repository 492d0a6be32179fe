/** MapAccess of the network clients by descriptors of an object that this process has loaded. */
import { HyperturtleError } from '../core/errors.ts';
import type { MapAccess } from '../net/maps.ts';
import type { OwnedFd } from './fds.ts';
import { MapAccess as FdMap } from './map-ops.ts';
import type { BpfObject } from './object.ts';

/** Borrows the object, which must stay open. */
export function localMaps(object: BpfObject): MapAccess {
  const opened = new Map<string, FdMap>();
  const of = (name: string): FdMap => {
    let map = opened.get(name);
    if (!map) {
      // never closed through this: the object owns it
      map = new FdMap({ fd: object.mapFd(name), what: `map '${name}'` } as OwnedFd);
      opened.set(name, map);
    }
    return map;
  };
  const now = <T>(f: () => T): Promise<T> => new Promise((resolve) => resolve(f()));
  return {
    get: (map, key) => now(() => of(map).get(key)),
    set: (map, key, value) => now(() => of(map).set(key, value)),
    delete: (map, key) => now(() => of(map).delete(key)),
    dump: (map) =>
      now(() => {
        const page = of(map).page(Number.MAX_SAFE_INTEGER);
        if (page.next !== undefined) throw new HyperturtleError('HT_BPF', `map '${map}' has no end`);
        return page.entries;
      }),
  };
}
