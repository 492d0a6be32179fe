/**
 * Creates, runs and destroys many small L2s on turtlefs, several at a time, in one process of L1; then looks for what
 * they left: frames, index words, registrations, descriptors, processes, files. Part of them are killed while
 * they run, at a moment that differs from cycle to cycle.
 */
import { readdirSync, readlinkSync } from 'node:fs';
import { fdsLinkingTo, processes } from '../bpf/kvm.ts';
import { HyperturtleError } from '../core/errors.ts';
import { sleep, withDeadline } from '../core/wait.ts';
import { framesOut } from '../kernel/guest.ts';
import { GuestDevice } from '../guest/device.ts';
import { L2Machine } from './l2-machine.ts';
import { FAST_FIRMWARE, L2_RUN_DIR } from './l2-spec.ts';
import { TURTLEFS_DIR } from '../guest/vmm/arguments.ts';

export interface ChurnSpec {
  cycles: number;
  parallel: number;
  memMib: number;
  /** The guest of c/l2/touch_guest.S: it writes and checks every page, then ends. */
  kernel: string;
  qemu: string;
  timeoutMs: number;
  signal?: AbortSignal | undefined;
  onCycle?: (done: number) => void;
}

export interface ChurnResult {
  cycles: number;
  parallel: number;
  /** Ran to their end and found every page as they had left it. */
  passed: number;
  /** Ended by us while they ran. */
  killed: number;
  framesAllocated: number;
  framesFreed: number;
  left: {
    /** Allocated, not freed, and not in the pool either. */
    frames: number;
    indexWords: number;
    registrations: number;
    descriptors: number;
    processes: number;
    files: number;
  };
}

/** What touch_guest tells by its exit port. */
const STATUS_RIGHT = 33;
const STATUS_WRONG = 35;
/** Every so many cycles one is killed while it runs. */
const KILL_EVERY = 5;

export async function churn(spec: ChurnSpec): Promise<ChurnResult> {
  const tally = { started: 0, done: 0, passed: 0, killed: 0 };
  const worker = async (): Promise<void> => {
    while (tally.started < spec.cycles) {
      const n = tally.started++;
      spec.signal?.throwIfAborted();
      await cycle(spec, n, tally);
      spec.onCycle?.(++tally.done);
    }
  };
  // what this process opens once, when it first needs it, is no leak
  await cycle(spec, tally.started++, tally);
  tally.done++;
  const descriptorsBefore = ownDescriptors();
  // one that fails lets the others end their cycle: nothing may be left because of it
  const ends = await Promise.allSettled(Array.from({ length: spec.parallel }, worker));
  const failed = ends.find((e) => e.status === 'rejected');
  if (failed) throw failed.reason;

  const device = GuestDevice.open();
  try {
    const before = device.info();
    // an empty pool leaves nothing between allocated and freed
    device.set({ pool: { low: 0, high: 0 } });
    const after = await settled(device);
    device.set({ pool: { low: before.pool_low, high: before.pool_high } });
    return {
      cycles: spec.cycles,
      parallel: spec.parallel,
      passed: tally.passed,
      killed: tally.killed,
      framesAllocated: after.frames_allocated,
      framesFreed: after.frames_freed,
      left: {
        frames: framesOut(after),
        indexWords: after.index_used,
        registrations: after.l2_count,
        // one is the device, open right now
        descriptors: ownDescriptors() - descriptorsBefore - 1,
        processes: processes().filter((pid) => fdsLinkingTo(pid, (t) => t.includes('kvm-vm')).length > 0)
          .length,
        files: entries(TURTLEFS_DIR) + entries(L2_RUN_DIR),
      },
    };
  } finally {
    device.close();
  }
}

async function cycle(spec: ChurnSpec, n: number, tally: { passed: number; killed: number }): Promise<void> {
  const name = `churn-${n}`;
  const l2 = await L2Machine.start(
    {
      name,
      memMib: spec.memMib,
      ram: 'turtlefs',
      kernel: spec.kernel,
      append: '',
      machine: 'pc',
      firmware: FAST_FIRMWARE,
      console: { kind: 'socket', path: `${L2_RUN_DIR}/${name}/console` },
      qemu: spec.qemu,
      exitDevice: true,
    },
    { timeoutMs: spec.timeoutMs, signal: spec.signal },
  );
  try {
    if (n % KILL_EVERY === KILL_EVERY - 1) {
      // spread over the run: firmware, first touches, the check
      await sleep((n * 97) % 1500, spec.signal);
      tally.killed++;
      return;
    }
    const status = await withDeadline(`cycle ${n}`, l2.ended, spec.timeoutMs, spec.signal);
    if (status === STATUS_WRONG)
      throw new HyperturtleError(
        'HT_INTEGRITY',
        `cycle ${n}: the guest found a page that was not as it left it`,
      );
    if (status !== STATUS_RIGHT)
      throw new HyperturtleError('HT_COMMAND_FAILED', `cycle ${n}: QEMU ended with status ${status}`);
    tally.passed++;
  } finally {
    await l2.stop();
  }
}

/** Files are freed a moment after their last user: waits until the counters stand still. */
async function settled(device: GuestDevice): Promise<ReturnType<GuestDevice['info']>> {
  let last = device.info();
  for (let i = 0; i < 50; i++) {
    await sleep(200);
    const now = device.info();
    if (now.frames_freed === last.frames_freed && now.frames_allocated === now.frames_freed) return now;
    last = now;
  }
  return last;
}

function ownDescriptors(): number {
  return readdirSync('/proc/self/fd').filter((fd) => {
    try {
      // libuv opens and keeps some of its own when it first needs them
      return !/eventfd|eventpoll|io_uring|^pipe:/.test(readlinkSync(`/proc/self/fd/${fd}`));
    } catch {
      return false; // the directory that is being read
    }
  }).length;
}

function entries(dir: string): number {
  try {
    return readdirSync(dir).length;
  } catch {
    return 0;
  }
}
