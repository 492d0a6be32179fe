/** Mirror of c/include/hyperturtle/host.h: /dev/hyperturtle of L0. */
import { HT_CALL_RESULTS, HT_CALL_WORDS } from './call.ts';
import { ior, iow, iowr } from './ioctl.ts';
import { array, bytes, count, reserved, s32, struct, text, u32, u64 } from './struct.ts';
import type { ValueOf } from './struct.ts';

export const HOST_DEVICE = '/dev/hyperturtle';
export const HT_HOST_ABI = 3;
export const HT_IOC = 0xb7;

export const HOOKS = { npf: 0, exit: 1, sample: 2, call: 3 } as const;
export type KvmHook = keyof typeof HOOKS;
export const KVM_HOOKS = ['npf', 'exit', 'sample', 'call'] as const satisfies readonly KvmHook[];
export const HT_HOOKS = 4;

export const HT_ARENA_CREATE_ARG = struct('struct ht_arena_create', {
  map_fd: s32,
  flags: u32,
  bytes: count,
  name: text(32),
});

export const HT_ATTACH_VM_ARG = struct('struct ht_attach_vm', { vm_fd: s32, flags: u32 });

export const HT_LINK_ARGS_BYTES = 128;
/** `args`: HT_EXIT_ARGS, HT_SAMPLE_ARGS or HT_CALL_ARGS, by hook. */
export const HT_LINK_ARG = struct('struct ht_link', {
  hook: u32,
  prog_fd: s32,
  arena_fd: s32,
  flags: u32,
  args: bytes(HT_LINK_ARGS_BYTES),
});

/** Takes the place of a linked program at once. */
export const HT_LINK_REPLACE = 1;

export const HT_REASONS = 32;
export const HT_COUNTS = 64;
export const HT_HOOK_STATS = struct('struct ht_hook_stats', {
  runs: count,
  handled: count,
  entries: count,
  learned: count,
  overruns: count,
  max_ns: count,
  limit_ns: count,
  reserved: reserved(1),
  reasons: array(count, HT_REASONS),
  counts: array(count, HT_COUNTS),
});

export const HT_STATS = struct('struct ht_stats', {
  hook: u32,
  pid: s32,
  linked: u32,
  prog_id: u32,
  s: HT_HOOK_STATS,
});
export type HtStats = ValueOf<typeof HT_STATS>;

/** Read from a VM file: the module has ended a link. */
export const HT_LINK_ENDED = struct('struct ht_link_ended', {
  hook: u32,
  prog_id: u32,
  ends: u32,
  reserved: u32,
  overruns: count,
  ns: count,
  limit_ns: count,
});

export const HT_CTX_MAX_BYTES = 2048;
/** `ctx`: the hook's context. */
export const HT_RUN = struct('struct ht_run', {
  hook: u32,
  repeat: u32,
  ns: count,
  ctx: bytes(HT_CTX_MAX_BYTES),
});

/** Calls the program that is linked to the hook `call`. */
export const HT_VM_CALL_ARG = struct('struct ht_vm_call', {
  prog_id: u32,
  number: u32,
  words: array(u64, HT_CALL_WORDS),
  results: array(u64, HT_CALL_RESULTS),
  action: u32,
  reason: u32,
});

export const HT_GET_ABI = ior('HT_GET_ABI', HT_IOC, 0x00, u32);
export const HT_ARENA_CREATE = iowr('HT_ARENA_CREATE', HT_IOC, 0x01, HT_ARENA_CREATE_ARG);
export const HT_ATTACH_VM = iow('HT_ATTACH_VM', HT_IOC, 0x02, HT_ATTACH_VM_ARG);
export const HT_GET_STATS = iowr('HT_GET_STATS', HT_IOC, 0x03, HT_STATS);
export const HT_VM_LINK = iow('HT_VM_LINK', HT_IOC, 0x10, HT_LINK_ARG);
export const HT_VM_UNLINK = iow('HT_VM_UNLINK', HT_IOC, 0x11, HT_LINK_ARG);
export const HT_VM_RUN = iowr('HT_VM_RUN', HT_IOC, 0x12, HT_RUN);
export const HT_VM_CALL = iowr('HT_VM_CALL', HT_IOC, 0x13, HT_VM_CALL_ARG);
