/**
 * c/l2/tiny_vmm in L1: a nested guest without an operating system, for machines on which one would take minutes. What it
 * does is told in steps; each waits until counters have been read.
 */
import { z } from 'zod';
import { HyperturtleError } from '../core/errors.ts';
import { waitFor } from '../core/wait.ts';
import type { Job, Level } from '../lab/levels.ts';
import { lazy } from '../core/lazy.ts';
import type { Output } from '../core/lazy.ts';

const PROGRAM = '/payload/l2/programs/tiny_vmm';
/** Programs of Node start in seconds there. */
const LAUNCH_MS = 240_000;
/** Page 0 of the steps, in the file that is the guest's RAM. */
export const TINY_VMM_TEST_OFFSET = 4 << 20;

const resultSchema = lazy(() =>
  z.object({
    step: z.enum([
      'touch',
      'scattered',
      'cpuid',
      'calls',
      'share',
      'log',
      'cpu',
      'policy',
      'mbind',
      'discard',
    ]),
    count: z.number(),
    visits: z.number(),
    userExits: z.number(),
    ns: z.number(),
    readBackOwn: z.number(),
    /** RAX, RBX, RCX, RDX at its end. */
    registers: z.array(z.number()).length(4),
    mismatches: z.number(),
  }),
);
export type TinyVmmResult = Output<typeof resultSchema>;

export class TinyVmm implements AsyncDisposable {
  readonly #job: Job;
  #steps = 0;

  private constructor(job: Job) {
    this.#job = job;
  }

  /** `ram`, `steps`: as tiny_vmm.c has them; `by`: what starts it. The VM is there when this returns; it has not run. */
  static async start(
    l1: Level,
    o: { ram: string; pages: number; steps: readonly string[]; by?: readonly string[] },
    signal?: AbortSignal,
  ): Promise<TinyVmm> {
    const { by = [] } = o;
    const command = [...by, PROGRAM, o.ram, String(o.pages), ...o.steps];
    const vmm = new TinyVmm(await l1.spawn(command, { signal }));
    await vmm.#line(0, by.length > 0 ? LAUNCH_MS : 60_000, signal);
    return vmm;
  }

  get pid(): number {
    return this.#job.pid;
  }

  /** Starts the next step, and returns at once. */
  async begin(): Promise<void> {
    this.#steps++;
    await this.#job.kill('USR1');
  }

  /** Its result, when it is done. */
  async result(timeoutMs: number, signal?: AbortSignal): Promise<TinyVmmResult> {
    const line = await this.#line(this.#steps, timeoutMs, signal);
    return resultSchema().parse(JSON.parse(line));
  }

  async step(timeoutMs: number, signal?: AbortSignal): Promise<TinyVmmResult> {
    await this.begin();
    return this.result(timeoutMs, signal);
  }

  /** Line `n` of its output. */
  #line(n: number, timeoutMs: number, signal: AbortSignal | undefined): Promise<string> {
    return waitFor(
      `tiny_vmm: line ${n}`,
      async () => {
        const ended = await this.#job.status();
        const output = await this.#job.output();
        const lines = output.split('\n').slice(0, -1);
        if (lines[n]?.startsWith('{')) return lines[n];
        if (ended !== undefined)
          throw new HyperturtleError('HT_COMMAND_FAILED', `tiny_vmm: status ${ended}: ${output.trim()}`);
        return undefined;
      },
      { timeoutMs, intervalMs: 300, signal },
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if ((await this.#job.status()) === undefined) await this.#job.kill('KILL');
    await this.#job.wait({ timeoutMs: 60_000 });
  }
}
