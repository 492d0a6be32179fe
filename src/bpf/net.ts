/**
 * eBPF programs on network devices, by the kernel's own means: links (XDP; tcx since Linux 6.6), which end with their
 * descriptor, and filters of the clsact qdisc, which do not.
 */
import { errnoName } from '../kernel/errno.ts';
import { BPF_NAME_MAX } from '../kernel/bpf.ts';
import { aligned, count, s32, struct, u32, u64, viewOf } from '../kernel/struct.ts';
import { OwnedFd } from './fds.ts';
import type { Caller, Outcome } from './calls.ts';
import { failureIn, failureOf, freeMemory, libbpf, memoryWith, takePrinted } from './libbpf.ts';
import { kernelError } from './sys.ts';
import type { Explain } from './sys.ts';

/** enum bpf_attach_type */
const BPF_XDP = 37;
const BPF_TCX_INGRESS = 46;
const BPF_TCX_EGRESS = 47;

export type Direction = 'ingress' | 'egress';

const EXPLAIN: Explain = {
  EPERM: ['HT_BPF', 'not permitted: CAP_NET_ADMIN and CAP_BPF are needed'],
  ENODEV: ['HT_NOT_FOUND', 'there is no such network device'],
  EBUSY: ['HT_BUSY', 'something else has attached a program there'],
  EEXIST: ['HT_BUSY', 'something else has attached a program there'],
};

/** `struct bpf_prog_load_opts` of libbpf 1.x up to what is used; libbpf reads no further than `sz`. */
const LOAD_OPTS = struct('struct bpf_prog_load_opts', {
  sz: count,
  attempts: s32,
  expected_attach_type: u32,
  prog_btf_fd: u32,
  prog_flags: u32,
  prog_ifindex: u32,
  kern_version: u32,
  attach_btf_id: u32,
  attach_prog_fd: u32,
  attach_btf_obj_fd: u32,
  fd_array: u64,
  func_info: u64,
  func_info_cnt: u32,
  func_info_rec_size: u32,
});

/** What the kernel must know of functions that make tail calls. */
export interface FunctionTypes {
  /** BTF, as it is loaded. */
  btf: Uint8Array;
  /** Where each function begins (instruction) and its type's number, in order. */
  functions: readonly (readonly [instruction: number, type: number])[];
}

/** Loads instructions as a program. Throws HT_KERNEL: such code is this program's own. */
export function loadCode(type: number, name: string, code: Uint8Array, types?: FunctionTypes): OwnedFd {
  const what = `loading program '${name}'`;
  const load = (opts: Uint8Array | null): OwnedFd => {
    // SAFETY: the kernel reads 8 bytes for each instruction, which `code` has; `opts` begins with its own size.
    const fd = libbpf().prog_load(type, name.slice(0, BPF_NAME_MAX), 'GPL', code, code.length / 8, opts);
    const errno = fd < 0 ? failureOf(fd) : 0;
    takePrinted();
    if (fd < 0) throw kernelError(what, errno, EXPLAIN);
    return new OwnedFd(fd, `program '${name}'`);
  };
  if (!types) return load(null);
  const btfFd = libbpf().btf_load(types.btf, types.btf.length, null);
  if (btfFd < 0) throw kernelError(`${what}: its types`, failureOf(btfFd), EXPLAIN);
  const btf = new OwnedFd(btfFd, `types of program '${name}'`);
  const memory = memoryWith(new Uint8Array(Uint32Array.from(types.functions.flat()).buffer));
  try {
    // SAFETY: func_info leads to func_info_cnt records of 8 bytes that live until the load is over.
    return load(
      LOAD_OPTS.encode({
        sz: LOAD_OPTS.size,
        prog_btf_fd: btf.fd,
        func_info: memory,
        func_info_cnt: types.functions.length,
        func_info_rec_size: 8,
      }),
    );
  } finally {
    freeMemory(memory);
    btf.close();
  }
}

/** A link of an XDP program: native where the driver can, else generic. Ends with the descriptor. */
export function linkXdp(call: Caller, program: OwnedFd, ifindex: number): Promise<OwnedFd> {
  return link(call, program, ifindex, BPF_XDP, 'XDP');
}

/** Undefined where the kernel has no tcx (before Linux 6.6). Ends with the descriptor. */
export async function linkTcx(
  call: Caller,
  program: OwnedFd,
  ifindex: number,
  direction: Direction,
): Promise<OwnedFd | undefined> {
  const type = direction === 'ingress' ? BPF_TCX_INGRESS : BPF_TCX_EGRESS;
  try {
    return await link(call, program, ifindex, type, `tcx ${direction}`);
  } catch (e) {
    if (e instanceof Error && 'detail' in e && (e.detail as { errnoName?: string }).errnoName === 'EINVAL')
      return undefined;
    throw e;
  }
}

async function link(
  call: Caller,
  program: OwnedFd,
  ifindex: number,
  type: number,
  what: string,
): Promise<OwnedFd> {
  // SAFETY: numbers only; without opts libbpf reads nothing else.
  const made = await call(libbpf().link_create, program.fd, ifindex, type, null);
  takePrinted();
  const errno = failureIn(made);
  if (errno !== 0) throw kernelError(`${what} of network device ${ifindex}`, errno, EXPLAIN);
  return new OwnedFd(made.result, `${what} link of network device ${ifindex}`);
}

