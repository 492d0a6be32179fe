/**
 * The hooks as data: where a program of a VM may run, how it names the place, and what it may use there. Admission,
 * loading and `limits` read this table; a hook that is added here needs no other code in the daemon.
 *
 * Helpers are allowed one by one. None of them reads host memory, changes what the host does, runs a callback (the
 * verified instructions would not bound the run then) or lets other programs run (tail calls).
 */
import {
  BPF_MAP_TYPE_ARRAY,
  BPF_MAP_TYPE_HASH,
  BPF_MAP_TYPE_LRU_HASH,
  BPF_MAP_TYPE_PERCPU_ARRAY,
  BPF_MAP_TYPE_PERCPU_HASH,
  BPF_MAP_TYPE_RINGBUF,
  BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE,
} from '../kernel/bpf.ts';
import type { HookName } from '../kernel/host.ts';

export interface HookSpec {
  name: HookName;
  /** What happens in L0 when it runs. */
  purpose: string;
  /** The ELF section that says that a program is for this hook, whole. */
  section: string;
  /** What libbpf makes of the section; the kernel's name and number. */
  programType: { name: string; number: number };
  mapTypes: readonly MapTypeSpec[];
  helpers: readonly HelperSpec[];
  /** Most instructions of one program as compiled. */
  instructions: number;
  /** Most instructions that the verifier may walk (bpf_prog_info.verified_insns): what one run can cost at most. */
  verifiedInstructions: number;
}

export interface MapTypeSpec {
  name: string;
  number: number;
  /** Bits of map_flags that may be set. */
  flags: number;
}

/**
 * What a helper takes in a register: a number; a map; memory of the map's key or value size; memory of the size in the
 * next register; memory that another helper gave.
 */
export type HelperArgument = 'number' | 'map' | 'key' | 'value' | 'data' | 'record';

export interface HelperSpec {
  name: string;
  number: number;
  arguments: readonly HelperArgument[];
  /** It returns the address of memory, or NULL; else a number or nothing. */
  givesMemory: boolean;
  /** The kernel gives it to GPL-compatible programs only. */
  gpl: boolean;
}

const helper = (
  name: string,
  number: number,
  args: readonly HelperArgument[],
  more: { givesMemory?: boolean; gpl?: boolean } = {},
): HelperSpec => ({ name, number, arguments: args, givesMemory: false, gpl: false, ...more });
const BPF_F_RDONLY_PROG = 1 << 7;
const BPF_F_WRONLY_PROG = 1 << 8;
const BPF_F_MMAPABLE = 1 << 10;
/** Direction of access for programs: takes rights away, never gives any. */
const ACCESS = BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG;

/** Data maps whose memory is known when they are created. */
const DATA_MAPS: readonly MapTypeSpec[] = [
  { name: 'array', number: BPF_MAP_TYPE_ARRAY, flags: ACCESS | BPF_F_MMAPABLE },
  { name: 'hash', number: BPF_MAP_TYPE_HASH, flags: ACCESS },
  { name: 'percpu_array', number: BPF_MAP_TYPE_PERCPU_ARRAY, flags: ACCESS },
  { name: 'percpu_hash', number: BPF_MAP_TYPE_PERCPU_HASH, flags: ACCESS },
  { name: 'lru_hash', number: BPF_MAP_TYPE_LRU_HASH, flags: ACCESS },
  { name: 'ringbuf', number: BPF_MAP_TYPE_RINGBUF, flags: 0 },
];

const MEMORY = { givesMemory: true } as const;
const DATA_HELPERS: readonly HelperSpec[] = [
  helper('map_lookup_elem', 1, ['map', 'key'], MEMORY),
  helper('map_update_elem', 2, ['map', 'key', 'value', 'number']),
  helper('map_delete_elem', 3, ['map', 'key']),
  helper('ktime_get_ns', 5, []),
  helper('get_prandom_u32', 7, []),
  helper('get_smp_processor_id', 8, []),
  helper('jiffies64', 118, []),
  helper('ktime_get_boot_ns', 125, []),
  helper('ringbuf_output', 130, ['map', 'data', 'number', 'number']),
  helper('ringbuf_reserve', 131, ['map', 'number', 'number'], MEMORY),
  helper('ringbuf_submit', 132, ['record', 'number']),
  helper('ringbuf_discard', 133, ['record', 'number']),
  helper('ringbuf_query', 134, ['map', 'number']),
  helper('ktime_get_coarse_ns', 160, []),
  helper('map_lookup_percpu_elem', 195, ['map', 'key', 'number'], MEMORY),
];

export const HOOK_TABLE: readonly HookSpec[] = [
  {
    name: 'npf',
    purpose: "an L2's nested page fault finds no entry in L1's table",
    section: 'raw_tp.w/hyperturtle_npf',
    programType: { name: 'raw_tracepoint_writable', number: BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE },
    mapTypes: DATA_MAPS,
    helpers: DATA_HELPERS,
    instructions: 16_384,
    verifiedInstructions: 250_000,
  },
];

/** The hook whose section this is, or undefined. */
export function hookOfSection(
  section: string,
  hooks: readonly HookSpec[] = HOOK_TABLE,
): HookSpec | undefined {
  return hooks.find((h) => h.section === section);
}
