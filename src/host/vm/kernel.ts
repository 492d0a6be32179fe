/**
 * What the daemon needs of the kernel beyond eBPF: VMs of other processes, hooks in them, arenas as device files. An
 * interface, so that all the rest of the daemon can be tested where no module can be loaded; `moduleKernel` is the
 * one that the product uses.
 */
import { existsSync } from 'node:fs';
import type { Caller } from '../../bpf/calls.ts';
import type { OwnedFd } from '../../bpf/fds.ts';
import { takeVm } from '../../bpf/kvm.ts';
import type { SharedArray } from '../../bpf/map.ts';
import { whenReadable } from '../../bpf/poll.ts';
import { pidfdAlive } from '../../bpf/sys.ts';
import { isHyperturtleError } from '../../core/errors.ts';
import { ftraceEnabled } from '../../core/ftrace.ts';
import { HOST_DEVICE } from '../../kernel/host.ts';
import type { KvmHook } from '../../kernel/host.ts';
import type { LinkOptions } from '../../wire/link-options.ts';
import { HostDevice } from '../device.ts';
import type { CallAnswer, CallRequest, EndedLink } from '../device.ts';
import { qemuBehind } from '../qemu.ts';
import type { HookStats } from '../stats.ts';
import { startTicksOf } from './process-record.ts';

/** A loaded program, as far as the kernel needs to know it. */
interface ProgramFile {
  readonly fd: number;
  readonly name: string;
}

/**
 * What waits for the kernel (a grace period lasts until each vCPU that runs a program has been scheduled) does so off this
 * thread, one call of a VM after the other. None can be given up: what a call is given stays open until it settles.
 */
export interface VmHooks {
  /**
   * With `replace` the running program is swapped for this one, with no event in between that sees neither. `arena`:
   * for programs that use it. Throws HT_BPF when the program does not fit the hook, HT_BUSY when it has one.
   */
  link(
    hook: KvmHook,
    program: ProgramFile,
    arena: SharedArray | undefined,
    options: { replace: boolean; options?: LinkOptions | undefined },
  ): Promise<void>;
  /** No run of the program is under way when it settles. */
  unlink(hook: KvmHook): Promise<void>;
  /** Waits for nothing. */
  stats(hook: KvmHook): HookStats;
  /** Runs the program of the hook `call` once, on this thread. Throws HT_NOT_FOUND, HT_USAGE, HT_UNSUPPORTED. */
  call(request: CallRequest): CallAnswer;
  /** Waits for links that the kernel has ended by itself. Not to be closed meanwhile. Throws the signal's reason. */
  endedLinks(signal: AbortSignal): Promise<EndedLink[]>;
  /** Unlinks all and detaches the VM. */
  close(): Promise<void>;
}

/** The process that runs a VM. */
export interface VmProcess {
  readonly pid: number;
  alive(): boolean;
  /** Resolves when it has ended; throws the signal's reason. */
  whenGone(signal: AbortSignal): Promise<void>;
  /** By `call` what waits is called. Throws HT_BUSY when somebody else has attached the VM. */
  attach(call: Caller): VmHooks;
  close(): void;
}

export interface ArenaDevice {
  /** What QEMU opens: there until `close`. */
  readonly devicePath: string;
  close(): void;
}

export interface HostKernel {
  /** The VM behind a QMP socket. Throws HT_NOT_FOUND, or HT_BUSY when it is not clear which. */
  findVm(qmpPath: string): VmProcess;
  exportArena(map: SharedArray): ArenaDevice;
  /** What keeps all of it from working, in a sentence; left out: nothing can. */
  missing?: () => string | undefined;
  /** Whether hooks in KVM are called; left out: they are. */
  ftraceOn?: () => boolean;
}

/** What hooks in KVM stand on. */
export interface KernelState {
  moduleLoaded: boolean;
  ftraceOn: boolean;
}

export const kernelState = ({ missing, ftraceOn }: HostKernel): KernelState => ({
  moduleLoaded: missing?.() === undefined,
  ftraceOn: ftraceOn?.() ?? true,
});

/** Whether a process may have the arena of the VM behind this QMP socket, attached or not; `record`: who had it last. */
export function mayRun(
  kernel: HostKernel,
  qmpPath: string,
  record: { pid: number; startTicks: number } | undefined,
): boolean {
  if (record && startTicksOf(record.pid) === record.startTicks) return true;
  try {
    kernel.findVm(qmpPath).close();
    return true;
  } catch (e) {
    return !isHyperturtleError(e, 'HT_NOT_FOUND');
  }
}

/** hyperturtle_host.ko. The device is opened for each use: the module may be loaded again in between. */
export const moduleKernel: HostKernel = {
  findVm(qmpPath) {
    const pid = qemuBehind(qmpPath);
    const taken = takeVm(pid);
    return vmProcess(pid, taken.process, taken.vm);
  },
  exportArena(map) {
    const device = HostDevice.open();
    try {
      const { devicePath, owner } = device.createArena(map);
      return { devicePath, close: () => owner.close() };
    } finally {
      device.close();
    }
  },
  ftraceOn: () => ftraceEnabled() === '1',
  missing: () =>
    existsSync(HOST_DEVICE)
      ? undefined
      : `${HOST_DEVICE} is not there: load the module (modprobe hyperturtle_host); 'hyperturtle host doctor' says more`,
};

function vmProcess(pid: number, pidfd: OwnedFd, vm: OwnedFd): VmProcess {
  return {
    pid,
    alive: () => pidfdAlive(pidfd),
    whenGone: (signal) => whenReadable(pidfd, signal),
    attach(call) {
      const device = HostDevice.open();
      try {
        const attached = device.attachVm(vm, call);
        return {
          link: (hook, program, arena, options) => attached.link(hook, program, arena, options),
          unlink: (hook) => attached.unlink(hook),
          stats: (hook) => attached.stats(hook),
          call: (request) => attached.call(request),
          endedLinks: (signal) => attached.endedLinks(signal),
          close: () => attached.close(),
        };
      } finally {
        device.close();
        // the module holds the VM itself; a second descriptor would keep the VM alive after its QEMU
        vm.close();
      }
    },
    close() {
      vm.close();
      pidfd.close();
    },
  };
}
