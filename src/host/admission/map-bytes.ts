/** How much memory a map will take, before it exists: the sums of the kernel's *_map_mem_usage() (6.4 to 6.18). */
import {
  BPF_F_MMAPABLE,
  BPF_MAP_TYPE_ARRAY,
  BPF_MAP_TYPE_LRU_HASH,
  BPF_MAP_TYPE_PERCPU_ARRAY,
  BPF_MAP_TYPE_PERCPU_HASH,
  BPF_MAP_TYPE_RINGBUF,
} from '../../kernel/bpf.ts';

export interface MapShape {
  type: number;
  keyBytes: number;
  valueBytes: number;
  maxEntries: number;
  flags: number;
}

const PAGE = 4096;
/** struct bpf_map with what each type adds, generously. */
const HEAD = 1024;
const HASH_ELEMENT = 48;
const HASH_BUCKET = 16;
/** Locks, spare elements and LRU lists of one CPU. */
const HASH_CPU = 512;

const up = (n: number, to: number): number => Math.ceil(n / to) * to;

export function mapBytes(m: MapShape, cpus: number): number {
  const value = up(m.valueBytes, 8);
  switch (m.type) {
    case BPF_MAP_TYPE_ARRAY:
      return m.flags & BPF_F_MMAPABLE ? PAGE + up(value * m.maxEntries, PAGE) : HEAD + value * m.maxEntries;
    case BPF_MAP_TYPE_PERCPU_ARRAY:
      return HEAD + m.maxEntries * (8 + value * cpus);
    case BPF_MAP_TYPE_RINGBUF:
      return HEAD + 4 * PAGE + m.maxEntries + (m.maxEntries / PAGE) * 16;
    default: {
      // all hash types: elements exist before they are used
      const perCpu = m.type === BPF_MAP_TYPE_PERCPU_HASH;
      const element = HASH_ELEMENT + up(m.keyBytes, 8) + (perCpu ? 8 + value * cpus : value);
      const spare = perCpu || m.type === BPF_MAP_TYPE_LRU_HASH ? 0 : cpus;
      const buckets = 2 ** Math.ceil(Math.log2(Math.max(m.maxEntries, 1)));
      return HEAD + buckets * HASH_BUCKET + (m.maxEntries + spare) * element + cpus * HASH_CPU;
    }
  }
}
