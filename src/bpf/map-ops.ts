/** Reading and writing any map through its descriptor, whoever created it. */
import { BPF_MAP_INFO, PER_CPU_MAP_TYPES, mapTypeName } from '../kernel/bpf.ts';
import type { OwnedFd } from './fds.ts';
import { infoOf } from './map.ts';

export interface MapInfo {
  id: number;
  /** As the kernel keeps it: at most 15 characters. */
  name: string;
  type: number;
  /** `array`, `hash`, ...; `type 77` when unknown. */
  typeName: string;
  keyBytes: number;
  valueBytes: number;
  maxEntries: number;
  flags: number;
  /** Values are one for each possible CPU. */
  perCpu: boolean;
}

/** `create` fails with HT_EXISTS when there is the key, `exist` with HT_NOT_FOUND when there is not. */
export type MapSetMode = 'any' | 'create' | 'exist';

export interface MapEntry {
  key: Uint8Array;
  /** One value, or one for each possible CPU. */
  values: Uint8Array[];
}

export interface MapPage {
  entries: MapEntry[];
  /** Key to go on after; undefined at the end. */
  next: Uint8Array | undefined;
}

export function mapInfo(file: OwnedFd): MapInfo {
  const i = BPF_MAP_INFO.decode(infoOf(file.what, file.fd, BPF_MAP_INFO.size));
  return {
    id: i.id,
    name: i.name,
    type: i.type,
    typeName: mapTypeName(i.type),
    keyBytes: i.key_size,
    valueBytes: i.value_size,
    maxEntries: i.max_entries,
    flags: i.map_flags,
    perCpu: PER_CPU_MAP_TYPES.has(i.type),
  };
}

/** Access to one map. Borrows the descriptor: closing it stays the owner's. */
export class MapAccess {
  readonly file: OwnedFd;
  readonly info: MapInfo;

  constructor(file: OwnedFd) {
    this.file = file;
    this.info = mapInfo(file);
  }

  /** The values (one, or one for each possible CPU), or undefined without the key. */
  get(key: Uint8Array): Uint8Array[] | undefined {
    void key;
    throw new Error('not implemented yet');
  }

  /** A per-CPU map gets the value for each CPU, or `value` may hold all of them one after the other, padded to 8. */
  set(key: Uint8Array, value: Uint8Array, mode: MapSetMode = 'any'): void {
    void [key, value, mode];
    throw new Error('not implemented yet');
  }

  /** False when there was no such key. Arrays throw HT_USAGE: their entries cannot be deleted. */
  delete(key: Uint8Array): boolean {
    void key;
    throw new Error('not implemented yet');
  }

  /** The first key, or the one after `key`; undefined at the end. Of a hash whose `key` has gone: the first again. */
  nextKey(key?: Uint8Array): Uint8Array | undefined {
    void key;
    throw new Error('not implemented yet');
  }

  /** Up to `limit` entries after key `after`. Entries that go in between are left out. */
  page(limit: number, after?: Uint8Array): MapPage {
    void [limit, after];
    throw new Error('not implemented yet');
  }
}
