/**
 * Seccomp's user notification (<linux/seccomp.h>), and the filter that `hyperturtle vmm` puts on a VMM: which of its calls
 * are asked about. Pure.
 */
import { iow, iowr } from './ioctl.ts';
import { array, s32, struct, u32, u64 } from './struct.ts';

export const SECCOMP_SET_MODE_FILTER = 1;
export const SECCOMP_GET_ACTION_AVAIL = 2;
export const SECCOMP_FILTER_FLAG_NEW_LISTENER = 8;
export const SECCOMP_RET_USER_NOTIF = 0x7fc0_0000;
export const SECCOMP_RET_ALLOW = 0x7fff_0000;
export const SECCOMP_USER_NOTIF_FLAG_CONTINUE = 1;
export const SECCOMP_ADDFD_FLAG_SETFD = 1;

/** A call that waits for an answer; `pid` is the thread's. */
export const SECCOMP_NOTIF = struct('struct seccomp_notif', {
  id: u64,
  pid: u32,
  flags: u32,
  'data.nr': s32,
  'data.arch': u32,
  'data.instruction_pointer': u64,
  'data.args': array(u64, 6),
});
export const SECCOMP_NOTIF_RESP = struct('struct seccomp_notif_resp', {
  id: u64,
  val: u64,
  error: s32,
  flags: u32,
});
export const SECCOMP_NOTIF_ADDFD = struct('struct seccomp_notif_addfd', {
  id: u64,
  flags: u32,
  srcfd: u32,
  newfd: u32,
  newfd_flags: u32,
});
export const SECCOMP_IOCTL_NOTIF_RECV = iowr('SECCOMP_IOCTL_NOTIF_RECV', 0x21, 0, SECCOMP_NOTIF);
export const SECCOMP_IOCTL_NOTIF_SEND = iowr('SECCOMP_IOCTL_NOTIF_SEND', 0x21, 1, SECCOMP_NOTIF_RESP);
export const SECCOMP_IOCTL_NOTIF_ID_VALID = iow('SECCOMP_IOCTL_NOTIF_ID_VALID', 0x21, 2, u64);
export const SECCOMP_IOCTL_NOTIF_ADDFD = iow('SECCOMP_IOCTL_NOTIF_ADDFD', 0x21, 3, SECCOMP_NOTIF_ADDFD);

/** x86-64 numbers of the calls that are asked about. */
export const ASKED = { mmap: 9, madvise: 28, fcntl: 72, ftruncate: 77, userfaultfd: 323 } as const;

export const PROT_WRITE = 2;
export const PROT_EXEC = 4;
export const MAP_SHARED = 1;
export const MAP_PRIVATE = 2;
export const MAP_FIXED = 0x10;
export const MAP_ANONYMOUS = 0x20;
export const MAP_32BIT = 0x40;
export const MAP_GROWSDOWN = 0x100;
export const MAP_LOCKED = 0x2000;
export const MAP_NORESERVE = 0x4000;
export const MAP_POPULATE = 0x8000;
export const MAP_NONBLOCK = 0x10000;
export const MAP_STACK = 0x20000;
export const MAP_HUGETLB = 0x40000;
export const MAP_FIXED_NOREPLACE = 0x10_0000;
export const MADV_DONTNEED = 4;
export const MADV_FREE = 8;
export const MADV_DONTNEED_LOCKED = 24;
export const F_ADD_SEALS = 1033;
export const F_GET_SEALS = 1034;
export const F_SEAL_SEAL = 1;
export const F_SEAL_GROW = 4;
export const F_SEAL_WRITE = 8;

/** Guests have whole MiB of RAM. */
const RAM_UNIT = 1 << 20;

export const AUDIT_ARCH_X86_64 = 0xc000_003e;
/** Offsets in `struct seccomp_data`. */
const NR = 0;
const ARCH = 4;
const low = (arg: number): number => 16 + 8 * arg;
const high = (arg: number): number => 20 + 8 * arg;

/** Codes of classic BPF: load a word; jump if equal, if above, if not below, if any bit is set; return. */
const LD = 0x20;
const JEQ = 0x15;
const JGT = 0x25;
const JGE = 0x35;
const JSET = 0x45;
const RET = 0x06;

