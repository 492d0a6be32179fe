/** Reading and writing any map through its descriptor, no matter who created it. */
import { HyperturtleError } from '../core/errors.ts';
import { readKernelFile } from '../core/files.ts';
import { BPF_MAP_INFO, PER_CPU_MAP_TYPES, mapTypeName } from '../kernel/bpf.ts';
import { errnoName } from '../kernel/errno.ts';
import type { OwnedFd } from './fds.ts';
import { failureOf, libbpf } from './libbpf.ts';
import { infoOf } from './map.ts';
import { kernelError } from './sys.ts';
import type { Explain } from './sys.ts';

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

/** BPF_ANY, BPF_NOEXIST, BPF_EXIST */
const MODE: Readonly<Record<MapSetMode, number>> = { any: 0, create: 1, exist: 2 };

const EXPLAIN: Explain = {
  EPERM: ['HT_USAGE', 'the map is read-only, or user space may not do this with it'],
  EEXIST: ['HT_EXISTS', 'there is this key already'],
  ENOENT: ['HT_NOT_FOUND', 'there is no such key'],
  E2BIG: ['HT_NO_SPACE', 'the map is full, or the index is beyond its end'],
  ENOMEM: ['HT_NO_MEMORY', 'the kernel has not enough memory'],
  EINVAL: ['HT_USAGE', 'maps of this type do not allow it'],
  ENOTSUPP: ['HT_USAGE', 'maps of this type do not allow it'],
  EOPNOTSUPP: ['HT_USAGE', 'maps of this type do not allow it'],
};

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

/** Kernel memory of a map in bytes (`memlock` of its fdinfo; exact since Linux 6.4, 0 for some types before). */
export function mapMemoryBytes(file: OwnedFd): number {
  const text = readKernelFile(`/proc/self/fdinfo/${file.fd}`);
  return Number(/^memlock:\s*(\d+)$/m.exec(text)?.[1] ?? 0);
}

let cpus: number | undefined;

const POSSIBLE = '/sys/devices/system/cpu/possible';

/** CPUs that the kernel may ever have: per-CPU maps hold that many values for a key. Throws HT_KERNEL. */
export function possibleCpus(): number {
  return (cpus ??= countCpus(readKernelFile(POSSIBLE)));
}

/** CPUs in a list of the kernel's, such as `0-3,8`. Throws HT_KERNEL for what is none. */
export function countCpus(list: string): number {
  const ranges = list
    .trim()
    .split(',')
    .map((range) => /^(\d+)(?:-(\d+))?$/.exec(range));
  return ranges.reduce((sum, range) => {
    if (range === null || Number(range[2] ?? range[1]) < Number(range[1]))
      throw new HyperturtleError(
        'HT_KERNEL',
        `${POSSIBLE}: expected a list of CPUs such as 0-3,8, got '${list.trim()}'`,
      );
    return sum + Number(range[2] ?? range[1]) - Number(range[1]) + 1;
  }, 0);
}

/** Access to one map. Borrows the descriptor: closing it stays the owner's. */
export class MapAccess {
  readonly file: OwnedFd;
  readonly info: MapInfo;
  /** From one CPU's value to the next; of other maps, the value's size. */
  readonly #stride: number;
  readonly #bytes: number;

  constructor(file: OwnedFd) {
    this.file = file;
    this.info = mapInfo(file);
    const { valueBytes, perCpu } = this.info;
    this.#stride = perCpu ? Math.ceil(valueBytes / 8) * 8 : valueBytes;
    this.#bytes = perCpu ? this.#stride * possibleCpus() : valueBytes;
  }

