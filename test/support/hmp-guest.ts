/**
 * What a guest's kernel does for one hot-plug slot, done through the human monitor of a machine that never runs: powers
 * the slot, maps what appears in it, and lets it go when QEMU's attention button is pressed.
 */
import { sleep } from '../../src/core/wait.ts';
import type { QmpClient } from '../../src/qmp/client.ts';

const EXP_CAPABILITY = 0x10;
const SLTCTL = 0x18;
const ABP = 1 << 16;
const PDC = 1 << 19;
const PDS = 1 << 22;
const POWER_ON = 0x0100; // power indicator on, power controller on
const POWER_OFF = 0x0700;
/** A plug and an unplug between two looks are one press: the clock by which QEMU would allow another stands still. */
const LONGEST_MS = 2000;
/** 2 MiB of PCI's hole below 4 GiB, behind the port. */
const WINDOW = 0xc0000000;

export class HmpGuest {
  readonly #qmp: QmpClient;
  readonly #port: number;
  readonly #lookMs: number;
  #slot = 0;
  #running = true;
  #done: Promise<void> = Promise.resolve();
  /** How often a device was mapped, and let go. */
  mapped = 0;
  ejected = 0;

  /** `device`: number of the root port on bus 0. `qmp` is its own; it looks every `lookMs`. */
  constructor(qmp: QmpClient, device: number, lookMs = 2) {
    this.#qmp = qmp;
    this.#lookMs = lookMs;
    this.#port = 0x80000000 + device * 0x800;
  }

  /** Also again, after it was stopped. */
  async start(): Promise<void> {
    this.#running = true;
    await this.#write(this.#port + 0x18, 0x00010100);
    const base = WINDOW >>> 16;
    await this.#write(this.#port + 0x24, (base + 0x1f0) * 0x10000 + base);
    await this.#write(this.#port + 0x04, 6);
    this.#slot = (await this.#capability()) + SLTCTL;
    await this.#write(this.#slot, POWER_ON);
    this.#done = this.#run();
    this.#done.catch(() => {}); // QEMU's end is told by others
  }

  async stop(): Promise<void> {
    this.#running = false;
    await this.#done;
  }

  async #run(): Promise<void> {
    let since = performance.now();
    while (this.#running) {
      const status = await this.#read(this.#slot);
      if (status & PDC) {
        since = performance.now();
        // QEMU presses the button for a plug as well
        await this.#write(this.#slot, (status & (ABP | PDC)) + POWER_ON);
      } else if (status & ABP || (status & PDS && performance.now() - since > LONGEST_MS)) {
        await this.#write(this.#slot, (status & ABP) + POWER_OFF);
        await this.#write(this.#slot, POWER_ON);
        this.ejected++;
      } else if (status & PDS) {
        const there = await this.#read(0x80010000);
        if (there !== 0xffffffff && (await this.#read(0x80010018)) >>> 4 !== WINDOW >>> 4) {
          await this.#write(0x80010018, WINDOW);
          await this.#write(0x80010004, 6);
          this.mapped++;
        }
      }
      await sleep(this.#lookMs);
    }
  }

  /** Offset of the PCI Express capability. */
  async #capability(): Promise<number> {
    let at = (await this.#read(this.#port + 0x34)) & 0xff;
    while (at !== 0) {
      const header = await this.#read(this.#port + at);
      if ((header & 0xff) === EXP_CAPABILITY) return this.#port + at;
      at = (header >>> 8) & 0xff;
    }
    throw new Error('the port has no PCI Express capability');
  }

  async #write(address: number, value: number): Promise<void> {
    await this.#qmp.hmp(`o/w 0xcf8 0x${address.toString(16)}`);
    await this.#qmp.hmp(`o/w 0xcfc 0x${value.toString(16)}`);
  }

  async #read(address: number): Promise<number> {
    await this.#qmp.hmp(`o/w 0xcf8 0x${address.toString(16)}`);
    return Number(/0x[0-9a-f]+\s*$/.exec(await this.#qmp.hmp('i/w 0xcfc'))?.[0] ?? 0);
  }
}
