/** A second L1 of a lab as a tenant of the daemon: booted, with its agent, its program loaded, and an L2 that runs. */
import { CleanupStack } from '../core/lifecycle.ts';
import type { Lab } from '../lab/lab.ts';
import type { Level } from '../lab/levels.ts';
import type { SecondL1 } from '../lab/second.ts';
import { insmod } from './acceleration.ts';
import { ManagedGuest } from './managed.ts';

/** The guest of c/l2/touch_guest.S writes and checks every page of itself, then ends with this status. */
const STATUS_RIGHT = 33;
const L2_MIB = 32;

/** Pages of an L2 that were read back, and those that were not as it had left them. */
export interface Checked {
  checked: number;
  mismatches: number;
}

export class Tenant {
  readonly machine: SecondL1;
  readonly guest: ManagedGuest;
  readonly #undo = new CleanupStack();

  private constructor(machine: SecondL1) {
    this.machine = machine;
    this.guest = new ManagedGuest(machine.l1);
  }

  get l1(): Level {
    return this.machine.l1;
  }

  /** Returns when its program answers its faults. */
  static async start(lab: Lab, signal?: AbortSignal): Promise<Tenant> {
    const tenant = new Tenant(await lab.bootSecondL1(signal));
    tenant.#undo.add('second L1', () => tenant.machine.end());
    try {
      await tenant.begin(signal);
      return tenant;
    } catch (e) {
      await tenant.end();
      throw e;
    }
  }

  /** What its own start-up would do: module, agent, program. Again after each boot. */
  async begin(signal?: AbortSignal): Promise<void> {
    await insmod(this.l1, 'hyperturtle_guest', signal);
    await this.guest.start(signal);
    await this.guest.load(signal);
  }

  /**
   * Runs a small L2 that writes all its memory and checks it: anything but a good end counts as one page that changed.
   * Throws when it does not end by itself.
   */
  async check(signal?: AbortSignal): Promise<Checked> {
    const status = await this.guest.runTouchGuest(L2_MIB, signal);
    return { checked: (L2_MIB << 20) >> 12, mismatches: status === STATUS_RIGHT ? 0 : 1 };
  }

  /** `kill -9` of its QEMU, and no more. */
  async kill(): Promise<void> {
    await this.machine.kill();
  }

  /** As `kill -9` of its QEMU: nothing in it is asked. */
  async end(): Promise<void> {
    await this.#undo.run();
  }
}
