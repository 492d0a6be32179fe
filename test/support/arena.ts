/** An arena as L1's module would lay it out, small, for runs of programs without a guest. */
import {
  HT_ARENA_HEADER,
  HT_ARENA_MAGIC,
  HT_ARENA_VERSION,
  HT_ARENA_VERSION_LARGE,
  HT_CPU,
  HT_L2,
  HT_L2_ON,
  HT_LARGE_ENTRIES,
  HT_POOL,
  HT_POOL0_OFF,
  HT_WORD_PRESENT,
} from '../../src/kernel/arena.ts';
import type { StructValue } from '../../src/kernel/struct.ts';
import { viewOf } from '../../src/kernel/struct.ts';

export type Header = StructValue<typeof HT_ARENA_HEADER.fields>;
export type L2 = StructValue<typeof HT_L2.fields>;

export const ARENA_BYTES = 1 << 20;
const CPUS_OFF = 0x1000;
const CPUS = 8;
const L2_OFF = 0x2000;
const L2S = 4;
const POOL_OFF = 0x4000;
const POOL_ENTRIES = 1024;
const LARGE_POOL_OFF = 0x6000;
const LARGE_OFF = 0x7000;
export const INDEX_OFF = 0x10000;
/** Pages of the one slot. */
export const PAGES = 1 << 14;
export const FIRST_GFN = 0x1000;

/** The one slot. */
export const SLOT = { gfn: FIRST_GFN, npages: PAGES, word_off: INDEX_OFF, small: 0 };

/** L1 frame address of the n-th frame in the pool. */
export const poolFrame = (n: number): bigint => BigInt(0x100000 + n) << 12n;

/** L1 frame address of the n-th frame in the pool of 2 MiB frames. */
export const largeFrame = (n: number): bigint => BigInt(0x40000000 + n * 0x200000);

/** The same of the second pool. */
export const secondFrame = (n: number): bigint => poolFrame(0x10000 + n);
export const secondLargeFrame = (n: number): bigint => largeFrame(0x100 + n);
const SECOND_ENTRIES = POOL_ENTRIES / 2;

/** What can be changed of the default: L2 number 1 on CPU 0, one slot, `frames` in the pool, template learned. */
export interface ArenaSpec {
  frames?: number;
  header?: Partial<Header>;
  l2?: Partial<L2>;
  runsOnCpu0?: number;
  /** Root that L1's KVM runs it with; faults of these tests have root 0. */
  root?: bigint;
  /** 2 MiB frames in their pool; undefined: L1 has no 2 MiB pages. */
  largeFrames?: number;
  /** A second pool, of another NUMA node, with so many frames and 2 MiB frames; the slot's frames come from there. */
  second?: { frames: number; large: number };
  /** A frame of the first pool that CPU 0 has in hand. */
  spare?: bigint;
  /** Words of granules. */
  granules?: Record<number, bigint>;
  /** Words of the index by page of the slot. */
  words?: Record<number, bigint>;
}

