/**
 * What the agent needs of the guest module, as an interface: the registrar is tested without the module. The real one
 * is /dev/hyperturtle-guest. Anyone who opened it closes it; the kernel module cannot be unloaded before that.
 */
import { readSync } from 'node:fs';
import { whenReadable } from '../../bpf/poll.ts';
import type { OwnedFd } from '../../bpf/fds.ts';
import { isHyperturtleError } from '../../core/errors.ts';
import { HTG_VM_EVENT } from '../../kernel/guest.ts';
import type { HtgInfo, HtgPool, HtgVmEvent } from '../../kernel/guest.ts';
import { GuestDevice } from '../device.ts';
import type { GuestSettings, L2Status } from '../device.ts';
import { takeVms, vmName, vmProcesses } from './vms.ts';

export interface Registration {
  status(): L2Status;
  /** Resolves when the VM, or its registration, is gone. Throws the signal's reason. */
  whenGone(signal: AbortSignal): Promise<void>;
  close(): void;
}

export interface GuestModule {
  info(): HtgInfo;
  /** One for each NUMA node; none without an arena. */
  pools(): HtgPool[];
  set(settings: GuestSettings): void;
  /**
   * Registers what process `pid` runs and nobody has registered yet. Throws HT_NOT_FOUND when it has ended or there is
   * no arena, else what the module has against it.
   */
  register(pid: number, spec: { groupMax: number; framesLimit: number }): Registration[];
  /** Processes whose VMs have RAM on turtlefs, registered or not. */
  scan(): number[];
  /** What happened since the module was opened, as soon as something did; later only what is new. */
  events(signal: AbortSignal): Promise<HtgVmEvent[]>;
  close(): void;
}

const EVENTS_AT_ONCE = 64;

/** Throws HT_NOT_FOUND without the module, HT_UNSUPPORTED when it speaks another ABI. */
export function openModule(devicePath?: string): GuestModule {
  const device = GuestDevice.open(devicePath);
  let watch: OwnedFd;
  try {
    watch = device.watchVms();
  } catch (e) {
    device.close();
    throw e;
  }
  const buffer = new Uint8Array(HTG_VM_EVENT.size * EVENTS_AT_ONCE);
  return {
    info: () => device.info(),
    pools: () => device.pools(),
    set: (settings) => device.set(settings),
    scan: () => vmProcesses().flatMap((v) => (v.turtlefs === 'none' ? [] : [v.pid])),
    register(pid, spec) {
      const made: Registration[] = [];
      const vms = takeVms(pid);
      try {
        const name = vmName(pid);
        for (const vm of vms)
          try {
            made.push(device.register({ vm, name, ...spec }));
          } catch (e) {
            if (!isHyperturtleError(e, 'HT_BUSY')) throw e; // registered already: by us, or its owner does so itself
          }
        return made;
      } catch (e) {
        for (const registration of made) registration.close();
        throw e;
      } finally {
        // a descriptor held here would keep the VM alive after its VMM
        for (const vm of vms) vm.close();
      }
    },
    async events(signal) {
      await whenReadable(watch, signal);
      // readable, and we alone read it: this does not wait
      const bytes = readSync(watch.fd, buffer, 0, buffer.length, null);
      const events: HtgVmEvent[] = [];
      for (let at = 0; at + HTG_VM_EVENT.size <= bytes; at += HTG_VM_EVENT.size)
        events.push(HTG_VM_EVENT.decode(buffer.subarray(at, at + HTG_VM_EVENT.size)));
      return events;
    },
    close() {
      watch.close();
      device.close();
    },
  };
}
