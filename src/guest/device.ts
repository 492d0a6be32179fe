/**
 * Client of /dev/hyperturtle-guest, the device of L1's module. A registered L2 belongs to the descriptor that
 * REGISTER returned: closing it, also by the death of this process, unregisters it.
 */
import type { OwnedFd } from '../bpf/fds.ts';
import { requireKnownKvm } from '../bpf/kvm-abi.ts';
import { whenReadable } from '../bpf/poll.ts';
import { ioctl, ioctlFd, openDevice } from '../bpf/sys.ts';
import { HyperturtleError, isHyperturtleError } from '../core/errors.ts';
import {
  GUEST_DEVICE,
  HTG_ABI,
  HTG_CALL,
  HTG_CALL_ARG,
  HTG_GET_INFO,
  HTG_GET_POOL,
  HTG_INFO,
  HTG_L2_STATUS,
  HTG_L2_STATUS_ARG,
  HTG_POOL,
  HTG_REGISTER,
  HTG_REGISTER_ARG,
  HTG_SET,
  HTG_SET_ARG,
  HTG_SET_ENABLED,
  HTG_SET_EXACT,
  HTG_SET_GROUP_MAX,
  HTG_SET_INEXACT,
  HTG_SET_POOL,
  HTG_WATCH_VMS,
} from '../kernel/guest.ts';
import { HT_CALL_NUMBER_MIN } from '../kernel/call.ts';
import type { HtgInfo, HtgL2Status, HtgPool } from '../kernel/guest.ts';

/** What to change; the rest stays. */
export interface GuestSettings {
  enabled?: boolean;
  /** 1..64: most pages that one fault may map. */
  groupMax?: number;
  /** Refill below `low` frames, up to `high`; low <= high <= pool_entries. */
  pool?: { low: number; high: number };
  /** See the first use of every page that is given ahead, at the cost of an exit for each: for measuring. */
  exact?: boolean;
}

export interface RegisterSpec {
  /** KVM vm file of a VM whose RAM is a turtlefs file. Stays the caller's. */
  vm: OwnedFd;
  /** For listings; at most 31 characters. */
  name: string;
  /** Most frames that programs may take for it; 0: as many as its RAM has pages. */
  framesLimit: number;
  /** 1..64, or 0 for the default. */
  groupMax: number;
}

export interface DirectCall {
  number: number;
  /** At most 6; the rest are 0. */
  words: readonly bigint[];
  /** 1..1000000; default 1. */
  repeat?: number;
}

/** What KVM says to a number that it does not know (KVM_ENOSYS). */
const NOBODY = BigInt.asUintN(64, -1000n);

export type L2Status = Omit<HtgL2Status, 'template'> & {
  /** Entry bits learned for it, in hexadecimal; 0x0: none yet. */
  template: string;
};

export class GuestDevice implements Disposable {
  readonly #file: OwnedFd;

  private constructor(file: OwnedFd) {
    this.#file = file;
  }

  /** Throws HT_NOT_FOUND without the module, HT_UNSUPPORTED when it speaks another ABI. */
  static open(devicePath: string = GUEST_DEVICE): GuestDevice {
    const file = openDevice(
      devicePath,
      'load hyperturtle_guest.ko in this guest hypervisor (modprobe or insmod)',
    );
    const device = new GuestDevice(file);
    try {
      const { abi } = device.info();
      if (abi !== HTG_ABI)
        throw new HyperturtleError(
          'HT_UNSUPPORTED',
          `${devicePath} speaks ABI ${abi}, this program ABI ${HTG_ABI}: install the module of this version`,
        );
      return device;
    } catch (e) {
      file.close();
      throw e;
    }
  }

