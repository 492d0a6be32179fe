/** c/l2/slot_vmm in L1: a VMM that changes slots and protections under its running guest. */
import { z } from 'zod';
import { HyperturtleError } from '../core/errors.ts';
import { waitFor } from '../core/wait.ts';
import type { Job, Level } from '../lab/levels.ts';
import { lazy } from '../core/lazy.ts';
import type { Output } from '../core/lazy.ts';

const PROGRAM = '/payload/l2/programs/slot_vmm';

const readySchema = lazy(() =>
  z.object({ ready: z.number(), places: z.array(z.number()).length(2), bytes: z.number() }),
);
const resultSchema = lazy(() =>
  z.object({
    step: z.string(),
    changes: z.number(),
    /** Writes of the guest to where no slot was, as it should be. */
    mmio: z.number(),
    /** Writes of the guest that reached memory which no slot had any more. */
    stale: z.number(),
    /** The errno that ended the guest's write to protected memory. */
    refused: z.number(),
    mismatches: z.number(),
    ms: z.number(),
    /** Exits of another VM meanwhile. */
    watched: z.number(),
    /** Grace periods meanwhile, and CPUs of L1 that were interrupted for those of single L2s. */
    graces: z.number(),
    interrupted: z.number(),
    /** The longest slot change, registration, mprotect() or question to the module, in milliseconds. */
    slowest: z.number(),
    /** Ranges of its RAM that were exported when it had registered itself. */
    slots: z.number(),
    /** The most frames that were charged ahead during `rush`. */
    credit: z.number(),
    /** Frames that programs have taken since its registration. */
    taken: z.number(),
    /** Why pages of it are left out: bits HTG_LEFT_OUT_* of the module. */
    left_out: z.number(),
    /** It is registered, and programs may act for it. */
    on: z.boolean(),
  }),
);
export type SlotVmmResult = Output<typeof resultSchema>;

export class SlotVmm implements AsyncDisposable {
  readonly #job: Job;
  #lines = 0;
  /** Where its hot slot comes and goes, in guest addresses. */
  hot = { from: 0, to: 0 };

  private constructor(job: Job) {
    this.#job = job;
  }

  static async start(
    l1: Level,
    o: { ram: string; size: 'small' | 'large'; steps: readonly string[]; cgroup?: string | undefined },
  ): Promise<SlotVmm> {
    const command = [PROGRAM, o.ram, o.size, ...o.steps];
    const within = 'echo $$ > "$0"/cgroup.procs && exec "$@"';
    const vmm = new SlotVmm(
      await l1.spawn(o.cgroup === undefined ? command : ['sh', '-c', within, o.cgroup, ...command]),
    );
    const { places, bytes } = readySchema().parse(await vmm.#line(0, 60_000));
    vmm.hot = { from: places[0]!, to: places[1]! + bytes };
    return vmm;
  }

  get pid(): number {
    return this.#job.pid;
  }

  async step(timeoutMs: number): Promise<SlotVmmResult> {
    await this.#job.kill('USR1');
    return resultSchema().parse(await this.#line(++this.#lines, timeoutMs));
  }

  /** Begins the step `busy`, `crowd` or `rush`; the next `step()` ends it. */
  async begin(timeoutMs: number): Promise<void> {
    await this.#job.kill('USR1');
    z.object({ busy: z.literal(true) }).parse(await this.#line(++this.#lines, timeoutMs));
  }

  async #line(n: number, timeoutMs: number): Promise<unknown> {
    const line = await waitFor(
      `slot_vmm: line ${n}`,
      async () => {
        const ended = await this.#job.status();
        const output = await this.#job.output();
        const said = output.split('\n').slice(0, -1)[n];
        if (said === undefined && ended !== undefined)
          throw new HyperturtleError('HT_COMMAND_FAILED', `slot_vmm: status ${ended}: ${output.trim()}`);
        return said;
      },
      { timeoutMs, intervalMs: 300 },
    );
    return JSON.parse(line) as unknown;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if ((await this.#job.status()) === undefined) await this.#job.kill('KILL');
    await this.#job.wait({ timeoutMs: 60_000 });
  }
}
