/** What tests of a hook have that run on every processor: one attachment after the other, and guests without a kernel. */
import { exitsGuest } from '../../src/bench/exits/run.ts';
import type { Lab } from '../../src/lab/lab.ts';
import { runScript } from '../../src/lab/levels.ts';
import { L1_RUN } from '../../src/lab/machine.ts';
import { CLI } from '../../src/testbed/acceleration.ts';
import type { Acceleration } from '../../src/testbed/acceleration.ts';

export interface HookTestOptions {
  arenaMib: number;
  /** For one guest; default 150. */
  timeoutS?: number;
}

export abstract class HookTests<Stats> {
  protected readonly lab: Lab;
  protected readonly acceleration: Acceleration;
  protected readonly arenaMib: number;
  readonly #timeoutS: number;
  readonly #hook: 'exit' | 'call';

  protected constructor(hook: 'exit' | 'call', lab: Lab, acceleration: Acceleration, o: HookTestOptions) {
    this.#hook = hook;
    this.lab = lab;
    this.acceleration = acceleration;
    this.arenaMib = o.arenaMib;
    this.#timeoutS = o.timeoutS ?? 150;
  }

  guest(name: string, steps: string, ram: 'turtlefs' | 'anonymous' = 'turtlefs'): Promise<string[]> {
    return exitsGuest(this.lab.l1, { name, steps, ram, timeoutS: this.#timeoutS });
  }

  async stats(): Promise<Stats> {
    const command = `${CLI} host stats --hook ${this.#hook} --qmp ${L1_RUN.qmpSocket} --json`;
    return JSON.parse(await runScript(this.lab.l0, command, { timeoutMs: 300_000 })) as Stats;
  }
}