  info(): HtgInfo {
    const arg = new Uint8Array(HTG_INFO.size);
    ioctl(this.#file, HTG_GET_INFO, arg, {
      ENOTTY: ['HT_UNSUPPORTED', 'this is not the device of hyperturtle_guest.ko of this version'],
    });
    return HTG_INFO.decode(arg);
  }

  /** One for each NUMA node; none without an arena, or from a module that does not tell them apart. */
  pools(): HtgPool[] {
    const pools: HtgPool[] = [];
    try {
      for (;;) {
        const arg = HTG_POOL.encode({ number: pools.length });
        ioctl(this.#file, HTG_GET_POOL, arg, {
          ENOENT: ['HT_NOT_FOUND', 'there are no more pools'],
          ENODEV: ['HT_NOT_FOUND', 'there is no arena'],
          ENOTTY: ['HT_NOT_FOUND', 'this module has one pool'],
        });
        pools.push(HTG_POOL.decode(arg));
      }
    } catch (e) {
      if (isHyperturtleError(e, 'HT_NOT_FOUND')) return pools;
      throw e;
    }
  }

  set(settings: GuestSettings): void {
    const { enabled, groupMax, pool, exact } = settings;
    const mask =
      (enabled === undefined ? 0 : HTG_SET_ENABLED) |
      (groupMax === undefined ? 0 : HTG_SET_GROUP_MAX) |
      (pool === undefined ? 0 : HTG_SET_POOL) |
      (exact === undefined ? 0 : exact ? HTG_SET_EXACT : HTG_SET_INEXACT);
    const arg = HTG_SET_ARG.encode({
      mask,
      enabled: enabled === true ? 1 : 0,
      group_max: groupMax ?? 0,
      pool_low: pool?.low ?? 0,
      pool_high: pool?.high ?? 0,
    });
    ioctl(this.#file, HTG_SET, arg, {
      EINVAL: ['HT_USAGE', 'out of range: groups are of 1 to 64 pages, pool low <= high <= pool_entries'],
      ENODEV: ['HT_NOT_FOUND', "there is no arena: run 'hyperturtle host attach' on the host"],
    });
  }

  /**
   * Calls this L1's program in L0 from its kernel, `repeat` times with the same words; blocks until all are done. The
   * results are the last one's. Throws HT_NOT_FOUND when nobody answers, HT_UNSUPPORTED where no KVM is below.
   */
  call({ number, words, repeat = 1 }: DirectCall): { results: bigint[]; ns: number } {
    const arg = HTG_CALL_ARG.encode({ number, repeat, words: [...words] });
    ioctl(this.#file, HTG_CALL, arg, {
      EINVAL: ['HT_USAGE', `numbers from ${HT_CALL_NUMBER_MIN} on and 1 to 1000000 calls expected`],
      ENODEV: ['HT_UNSUPPORTED', 'this machine is no virtual machine of KVM'],
      ENOTTY: [
        'HT_UNSUPPORTED',
        'hyperturtle_guest.ko is older than this program: install the one of this version',
      ],
    });
    const { results, ns } = HTG_CALL_ARG.decode(arg);
    if (results[0] === NOBODY)
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        `nobody answers calls of 0x${number.toString(16)}: no program is linked to hook call for it and for L1, or it passes them`,
      );
    return { results, ns };
  }

  /**
   * A file to read records of HTG_VM_EVENT from, whole ones, when it is readable: what happens from now on, in
   * order. The caller closes it. Throws HT_UNSUPPORTED where KVM differs from what the module relies on.
   */
  watchVms(): OwnedFd {
    requireKnownKvm('guest');
    return ioctlFd(this.#file, HTG_WATCH_VMS, new Uint8Array(0), 'watch of virtual machines');
  }

  /** Throws HT_UNSUPPORTED where KVM differs from what the module relies on, and others. */
  register(spec: RegisterSpec): RegisteredL2 {
    requireKnownKvm('guest');
    const arg = HTG_REGISTER_ARG.encode({
      vm_fd: spec.vm.fd,
      frames_limit: spec.framesLimit,
      group_max: spec.groupMax,
      name: spec.name,
    });
    const file = ioctlFd(this.#file, HTG_REGISTER, arg, `registration of ${spec.vm.what}`, {
      EBUSY: ['HT_BUSY', 'this VM is registered already'],
      EBADF: ['HT_NOT_FOUND', 'this is not a KVM virtual machine'],
      ENODEV: ['HT_NOT_FOUND', "there is no arena: run 'hyperturtle host attach' on the host"],
      ESRCH: ['HT_NOT_FOUND', 'its process has ended'],
      EOPNOTSUPP: [
        'HT_UNSUPPORTED',
        'this machine or VM lacks what is needed (TDP MMU, no nohz_full, no private memory); the kernel log says what',
      ],
      ENOSPC: ['HT_NO_SPACE', 'the arena has no room for another nested guest: unregister one'],
      EINVAL: ['HT_USAGE', 'the module refuses this registration: groups of 0 to 64 pages, a non-empty name'],
    });
    return new RegisteredL2(file);
  }

  close(): void {
    this.#file.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

export class RegisteredL2 implements Disposable {
  readonly #file: OwnedFd;

  /** Takes over the descriptor that REGISTER returned. */
  constructor(file: OwnedFd) {
    this.#file = file;
  }

  status(): L2Status {
    const arg = new Uint8Array(HTG_L2_STATUS_ARG.size);
    ioctl(this.#file, HTG_L2_STATUS, arg);
    const { template, ...status } = HTG_L2_STATUS_ARG.decode(arg);
    return { ...status, template: `0x${template.toString(16)}` };
  }

  /** Resolves when the VM or its memory is gone. Throws the signal's reason when that comes first. */
  whenGone(signal: AbortSignal): Promise<void> {
    return whenReadable(this.#file, signal);
  }

  /** Unregisters; the memory that programs took for it stays its own. */
  close(): void {
    this.#file.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
