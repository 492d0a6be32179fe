/** The other L1: a tenant that works and must not notice anything. Its nested guest checks its pages and times its faults. */
import { z } from 'zod';
import { CLI } from '../testbed/acceleration.ts';
import { ManagedGuest } from '../testbed/managed.ts';
import type { CleanupStack } from '../core/lifecycle.ts';
import { HyperturtleError } from '../core/errors.ts';
import { waitFor } from '../core/wait.ts';
import { TURTLEFS_DIR } from '../guest/vmm/arguments.ts';
import { run } from '../lab/levels.ts';
import type { Job, Level } from '../lab/levels.ts';
import { lazy } from '../core/lazy.ts';
import type { Output } from '../core/lazy.ts';

const PAGES = 512;
const READY_MS = 300_000;

const sliceSchema = lazy(() =>
  z.object({
    rounds: z.number(),
    checked: z.number(),
    mismatches: z.number(),
    faults: z.number(),
    /** Nanoseconds, and how many faults took so long. */
    times: z.array(z.tuple([z.number(), z.number()])),
  }),
);
export type Slice = Output<typeof sliceSchema>;

export class Watched {
  readonly guest: ManagedGuest;
  readonly #job: Job;
  #seen = 0;

  private constructor(guest: ManagedGuest, job: Job) {
    this.guest = guest;
    this.#job = job;
  }

  /** Module, agent and npf, one page a fault, and the nested guest, registered. */
  static async start(l1: Level, undo: CleanupStack, signal?: AbortSignal): Promise<Watched> {
    const guest = new ManagedGuest(l1);
    await guest.setUp(undo, signal);
    await guest.whenSettled(0, READY_MS, signal);
    await run(l1, [CLI, 'guest', 'set', '--group-max', '1'], { timeoutMs: READY_MS, signal });
    const job = await l1.spawn(
      ['/payload/l2/programs/fuzz_vmm', 'watch', `${TURTLEFS_DIR}/fuzz-watched.ram`, String(PAGES)],
      { signal },
    );
    undo.add('watched nested guest', async () => {
      await job.kill('KILL');
      await job.wait({ timeoutMs: 60_000 });
    });
    const watched = new Watched(guest, job);
    await watched.#line('{"ready"', READY_MS, signal);
    await guest.whenSettled(1, READY_MS, signal);
    return watched;
  }

  /** All since it was called last. */
  async slice(signal?: AbortSignal): Promise<Slice> {
    await this.#job.kill('USR1');
    return sliceSchema().parse(JSON.parse(await this.#line('{"rounds"', READY_MS, signal)));
  }

  #line(begin: string, timeoutMs: number, signal?: AbortSignal): Promise<string> {
    return waitFor(
      'the watched nested guest',
      async () => {
        const ended = await this.#job.status();
        const output = await this.#job.output();
        const lines = output.split('\n').slice(0, -1);
        const line = lines[this.#seen];
        if (line?.startsWith(begin)) {
          this.#seen++;
          return line;
        }
        if (ended !== undefined)
          throw new HyperturtleError(
            'HT_INTEGRITY',
            `the watched VMM ended (${ended}): ${output.slice(-300)}`,
          );
        return undefined;
      },
      { timeoutMs, intervalMs: 500, signal },
    );
  }
}

export interface FaultTimes {
  faults: number;
  p50Us: number;
  p99Us: number;
}

/** Fault times of all slices together. Pure. */
export function faultTimes(slices: readonly Pick<Slice, 'times'>[]): FaultTimes {
  const times = slices.flatMap((s) => s.times).sort((a, b) => a[0] - b[0]);
  const faults = times.reduce((n, [, k]) => n + k, 0);
  const at = (share: number): number => {
    let left = Math.ceil(faults * share);
    for (const [ns, n] of times) if ((left -= n) <= 0) return Math.round(ns / 100) / 10;
    return 0;
  };
  return { faults, p50Us: at(0.5), p99Us: at(0.99) };
}