type Test = readonly [code: number, k: number, yes: string | 0, no?: string];
/** Loads what is at an offset, then tests it: goes to a label, or on (0). */
interface Block {
  label?: string;
  load?: number;
  tests: readonly Test[];
}

/** Length `arg` is `minBytes` or more; no number of a call is negative here. */
const longEnough = (arg: number, minBytes: number): Block[] => [
  { load: high(arg), tests: [[JGT, 0, 'ask']] },
  { load: low(arg), tests: [[JGE, minBytes, 'ask', 'allow']] },
];

function blocks(minBytes: number): Block[] {
  return [
    { load: ARCH, tests: [[JEQ, AUDIT_ARCH_X86_64, 0, 'allow']] },
    {
      load: NR,
      tests: [
        [JEQ, ASKED.mmap, 'mmap'],
        [JEQ, ASKED.madvise, 'madvise'],
        [JEQ, ASKED.fcntl, 'fcntl'],
        [JEQ, ASKED.ftruncate, 'ftruncate'],
        [JEQ, ASKED.userfaultfd, 'ask', 'allow'],
      ],
    },
    {
      label: 'mmap',
      load: low(2),
      tests: [
        [JSET, PROT_EXEC, 'allow'],
        [JSET, PROT_WRITE, 0, 'allow'],
      ],
    },
    {
      load: low(3),
      tests: [
        [JSET, MAP_GROWSDOWN | MAP_STACK | MAP_HUGETLB, 'allow'],
        [JSET, MAP_ANONYMOUS, 0, 'allow'],
      ],
    },
    { load: low(1), tests: [[JSET, RAM_UNIT - 1, 'allow']] },
    ...longEnough(1, minBytes),
    {
      label: 'madvise',
      load: low(2),
      tests: [
        [JEQ, MADV_DONTNEED, 'ask'],
        [JEQ, MADV_FREE, 'ask'],
        [JEQ, MADV_DONTNEED_LOCKED, 'ask', 'allow'],
      ],
    },
    {
      label: 'fcntl',
      load: low(1),
      tests: [
        [JEQ, F_ADD_SEALS, 'ask'],
        [JEQ, F_GET_SEALS, 'ask', 'allow'],
      ],
    },
    { label: 'ftruncate', load: high(1), tests: [[JSET, 0x8000_0000, 'allow']] },
    ...longEnough(1, minBytes),
  ];
}

/**
 * `struct sock_filter`s, 8 bytes each. Asked about are anonymous mappings of whole MiB, from `minBytes`, that can be written and
 * are neither code, stacks nor huge pages; files made that long; seals; memory given back; userfaultfd. All else is
 * allowed without a look, and so is every call by another ABI than x86-64's.
 */
export function launchFilter(minBytes: number): Uint8Array {
  const parts = blocks(minBytes);
  const lengthOf = (b: Block): number => (b.load === undefined ? 0 : 1) + b.tests.length;
  const starts = new Map<string, number>();
  let length = 0;
  for (const b of parts) {
    if (b.label !== undefined) starts.set(b.label, length);
    length += lengthOf(b);
  }
  starts.set('ask', length).set('allow', length + 1);
  const view = new DataView(new ArrayBuffer(8 * (length + 2)));
  let at = 0;
  const emit = (code: number, k: number, yes: string | 0 = 0, no: string | 0 = 0): void => {
    const distance = (label: string | 0): number => (label === 0 ? 0 : starts.get(label)! - at - 1);
    view.setUint16(8 * at, code, true);
    view.setUint8(8 * at + 2, distance(yes));
    view.setUint8(8 * at + 3, distance(no));
    view.setUint32(8 * at + 4, k, true);
    at++;
  };
  for (const b of parts) {
    if (b.load !== undefined) emit(LD, b.load);
    for (const [code, k, yes, no] of b.tests) emit(code, k, yes, no);
  }
  emit(RET, SECCOMP_RET_USER_NOTIF);
  emit(RET, SECCOMP_RET_ALLOW);
  return new Uint8Array(view.buffer);
}