export class ArenaImage {
  readonly bytes: Uint8Array;
  readonly #view: DataView;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.#view = viewOf(bytes);
  }

  static build(spec: ArenaSpec = {}): ArenaImage {
    const a = new ArenaImage(new Uint8Array(ARENA_BYTES));
    const frames = spec.frames ?? 512;
    HT_ARENA_HEADER.write(a.#view, 0, {
      ...a.header,
      magic: HT_ARENA_MAGIC,
      version: HT_ARENA_VERSION,
      header_bytes: HT_ARENA_HEADER.size,
      arena_bytes: ARENA_BYTES,
      enabled: 1,
      cpus_off: CPUS_OFF,
      cpus_count: CPUS,
      l2_off: L2_OFF,
      l2_count: L2S,
      pool_off: POOL_OFF,
      pool_entries: POOL_ENTRIES,
      index_off: INDEX_OFF,
      index_words: (ARENA_BYTES - INDEX_OFF) / 8,
      group_max: 64,
      pool_low: 64,
      pool_tail: frames,
      ...(spec.largeFrames === undefined
        ? {}
        : {
            version: HT_ARENA_VERSION_LARGE,
            large_off: LARGE_OFF,
            large_pool_off: LARGE_POOL_OFF,
            large_entries: HT_LARGE_ENTRIES,
            large_tail: spec.largeFrames,
          }),
      ...spec.header,
    });
    for (let i = 0; i < (spec.largeFrames ?? 0); i++)
      a.#view.setBigUint64(LARGE_POOL_OFF + 8 * i, largeFrame(i) | HT_WORD_PRESENT, true);
    for (const [granule, word] of Object.entries(spec.granules ?? {}))
      a.#view.setBigUint64(LARGE_OFF + 8 * Number(granule), word, true);
    if (spec.second) {
      a.#addSecondPool(spec.second);
      HT_ARENA_HEADER.write(a.#view, 0, { ...a.header, ...spec.header });
    }
    for (let i = 0; i < frames; i++)
      a.#view.setBigUint64(POOL_OFF + 8 * i, poolFrame(i) | HT_WORD_PRESENT, true);
    HT_CPU.write(a.#view, CPUS_OFF, {
      ...a.cpu0,
      l2: spec.runsOnCpu0 ?? 1,
      root: spec.root ?? 0n,
      spare: spec.spare ?? 0n,
      pools: Uint8Array.of(spec.second ? 1 : 0, ...Array<number>(7).fill(0)),
    });
    HT_L2.write(a.#view, L2_OFF + HT_L2.size, {
      ...a.l2,
      state: HT_L2_ON,
      slot_count: 1,
      frames_limit: PAGES,
      slots: [SLOT],
      template: 0x8000000000000e67n,
      ...spec.l2,
    });
    for (const [page, word] of Object.entries(spec.words ?? {}))
      a.#view.setBigUint64(INDEX_OFF + 8 * Number(page), word, true);
    return a;
  }

  #addSecondPool({ frames, large }: { frames: number; large: number }): void {
    HT_ARENA_HEADER.write(this.#view, 0, {
      ...this.header,
      pool_entries: SECOND_ENTRIES,
      pool_stride: HT_POOL.size,
      spare_stride: CPUS * HT_CPU.size,
    });
    HT_POOL.write(this.#view, HT_POOL0_OFF + HT_POOL.size, {
      head: 0,
      tail: frames,
      large_head: 0,
      large_tail: large,
    });
    for (let i = 0; i < frames; i++)
      this.#view.setBigUint64(POOL_OFF + 8 * (SECOND_ENTRIES + i), secondFrame(i) | HT_WORD_PRESENT, true);
    for (let i = 0; i < large; i++)
      this.#view.setBigUint64(
        LARGE_POOL_OFF + 8 * (HT_LARGE_ENTRIES + i),
        secondLargeFrame(i) | HT_WORD_PRESENT,
        true,
      );
  }

  get header(): Header {
    return HT_ARENA_HEADER.read(this.#view, 0);
  }

  get cpu0(): StructValue<typeof HT_CPU.fields> {
    return HT_CPU.read(this.#view, CPUS_OFF);
  }

  /** L2 number 1. */
  get l2(): L2 {
    return HT_L2.read(this.#view, L2_OFF + HT_L2.size);
  }

  word(page: number): bigint {
    return this.#view.getBigUint64(INDEX_OFF + 8 * page, true);
  }

  granule(n: number): bigint {
    return this.#view.getBigUint64(LARGE_OFF + 8 * n, true);
  }

  /** Frames that words of the slot hold, in order. */
  framesInIndex(): bigint[] {
    return Array.from({ length: PAGES }, (_, i) => this.word(i))
      .filter((w) => w !== 0n)
      .map((w) => w & ~0xfffn);
  }

  /** Frames that are still in the pool's slots. */
  framesInPool(): bigint[] {
    return Array.from({ length: POOL_ENTRIES }, (_, i) => this.#view.getBigUint64(POOL_OFF + 8 * i, true))
      .filter((w) => w !== 0n)
      .map((w) => w & ~0xfffn);
  }
}
