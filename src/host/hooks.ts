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
  BPF_PROG_TYPE_SCHED_CLS,
  BPF_PROG_TYPE_XDP,
} from '../kernel/bpf.ts';
import type { KvmHook } from '../kernel/host.ts';
import { SKB_FIELDS, XDP_FIELDS } from '../kernel/packet.ts';
import type { ContextField } from '../kernel/packet.ts';

/** The kernel's own hooks of a network device. */
export const PACKET_HOOKS = ['xdp', 'tc-ingress', 'tc-egress'] as const;
export type PacketHook = (typeof PACKET_HOOKS)[number];
export type HookName = KvmHook | PacketHook;

export const isPacketHook = (hook: string): hook is PacketHook => PACKET_HOOKS.some((name) => name === hook);

export interface HookSpec {
  name: HookName;
  /** What happens in L0 when it runs. */
  purpose: string;
  /** The ELF section that says that a program is for this hook, whole. */
  section: string;
  /** What libbpf makes of the section; the kernel's name and number. */
  programType: { name: string; number: number };
  /** What its first argument gives to read; left out: the argument is an array whose first word is the context. */
  context?: readonly ContextField[];
  mapTypes: readonly MapTypeSpec[];
  helpers: readonly HelperSpec[];
  /** Most instructions of one program as compiled. */
  instructions: number;
  /** Most instructions that the verifier may walk (bpf_prog_info.verified_insns). */
  verifiedInstructions: number;
  /** Most time that one run may take on a slow core, in ns, as admission/cost reckons it. */
  runNs: number;
}

interface MapTypeSpec {
  name: string;
  number: number;
  /** Bits of map_flags that may be set. */
  flags: number;
}

/**
 * What a helper takes in a register: a number; a map; memory of the map's key or value size; memory of the size in the
 * next register, to read or (`out`) to write all of, also when it fails; memory that another helper gave; the context.
 */
type HelperArgument = 'number' | 'map' | 'key' | 'value' | 'data' | 'out' | 'record' | 'context';

export interface HelperSpec {
  name: string;
  number: number;
  arguments: readonly HelperArgument[];
  /** It returns the address of memory, or NULL; else a number or nothing. */
  givesMemory: boolean;
  /** It writes to memory that an argument leads to. */
  writesMemory: boolean;
  /** The kernel gives it to GPL-compatible programs only. */
  gpl: boolean;
}

const helper = (
  name: string,
  number: number,
  args: readonly HelperArgument[],
  more: { givesMemory?: boolean; writesMemory?: boolean; gpl?: boolean } = {},
): HelperSpec => ({
  name,
  number,
  arguments: args,
  givesMemory: false,
  writesMemory: false,
  gpl: false,
  ...more,
});
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
const WRITES = { writesMemory: true } as const;
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
  helper('map_lookup_percpu_elem', 195, ['map', 'key', 'number'], MEMORY),
];

/**
 * Only of packets: where a program of a tracepoint interrupts, the clock may just be written, and reading it would never
 * end (bpf_sk_base_func_proto() has it, bpf_tracing_func_proto() has not: 6.1 and 6.12).
 */
const KTIME_GET_COARSE_NS = helper('ktime_get_coarse_ns', 160, []);

/** Copies from a frame whose head is not in one piece. */
const SKB_LOAD_BYTES = helper('skb_load_bytes', 26, ['context', 'number', 'out', 'number'], WRITES);

/**
 * The same for XDP, and how long the frame is (Linux 5.18). When it fails it leaves the memory as it was
 * (net/core/filter.c, 6.1 and 6.12), so that must have been written before.
 */
const XDP_GET_BUFF_LEN = helper('xdp_get_buff_len', 188, ['context']);
const XDP_LOAD_BYTES = helper('xdp_load_bytes', 189, ['context', 'number', 'data', 'number'], WRITES);

const packetHook = (
  name: PacketHook,
  section: string,
  purpose: string,
  more: Pick<HookSpec, 'programType' | 'context' | 'helpers'>,
): HookSpec => ({
  name,
  section,
  purpose,
  ...more,
  mapTypes: DATA_MAPS,
  instructions: 16_384,
  verifiedInstructions: 250_000,
  runNs: 20_000,
});
const SCHED_CLS = {
  programType: { name: 'sched_cls', number: BPF_PROG_TYPE_SCHED_CLS },
  context: SKB_FIELDS,
  helpers: [...DATA_HELPERS, KTIME_GET_COARSE_NS, SKB_LOAD_BYTES],
};

/** What programs in the way of a nested guest's exit have in common: they are called by a tracepoint without one. */
const RAW_TRACEPOINT = {
  programType: { name: 'raw_tracepoint_writable', number: BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE },
  mapTypes: DATA_MAPS,
  helpers: DATA_HELPERS,
  instructions: 16_384,
} as const satisfies Partial<HookSpec>;

export const HOOK_TABLE: readonly HookSpec[] = [
  {
    name: 'npf',
    purpose: "an L2's nested page fault finds no entry in L1's table",
    section: 'raw_tp.w/hyperturtle_npf',
    ...RAW_TRACEPOINT,
    verifiedInstructions: 250_000,
    runNs: 50_000,
  },
  {
    name: 'exit',
    purpose: 'an L2 exit of a kind that the link asks for is about to go to L1',
    section: 'raw_tp.w/hyperturtle_exit',
    ...RAW_TRACEPOINT,
    verifiedInstructions: 250_000,
    runNs: 50_000,
  },
  {
    name: 'sample',
    purpose: 'a timer or the cycle counter has interrupted a vCPU while it ran an L2',
    section: 'raw_tp.w/hyperturtle_sample',
    ...RAW_TRACEPOINT,
    verifiedInstructions: 32_768,
    // with interrupts off
    runNs: 10_000,
  },
  {
    name: 'call',
    purpose:
      'L1, or an L2 that it lets, calls by VMCALL or VMMCALL with a number of the link, or L1 by the channel',
    section: 'raw_tp.w/hyperturtle_call',
    ...RAW_TRACEPOINT,
    verifiedInstructions: 250_000,
    runNs: 50_000,
  },
  packetHook('xdp', 'xdp', 'a frame that L2 sends has arrived at a NIC of this VM', {
    programType: { name: 'xdp', number: BPF_PROG_TYPE_XDP },
    context: XDP_FIELDS,
    helpers: [...DATA_HELPERS, KTIME_GET_COARSE_NS, XDP_GET_BUFF_LEN, XDP_LOAD_BYTES],
  }),
  packetHook(
    'tc-ingress',
    'tc/ingress',
    'a frame that L2 sends has arrived at a NIC of this VM, behind xdp',
    SCHED_CLS,
  ),
  packetHook('tc-egress', 'tc/egress', 'a frame is about to leave through a NIC of this VM to L2', SCHED_CLS),
];

/** The hook whose section this is, or undefined. */
export function hookOfSection(
  section: string,
  hooks: readonly HookSpec[] = HOOK_TABLE,
): HookSpec | undefined {
  return hooks.find((h) => h.section === section);
}

/** The types of programs by section, for libbpf, whose own sections differ. */
export function packetProgramTypes(hooks: readonly HookSpec[] = HOOK_TABLE): Record<string, number> {
  return Object.fromEntries(
    hooks.filter((h) => isPacketHook(h.name)).map((h) => [h.section, h.programType.number]),
  );
}