/** The link runs this program from now on: each event sees the one or the other. */
export async function updateLink(call: Caller, file: OwnedFd, program: OwnedFd): Promise<void> {
  const r = failureIn(await call(libbpf().link_update, file.fd, program.fd, null));
  if (r !== 0) throw kernelError(`another program for ${file.what}`, r, EXPLAIN);
}

/** The head of `struct bpf_link_info`, and of what links of network devices say in its union. */
const LINK_INFO = struct('struct bpf_link_info', {
  type: u32,
  id: u32,
  prog_id: u32,
  ifindex: aligned(8, u32),
});

/** What runs there, and on which device; `ifindex` 0: the device has gone. The kernel takes RTNL for it. */
export async function linkPlace(
  call: Caller,
  file: OwnedFd,
): Promise<{ programId: number; ifindex: number }> {
  const info = new Uint8Array(LINK_INFO.size);
  const length = new Uint8Array(4);
  u32.write(viewOf(length), 0, info.length);
  // SAFETY: the kernel writes at most `length` bytes, which `info` has; koffi holds both until the call is over.
  const errno = failureIn(await call(libbpf().obj_get_info, file.fd, info, length));
  if (errno !== 0) throw kernelError(`information on ${file.what}`, errno, EXPLAIN);
  const { prog_id, ifindex } = LINK_INFO.decode(info);
  return { programId: prog_id, ifindex };
}

/** Ends what a link does at once, no matter who else holds it (Linux 5.9). Fine when its device has gone. */
export async function detachLink(call: Caller, file: OwnedFd): Promise<void> {
  const errno = failureIn(await call(libbpf().link_detach, file.fd));
  if (errno !== 0 && !['ENOENT', 'ENODEV', 'ENOLINK'].includes(errnoName(errno)))
    throw kernelError(`detaching ${file.what}`, errno, EXPLAIN);
}

const TC_HOOK = struct('struct bpf_tc_hook', { sz: count, ifindex: s32, attach_point: u32, parent: u32 });
const TC_OPTS = struct('struct bpf_tc_opts', {
  sz: count,
  prog_fd: s32,
  flags: u32,
  prog_id: u32,
  handle: u32,
  priority: u32,
});
const TC_POINT: Readonly<Record<Direction, number>> = { ingress: 1, egress: 2 };
const BOTH = 3;
const BPF_TC_F_REPLACE = 1;
/** By these the filter of a process that died is known. */
const FILTER = { handle: 1, priority: 0x4854 } as const;

const tcHook = (ifindex: number, point: number): Uint8Array =>
  TC_HOOK.encode({ sz: TC_HOOK.size, ifindex, attach_point: point });

/** True when there was none and one was made. */
export async function addClsact(call: Caller, ifindex: number): Promise<boolean> {
  // SAFETY: here and below the structs begin with their own sizes, which libbpf honours.
  const errno = failureIn(await call(libbpf().tc_hook_create, tcHook(ifindex, BOTH)));
  takePrinted();
  if (errno === 0) return true;
  if (errnoName(errno) === 'EEXIST') return false;
  throw kernelError(`qdisc clsact of network device ${ifindex}`, errno, EXPLAIN);
}

/** Removes the qdisc with all its filters; fine when there is none. */
export async function removeClsact(call: Caller, ifindex: number): Promise<void> {
  gone(
    await call(libbpf().tc_hook_destroy, tcHook(ifindex, BOTH)),
    `qdisc clsact of network device ${ifindex}`,
  );
}

/** Sets or replaces our filter, at once. The qdisc must be there. */
export async function setFilter(
  call: Caller,
  program: OwnedFd,
  ifindex: number,
  direction: Direction,
): Promise<void> {
  const opts = TC_OPTS.encode({ sz: TC_OPTS.size, prog_fd: program.fd, flags: BPF_TC_F_REPLACE, ...FILTER });
  const errno = failureIn(await call(libbpf().tc_attach, tcHook(ifindex, TC_POINT[direction]), opts));
  takePrinted();
  if (errno !== 0) throw kernelError(`tc filter (${direction}) of network device ${ifindex}`, errno, EXPLAIN);
}

/** Removes our filter, also one that a process left behind which died; fine when there is none. */
export async function removeFilter(call: Caller, ifindex: number, direction: Direction): Promise<void> {
  const opts = TC_OPTS.encode({ sz: TC_OPTS.size, ...FILTER });
  gone(
    await call(libbpf().tc_detach, tcHook(ifindex, TC_POINT[direction]), opts),
    `tc filter (${direction}) of network device ${ifindex}`,
  );
}

/** The kernel's number of the program of our filter, also of one that a process left behind; undefined: none. */
export async function filterProgram(
  call: Caller,
  ifindex: number,
  direction: Direction,
): Promise<number | undefined> {
  const opts = TC_OPTS.encode({ sz: TC_OPTS.size, ...FILTER });
  const errno = failureIn(await call(libbpf().tc_query, tcHook(ifindex, TC_POINT[direction]), opts));
  takePrinted();
  if (errno === 0) return TC_OPTS.decode(opts).prog_id;
  if (NO_FILTER.includes(errnoName(errno))) return undefined;
  throw kernelError(`tc filter (${direction}) of network device ${ifindex}`, errno, EXPLAIN);
}

/** No filter, no qdisc, no device. */
const NO_FILTER = ['ENOENT', 'EINVAL', 'ENODEV'];

function gone(outcome: Outcome, what: string): void {
  const errno = failureIn(outcome);
  takePrinted();
  if (errno === 0 || NO_FILTER.includes(errnoName(errno))) return;
  throw kernelError(`removing ${what}`, errno, EXPLAIN);
}
