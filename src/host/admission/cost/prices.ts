/**
 * What instructions and helpers may take on a slow core, in nanoseconds: some three times what BPF_PROG_TEST_RUN showed
 * on a core of 3 GHz. What memory takes is an assumption. docs/admission.md has the table, and says what is left out.
 */
import {
  BPF_MAP_TYPE_ARRAY,
  BPF_MAP_TYPE_HASH,
  BPF_MAP_TYPE_LRU_HASH,
  BPF_MAP_TYPE_PERCPU_ARRAY,
  BPF_MAP_TYPE_PERCPU_HASH,
  mapTypeName,
} from '../../../kernel/bpf.ts';
import {
  ALU_END,
  CLASS_ALU,
  CLASS_ALU64,
  CLASS_JMP,
  CLASS_JMP32,
  CLASS_LDX,
  CLASS_MASK,
  JMP_JA,
  OPERATION_MASK,
  OP_ATOMIC32,
  OP_ATOMIC64,
  OP_CALL,
  OP_EXIT,
  OP_JA32,
  OP_LD_IMM64,
} from '../../../kernel/bpf-insn.ts';
import type { Insn } from '../../../kernel/bpf-insn.ts';
import type { CheckedMap } from '../verdict.ts';

export const PRICES = {
  arithmetic: 1,
  multiply: 3,
  divide: 15,
  /** Half of them predicted wrong. */
  branch: 10,
  jump: 1,
  call: 3,
  load: 2,
  store: 2,
  atomic: 25,
  /** The first access to 64 bytes of a map, a frame or a record, on top: nothing caches it, nor its page's address. */
  far: 150,
} as const;

const MUL = 0x20;
const DIV = 0x30;
const MOD = 0x90;

/** Without calls, which have prices of their own. */
export function priceOf(i: Insn): number {
  const cls = i.op & CLASS_MASK;
  if (i.op === OP_LD_IMM64) return PRICES.arithmetic;
  if (i.op === OP_ATOMIC32 || i.op === OP_ATOMIC64) return PRICES.atomic;
  if (i.op === OP_CALL || i.op === OP_EXIT) return PRICES.call;
  if (cls === CLASS_JMP || cls === CLASS_JMP32)
    return (i.op & OPERATION_MASK) === JMP_JA || i.op === OP_JA32 ? PRICES.jump : PRICES.branch;
  if (cls === CLASS_ALU || cls === CLASS_ALU64) {
    const op = i.op & OPERATION_MASK;
    if (op === DIV || op === MOD) return PRICES.divide;
    return op === MUL || op === ALU_END ? PRICES.multiply : PRICES.arithmetic;
  }
  return cls === CLASS_LDX ? PRICES.load : PRICES.store;
}

/** Copying a byte, and hashing and comparing a byte of a key (jhash of kernel/bpf/hashtab.c). */
const COPY = 0.25;
const HASH = 1.3;
/** A record whose reader is woken: an interrupt to the own CPU. */
const WAKE = 8000;
const BPF_RB_NO_WAKEUP = 1;
/** Most of a frame: 64 KiB and a header. */
const FRAME_BYTES = 65_600;
/** Elements that an LRU map evicts at once (LOCAL_FREE_TARGET of kernel/bpf/bpf_lru_list.c), each somewhere in memory. */
const LRU_BATCH = 6000;

export interface Price {
  ns: number;
  /** What is dear about it. */
  why: string;
  /** Once a run on top, however often. */
  once?: { key: string; ns: number };
}

/** `argument(n)`: what is in register n, when that is one number. `map`: null when it may be any of `maps`. */
export function helperPrice(
  name: string,
  map: CheckedMap | null,
  maps: readonly CheckedMap[],
  argument: (n: number) => number | undefined,
  cpus: number,
): Price {
  if (map === null && /^(map_|ringbuf_(output|reserve|query))/.test(name)) {
    const each = maps.map((m) => helperPrice(name, m, maps, argument, cpus));
    return each.reduce((a, b) => (b.ns + (b.once?.ns ?? 0) > a.ns + (a.once?.ns ?? 0) ? b : a), {
      ns: 0,
      why: name,
    });
  }
  const plain = OTHER.get(name);
  if (plain !== undefined) return { ns: plain, why: name };
  const of = map ? `${name} of ${map.type} '${map.name}'` : name;
  const bytes = (n: number, most: number): number => Math.min(Math.max(argument(n) ?? most, 0), most);
  const wake = (flags: number): number => ((argument(flags) ?? 0) & BPF_RB_NO_WAKEUP ? 0 : WAKE);
  if (name.endsWith('load_bytes')) {
    const n = bytes(4, FRAME_BYTES);
    return { ns: 30 + 2 * PRICES.far + n * COPY, why: `${name} of ${n} bytes` };
  }
  if (name === 'ringbuf_output') {
    const n = bytes(3, map?.maxEntries ?? 0);
    return { ns: 150 + PRICES.far + n * COPY + wake(4), why: `${of}, ${n} bytes` };
  }
  if (name === 'ringbuf_reserve') return { ns: 150 + PRICES.far, why: of };
  if (name === 'ringbuf_submit' || name === 'ringbuf_discard') return { ns: 50 + wake(2), why: name };
  return { why: of, ...mapPrice(name, map, cpus) };
}

const OTHER: ReadonlyMap<string, number> = new Map([
  ['ktime_get_ns', 100],
  ['ktime_get_boot_ns', 100],
  ['ktime_get_coarse_ns', 15],
  ['jiffies64', 5],
  ['get_prandom_u32', 15],
  ['get_smp_processor_id', 5],
  ['ringbuf_query', 10],
  ['xdp_get_buff_len', 5],
]);

function mapPrice(name: string, map: CheckedMap | null, cpus: number): Omit<Price, 'why'> {
  if (!map) return { ns: 0 };
  const { keyBytes: key, valueBytes: value } = map;
  const isArray = [BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY].some((t) => mapTypeName(t) === map.type);
  const isHash = [BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_PERCPU_HASH].some(
    (t) => mapTypeName(t) === map.type,
  );
  if (!isArray && !isHash) return { ns: 20 };
  const copied = value * COPY + (value > 0 ? PRICES.far : 0);
  if (isArray) return { ns: name === 'map_update_elem' ? 20 + copied : 5 };
  const hashed = 20 + key * HASH + 2 * PRICES.far;
  if (name.startsWith('map_lookup')) return { ns: hashed };
  if (name === 'map_delete_elem') return { ns: hashed + 130 };
  const perCpu = map.type === mapTypeName(BPF_MAP_TYPE_PERCPU_HASH);
  const made = key * COPY + copied * (perCpu ? cpus : 1);
  const ns = hashed + 130 + made;
  return map.type === mapTypeName(BPF_MAP_TYPE_LRU_HASH)
    ? { ns: ns + 200, once: { key: `lru ${map.name}`, ns: LRU_BATCH } }
    : { ns };
}
