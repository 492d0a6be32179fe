/** Mirror of c/include/hyperturtle/arena.h: the layout of the memory that an L1 shares with its programs. */
import { aligned, array, bytes, count, reserved, struct, u32, u64 } from './struct.ts';

/** Bytes, low first: NUL, `HTARENA`. */
export const HT_ARENA_MAGIC = 0x414e455241544800n;
/** `\0HTOFFER`: L0 writes it at offset 0 before it gives the device away; L1's module binds no other device. */
export const HT_ARENA_OFFER = 0x524546464f544800n;
export const HT_ARENA_VERSION = 5;
/** With 2 MiB pages. */
export const HT_ARENA_VERSION_LARGE = 6;
export const HT_ARENA_MIN_BYTES = 1 << 20;
export const HT_ARENA_MAX_BYTES = 256 << 20;

export const HT_WORD_EMPTY = 0n;
export const HT_WORD_PRESENT = 1n;
export const HT_WORD_CLOSED = 2n;
export const HT_WORD_AHEAD = 4n;
/** Marks the word of a granule whose pages have words of their own. */
export const HT_WORD_SMALL = 8n;
export const HT_PREFETCH_PAGES = 8;
export const HT_LARGE_PAGES = 512;
export const HT_LARGE_ENTRIES = 256;

export const HT_MAX_CPUS = 1024;
export const HT_MAX_L2 = 256;
export const HT_MAX_SLOTS = 8;
export const HT_GROUP_MAX = 64;

export const HT_PAGE_SHIFT = 12;
export const HT_PAGE_SIZE = 4096;
/** Bits 51..12 of a page table entry. */
export const HT_PFN_MASK = 0x000ffffffffff000n;

export const HT_L2_OFF = 0;
export const HT_L2_ON = 1;

export const HT_ARENA_HEADER = struct('struct ht_arena_header', {
  magic: u64,
  version: u32,
  header_bytes: u32,
  arena_bytes: count,
  enabled: count,
  epoch: u64,
  cpus_off: count,
  cpus_count: count,
  l2_off: count,
  l2_count: count,
  pool_off: count,
  pool_entries: count,
  index_off: count,
  index_words: count,
  group_max: count,
  pool_low: count,
  exit_off: count,
  pool_head: aligned(128, count),
  pool_tail: aligned(128, count),
  exit_cpus: count,
  exact: count,
  large_off: count,
  large_pool_off: count,
  large_entries: count,
  large_head: count,
  large_tail: count,
  pool_stride: count,
  spare_stride: count,
  reserved1: reserved(6),
});

export const HT_MAX_POOLS = 64;
export const HT_POOL0_OFF = 128;
/** What of the header each NUMA node's pool has for itself; that of pool 0 is in the header, at HT_POOL0_OFF. */
export const HT_POOL = struct('struct ht_pool', {
  head: count,
  reserved0: reserved(15),
  tail: count,
  reserved1: reserved(5),
  large_head: count,
  large_tail: count,
  reserved2: reserved(8),
});

export const HT_SLOT = struct('struct ht_slot', {
  gfn: count,
  npages: count,
  word_off: count,
  small: count,
});

export const HT_CPU = struct('struct ht_cpu', {
  l2: count,
  spare: u64,
  taken: u64,
  spare_large: u64,
  root: u64,
  pools: bytes(HT_MAX_SLOTS, 1),
  reserved: reserved(2),
});
/** In `l2` of an L1 CPU: L1's KVM may have large entries for it. */
export const HT_CPU_LARGE = 2 ** 32;

export const HT_EXIT_CPUIDS = 32;
export const HT_EXIT_MSR_SLOTS = 32;
export const HT_EXIT_CPUID = struct('struct ht_exit_cpuid', {
  leaf: u32,
  subleaf: u32,
  eax: u32,
  ebx: u32,
  ecx: u32,
  edx: u32,
  generation: u32,
  reserved: u32,
});
export const HT_EXIT_MSR = struct('struct ht_exit_msr', { msr: u32, generation: u32, value: u64 });
/** Answers to CPUID and RDMSR of the L2 vCPU that runs on an L1 CPU. */
export const HT_EXIT_CPU = struct('struct ht_exit_cpu', {
  l2: count,
  root: u64,
  generation: u32,
  reserved0: u32,
  want: u32,
  want_arg: u32,
  want_sub: u32,
  reserved1: u32,
  reserved2: reserved(3),
  cpuids: array(HT_EXIT_CPUID, HT_EXIT_CPUIDS),
  msrs: array(HT_EXIT_MSR, HT_EXIT_MSR_SLOTS),
  reserved3: reserved(56),
});

export const HT_STREAMS = 4;
export const HT_STREAM = struct('struct ht_stream', { start: count, end: count, size: count });

export const HT_L2 = struct('struct ht_l2', {
  state: count,
  slot_count: count,
  frames_limit: count,
  group_max: count,
  slots: array(HT_SLOT, HT_MAX_SLOTS),
  reserved0: reserved(4),
  template: u64,
  frames_taken: count,
  faults: count,
  mapped_existing: count,
  mapped_new: count,
  mapped_ahead: count,
  passes: count,
  streams: array(HT_STREAM, HT_STREAMS),
  stream_hand: count,
  large_new: count,
  large_existing: count,
  reserved1: reserved(2),
});

/** Why `bytes` cannot be an arena's size, or undefined. A PCI BAR, which the arena becomes, is a power of two. */
export function arenaSizeProblem(bytes: number): string | undefined {
  if (!Number.isInteger(bytes) || bytes < HT_ARENA_MIN_BYTES || bytes > HT_ARENA_MAX_BYTES)
    return `from ${HT_ARENA_MIN_BYTES >> 20} to ${HT_ARENA_MAX_BYTES >> 20} MiB expected, ${bytes / (1 << 20)} MiB found`;
  if (2 ** Math.floor(Math.log2(bytes)) !== bytes)
    return `a power of two expected (it becomes a PCI BAR), ${bytes / (1 << 20)} MiB found`;
  return undefined;
}
