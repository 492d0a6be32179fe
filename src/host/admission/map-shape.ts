/**
 * What the kernel refuses of a map's definition, and what libbpf makes of it before: read in htab_map_alloc_check(),
 * array_map_alloc_check() and ringbuf_map_alloc() of 6.1 and 6.12, and in libbpf's adjust_ringbuf_sz() (1.1 and later).
 */
import {
  BPF_MAP_TYPE_ARRAY,
  BPF_MAP_TYPE_PERCPU_ARRAY,
  BPF_MAP_TYPE_PERCPU_HASH,
  BPF_MAP_TYPE_RINGBUF,
} from '../../kernel/bpf.ts';
import type { MapShape } from './map-bytes.ts';

const PAGE = 4096;
const U32 = 2 ** 32;
const INT_MAX = 2 ** 31 - 1;
/** KMALLOC_MAX_SIZE without struct htab_elem, on x86-64. */
const HASH_BYTES = (4 << 20) - 48;
/** PCPU_MIN_UNIT_SIZE: a value of one CPU. */
const PERCPU_BYTES = 32 << 10;
const BOTH = (1 << 7) | (1 << 8);

/** A ring buffer is a power of two of pages: libbpf makes the next one of what is asked for. The rest stays. */
export function asLoaded<S extends MapShape>(m: S): S {
  if (m.type !== BPF_MAP_TYPE_RINGBUF || m.maxEntries === 0) return m;
  const bytes = PAGE * 2 ** Math.ceil(Math.log2(Math.ceil(m.maxEntries / PAGE)));
  return bytes < U32 ? { ...m, maxEntries: bytes } : m;
}

export interface ShapeProblem {
  message: string;
  mend: string;
}

/** Problem of a shape as `asLoaded` gives it. The arena's is checked elsewhere. */
export function shapeProblem(m: MapShape): ShapeProblem | undefined {
  const no = (message: string, mend: string): ShapeProblem => ({ message, mend });
  if (m.maxEntries === 0)
    return m.type === BPF_MAP_TYPE_RINGBUF
      ? no('a ring buffer of max_entries 0', 'its size in bytes: __uint(max_entries, 4096)')
      : no('max_entries 0', 'at least one: __uint(max_entries, 1)');
  if ((m.flags & BOTH) === BOTH)
    return no('BPF_F_RDONLY_PROG and BPF_F_WRONLY_PROG together', 'leave one of them out');
  if (m.type === BPF_MAP_TYPE_RINGBUF) {
    if (m.keyBytes !== 0 || m.valueBytes !== 0)
      return no(
        'a ring buffer with a key or a value',
        'leave key and value out: records have the size that is reserved',
      );
    if (m.maxEntries % PAGE !== 0 || !Number.isInteger(Math.log2(m.maxEntries)))
      return no(`a ring buffer of ${m.maxEntries} bytes`, 'at most 2147483648');
    return undefined;
  }
  if (m.valueBytes === 0) return no('a value of 0 bytes', 'give it a type with __type(value, ...)');
  const array = m.type === BPF_MAP_TYPE_ARRAY || m.type === BPF_MAP_TYPE_PERCPU_ARRAY;
  if (array && m.keyBytes !== 4)
    return no(`a key of ${m.keyBytes} bytes`, 'of an array it has 4: __type(key, __u32)');
  if (m.keyBytes === 0) return no('a key of 0 bytes', 'give it a type with __type(key, ...)');
  const perCpu = m.type === BPF_MAP_TYPE_PERCPU_ARRAY || m.type === BPF_MAP_TYPE_PERCPU_HASH;
  if (!array && m.keyBytes + m.valueBytes >= HASH_BYTES)
    return no(
      `${m.keyBytes} and ${m.valueBytes} bytes of key and value`,
      `less than ${HASH_BYTES} together: take several entries`,
    );
  const most = perCpu ? PERCPU_BYTES : INT_MAX;
  if ((perCpu ? Math.ceil(m.valueBytes / 8) * 8 : m.valueBytes) > most)
    return no(`a value of ${m.valueBytes} bytes`, `at most ${most}: take several entries`);
  return undefined;
}
