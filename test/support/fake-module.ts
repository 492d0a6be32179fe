/** The guest module without a kernel: processes with VMs, an arena that comes and goes, and what was registered. */
import { HyperturtleError } from '../../src/core/errors.ts';
import type { GuestSettings, L2Status } from '../../src/guest/device.ts';
import type { GuestModule, Registration } from '../../src/guest/agent/module-device.ts';
import {
  HTG_EVENT_ARENA,
  HTG_EVENT_LOST,
  HTG_EVENT_NO_ARENA,
  HTG_EVENT_VM,
  HTG_INFO,
  HTG_LEFT_OUT_INDEX,
} from '../../src/kernel/guest.ts';
import type { HtgInfo, HtgVmEvent } from '../../src/kernel/guest.ts';

export class FakeModule {
  loaded = true;
  arena = true;
  /** Whether the device is open: then the module could not be unloaded. */
  opened = 0;
  readonly vms = new Set<number>();
  /** Process -> what ends its registration. */
  readonly registered = new Map<number, () => void>();
  readonly settings: GuestSettings[] = [];
  /** Thrown by the next registrations. */
  readonly failures: Error[] = [];
  room = Infinity;
  /** False: the page index has no room for RAM of VMs. */
  index = true;
  #queue: HtgVmEvent[] = [];
  #wake: () => void = () => {};

  readonly open = (): GuestModule => {
    if (!this.loaded) throw new HyperturtleError('HT_NOT_FOUND', 'the device is not there');
    this.opened++;
    this.#queue = [];
    return {
      info: () => this.#info(),
      pools: () => [],
      set: (s) => void this.settings.push(s),
      scan: () => [...this.vms],
      register: (pid) => this.#register(pid),
      events: (signal) => this.#take(signal),
      close: () => {
        this.opened--;
      },
    };
  };

  /** A VMM maps a file of turtlefs. */
  startVm(pid: number): void {
    this.vms.add(pid);
    this.#tell(HTG_EVENT_VM, pid);
  }

  endVm(pid: number): void {
    this.vms.delete(pid);
    this.registered.get(pid)?.();
  }

  setArena(there: boolean): void {
    this.arena = there;
    if (!there) for (const end of [...this.registered.values()]) end();
    this.#tell(there ? HTG_EVENT_ARENA : HTG_EVENT_NO_ARENA);
  }

  loseEvents(): void {
    this.#queue = [];
    this.#tell(HTG_EVENT_LOST);
  }

  #tell(kind: number, pid = 0): void {
    this.#queue.push({ kind, pid, seq: 0 });
    this.#wake();
  }

  async #take(signal: AbortSignal): Promise<HtgVmEvent[]> {
    while (this.#queue.length === 0)
      await new Promise<void>((resolve, reject) => {
        signal.throwIfAborted();
        const stop = (): void => reject(new Error('closed'));
        signal.addEventListener('abort', stop, { once: true });
        this.#wake = () => {
          signal.removeEventListener('abort', stop);
          resolve();
        };
      });
    return this.#queue.splice(0);
  }

  #register(pid: number): Registration[] {
    const failure = this.failures.shift();
    if (failure) throw failure;
    if (!this.vms.has(pid)) throw new HyperturtleError('HT_NOT_FOUND', 'its process has ended');
    if (!this.arena) throw new HyperturtleError('HT_NOT_FOUND', 'there is no arena');
    if (this.registered.has(pid)) return [];
    if (this.registered.size >= this.room) throw new HyperturtleError('HT_NO_SPACE', 'the arena has no room');
    let gone = (): void => {};
    const over = new Promise<void>((resolve) => (gone = resolve));
    const end = (): void => {
      if (this.registered.get(pid) === end) this.registered.delete(pid);
      gone();
    };
    this.registered.set(pid, end);
    return [
      {
        status: () => status(pid, this.index ? 1 : 0),
        whenGone: (signal) =>
          new Promise((resolve, reject) => {
            signal.addEventListener('abort', () => reject(new Error('closed')), { once: true });
            void over.then(resolve);
          }),
        close: end,
      },
    ];
  }

  #info(): HtgInfo {
    return {
      ...HTG_INFO.decode(new Uint8Array(HTG_INFO.size)),
      arena_bound: this.arena ? 1 : 0,
      pool_level: 100,
    };
  }
}

function status(pid: number, slots: number): L2Status {
  const zero = {
    number: pid,
    state: slots,
    dead: 0,
    slots,
    pages: 1024 * slots,
    pages_held: 20,
    pages_unused: 1,
    large_new: 0,
    large_existing: 0,
    large_waiting: 0,
    large_seen: 0,
    large_kept: 0,
    pages_vain: 0,
    pages_back: 0,
    small: 0,
    small_times: 0,
    slot_changes: 0,
    frames_taken: 5,
    frames_charged: 30,
    frames_credit: 10,
    pages_left_out: slots === 0 ? 1024 : 0,
    left_out: slots === 0 ? HTG_LEFT_OUT_INDEX : 0,
    cgroup: '/machine/a',
  };
  const counts = { faults: 10, mapped_existing: 1, mapped_new: 5, mapped_ahead: 2, passes: 3 };
  return { ...zero, ...counts, name: `l2-${pid}`, template: '0x0' };
}
