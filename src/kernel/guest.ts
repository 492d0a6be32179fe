/** Mirror of c/include/hyperturtle/guest.h: /dev/hyperturtle-guest of L1. */
import { HT_LARGE_PAGES } from './arena.ts';
import { HT_CALL_RESULTS, HT_CALL_WORDS } from './call.ts';
import { io, ior, iow, iowr } from './ioctl.ts';
import { array, count, reserved, s32, struct, text, u32, u64 } from './struct.ts';
import type { ValueOf } from './struct.ts';

export const GUEST_DEVICE = '/dev/hyperturtle-guest';
export const HTG_ABI = 3;
export const HTG_IOC = 0xb8;

/** Whether frames of nested guests count in memory cgroups, by number: `HTG_MEMCG_*`. */
export const HTG_MEMCG = ['none', 'charged', 'off'] as const;
export const HTG_CGROUP_PATH = 256;

/** Why pages of an L2's RAM have no place in the arena, though turtlefs has one for them; bits. */
export const HTG_LEFT_OUT_NO_ROOM = 1;
export const HTG_LEFT_OUT_OTHER = 2;
export const HTG_LEFT_OUT_GUESTS = 4;
export const HTG_LEFT_OUT_INDEX = 8;

export const HTG_INFO = struct('struct htg_info', {
  abi: u32,
  arena_bound: u32,
  arena_bytes: count,
  enabled: count,
  group_max: count,
  pool_entries: count,
  pool_low: count,
  pool_high: count,
  pool_level: count,
  index_words: count,
  index_used: count,
  l2_count: count,
  frames_allocated: count,
  frames_freed: count,
  faults: count,
  faults_lost: count,
  faults_found: count,
  refills: count,
  shrunk: count,
  grace_periods: count,
  large_frames: count,
  large_level: count,
  interrupted: count,
  memcg: count,
  large_auto: count,
  large_back: count,
});
export type HtgInfo = ValueOf<typeof HTG_INFO>;

/** One pool: the frames of one NUMA node. */
export const HTG_POOL = struct('struct htg_pool', {
  number: u32,
  node: s32,
  level: count,
  low: count,
  high: count,
  large_frames: count,
  large_level: count,
  reserved: reserved(2),
});
export type HtgPool = ValueOf<typeof HTG_POOL>;

/** Frames that are neither free nor in a pool: those of files, and of a CPU that lost a race. */
export function framesOut(
  i: Pick<HtgInfo, 'frames_allocated' | 'frames_freed' | 'pool_level' | 'large_level'>,
): number {
  return i.frames_allocated - i.frames_freed - i.pool_level - i.large_level * HT_LARGE_PAGES;
}

export const HTG_SET_ENABLED = 1;
export const HTG_SET_GROUP_MAX = 2;
export const HTG_SET_POOL = 4;
export const HTG_SET_EXACT = 8;
export const HTG_SET_INEXACT = 16;

export const HTG_SET_ARG = struct('struct htg_set', {
  mask: u32,
  enabled: u32,
  group_max: count,
  pool_low: count,
  pool_high: count,
});

export const HTG_REGISTER_ARG = struct('struct htg_register', {
  vm_fd: s32,
  flags: u32,
  frames_limit: count,
  group_max: count,
  name: text(32),
});

export const HTG_L2_STATUS_ARG = struct('struct htg_l2_status', {
  number: u32,
  state: u32,
  dead: u32,
  slots: u32,
  pages: count,
  slot_changes: count,
  template: u64,
  frames_taken: count,
  faults: count,
  mapped_existing: count,
  mapped_new: count,
  mapped_ahead: count,
  passes: count,
  name: text(32),
  pages_held: count,
  pages_unused: count,
  large_new: count,
  large_existing: count,
  large_waiting: count,
  large_seen: count,
  large_kept: count,
  pages_vain: count,
  pages_back: count,
  small: count,
  small_times: count,
  frames_charged: count,
  frames_credit: count,
  pages_left_out: count,
  left_out: count,
  cgroup: text(HTG_CGROUP_PATH),
});
export type HtgL2Status = ValueOf<typeof HTG_L2_STATUS_ARG>;

/** A VM that is not registered got RAM of a turtlefs file; `pid` is its process. */
export const HTG_EVENT_VM = 1;
/** An arena was bound. */
export const HTG_EVENT_ARENA = 2;
/** The arena is gone, and every registration with it. */
export const HTG_EVENT_NO_ARENA = 3;
/** Events were lost: look at everything. */
export const HTG_EVENT_LOST = 4;

export const HTG_VM_EVENT = struct('struct htg_vm_event', { pid: s32, kind: u32, seq: count });
export type HtgVmEvent = ValueOf<typeof HTG_VM_EVENT>;

/** Calls this L1's program in L0 from its kernel. */
export const HTG_CALL_ARG = struct('struct htg_call', {
  number: u32,
  repeat: u32,
  words: array(u64, HT_CALL_WORDS),
  results: array(u64, HT_CALL_RESULTS),
  ns: count,
});

export const HTG_GET_INFO = ior('HTG_GET_INFO', HTG_IOC, 0x00, HTG_INFO);
export const HTG_SET = iow('HTG_SET', HTG_IOC, 0x01, HTG_SET_ARG);
export const HTG_REGISTER = iow('HTG_REGISTER', HTG_IOC, 0x02, HTG_REGISTER_ARG);
export const HTG_WATCH_VMS = io('HTG_WATCH_VMS', HTG_IOC, 0x03);
export const HTG_GET_POOL = iowr('HTG_GET_POOL', HTG_IOC, 0x04, HTG_POOL);
export const HTG_CALL = iowr('HTG_CALL', HTG_IOC, 0x05, HTG_CALL_ARG);
export const HTG_L2_STATUS = ior('HTG_L2_STATUS', HTG_IOC, 0x10, HTG_L2_STATUS_ARG);