  /** The values (one, or one for each possible CPU), or undefined without the key. */
  get(key: Uint8Array): Uint8Array[] | undefined {
    this.#checkKey(key);
    const value = new Uint8Array(this.#bytes);
    // SAFETY: the kernel writes one value, or one padded to 8 for each possible CPU: #bytes.
    const r = libbpf().map_lookup(this.file.fd, key, value);
    if (r >= 0) return this.#split(value);
    const errno = failureOf(r);
    if (errnoName(errno) === 'ENOENT') return undefined;
    throw kernelError(`reading ${this.file.what}`, errno, EXPLAIN);
  }

  /**
   * A per-CPU map gets `value` for each CPU, or `value` holds all of them one after the other, padded to 8 bytes.
   * Throws HT_USAGE for wrong sizes, HT_EXISTS, HT_NOT_FOUND, HT_NO_SPACE.
   */
  set(key: Uint8Array, value: Uint8Array, mode: MapSetMode = 'any'): void {
    this.#checkKey(key);
    // SAFETY: the kernel reads as many bytes as get() lets it write; #joined gives exactly that many.
    const r = libbpf().map_update(this.file.fd, key, this.#joined(value), MODE[mode]);
    if (r < 0) throw kernelError(`writing ${this.file.what}`, failureOf(r), EXPLAIN);
  }

  /** False when there was no such key. Arrays throw HT_USAGE: their entries cannot be deleted. */
  delete(key: Uint8Array): boolean {
    this.#checkKey(key);
    // SAFETY: the kernel reads key_size bytes, which `key` has.
    const r = libbpf().map_delete(this.file.fd, key);
    if (r >= 0) return true;
    const errno = failureOf(r);
    if (errnoName(errno) === 'ENOENT') return false;
    throw kernelError(`deleting from ${this.file.what}`, errno, EXPLAIN);
  }

  /** The first key, or the one after `key`; undefined at the end. Of a hash whose `key` has gone: the first again. */
  nextKey(key?: Uint8Array): Uint8Array | undefined {
    if (key) this.#checkKey(key);
    const next = new Uint8Array(this.info.keyBytes);
    // SAFETY: the kernel reads key_size bytes when there is a key, and writes key_size bytes.
    const r = libbpf().map_next_key(this.file.fd, key ?? null, next);
    if (r >= 0) return next;
    const errno = failureOf(r);
    if (errnoName(errno) === 'ENOENT') return undefined;
    throw kernelError(`keys of ${this.file.what}`, errno, EXPLAIN);
  }

  /** Up to `limit` entries after key `after`. Entries that go in between are left out. */
  page(limit: number, after?: Uint8Array): MapPage {
    const entries: MapEntry[] = [];
    let last = after;
    for (let seen = 0; seen < limit; seen++) {
      const key = this.nextKey(last);
      if (key === undefined) return { entries, next: undefined };
      last = key;
      const values = this.get(key);
      if (values) entries.push({ key, values });
    }
    return { entries, next: last };
  }

  #split(value: Uint8Array): Uint8Array[] {
    if (!this.info.perCpu) return [value];
    const values: Uint8Array[] = [];
    for (let at = 0; at < value.length; at += this.#stride)
      values.push(value.slice(at, at + this.info.valueBytes));
    return values;
  }

  #joined(value: Uint8Array): Uint8Array {
    if (value.length === this.#bytes) return value;
    if (value.length !== this.info.valueBytes)
      throw new HyperturtleError(
        'HT_USAGE',
        `${this.file.what}: a value of ${this.info.valueBytes} bytes expected${
          this.info.perCpu ? `, or ${this.#bytes} for all CPUs` : ''
        }, ${value.length} found`,
      );
    const all = new Uint8Array(this.#bytes);
    for (let at = 0; at < all.length; at += this.#stride) all.set(value, at);
    return all;
  }

  #checkKey(key: Uint8Array): void {
    if (this.info.keyBytes === 0)
      throw new HyperturtleError(
        'HT_USAGE',
        `${this.file.what}: a ${this.info.typeName} map has no keys: watch it instead`,
      );
    if (key.length !== this.info.keyBytes)
      throw new HyperturtleError(
        'HT_USAGE',
        `${this.file.what}: a key of ${this.info.keyBytes} bytes expected, ${key.length} found`,
      );
  }
}
