/**
 * Random updates of memory (GUPS), by c/l2/gups: in L1, and in an L2 without and with the program in L0. The table is filled
 * in order first, by first touches; the updates then meet pages that are there.
 */
import { z } from 'zod';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';
import { median } from '../../core/median.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { withStep } from '../../core/progress.ts';
import type { Progress } from '../../core/progress.ts';
import type { Lab } from '../../lab/lab.ts';
import { run } from '../../lab/levels.ts';
import { ManagedAcceleration } from '../../testbed/managed.ts';
import { withL2 } from '../../testbed/l2-session.ts';
import { L2_TICK_ARGUMENTS } from '../../testbed/l2-spec.ts';
import { environmentOf } from '../shared/environment.ts';
import { environmentSchema } from '../shared/environment-schema.ts';

export const GUPS_VARIANTS = ['l1', 'vanilla', 'accelerated'] as const;
export type GupsVariant = (typeof GUPS_VARIANTS)[number];

/** What a line of c/l2/gups is; times in nanoseconds of the guest's clock. */
const lineSchema = lazy(() =>
  z.object({
    mib: z.number(),
    updates: z.number(),
    fillNs: z.number().positive(),
    updateNs: z.number().positive(),
    undoNs: z.number().positive(),
    errors: z.number(),
  }),
);
export type GupsLine = Output<typeof lineSchema>;

export const gupsResultSchema = lazy(() =>
  z.object({
    benchmark: z.literal('gups'),
    environment: environmentSchema(),
    parameters: z.object({
      rounds: z.number(),
      mib: z.number(),
      updates: z.number(),
      l1MemoryMib: z.number(),
      l1Cpus: z.number(),
      l2MemoryMib: z.number(),
    }),
    samples: z.array(lineSchema().extend({ variant: z.enum(GUPS_VARIANTS), round: z.number() })),
  }),
);
export type GupsResult = Output<typeof gupsResultSchema>;

export interface GupsSpec {
  rounds: number;
  /** The table; a power of two. */
  mib: number;
  updates: number;
  arenaMib: number;
  version: string;
  progress: Progress;
  signal?: AbortSignal | undefined;
}

/** Memory of L2 that is not the table's. */
const L2_OWN_MIB = 96;
const RUN_MS = 600_000;

/** Throws HT_INTEGRITY for a table that is not what the updates make of it. */
export function parseGups(text: string): GupsLine {
  const line = text.split('\n').find((l) => /^{.*}$/.test(l));
  const parsed = lineSchema().safeParse(line === undefined ? undefined : JSON.parse(line));
  if (!parsed.success)
    throw new HyperturtleError(
      'HT_COMMAND_FAILED',
      `gups: a line of JSON expected, '${text.slice(0, 200)}' found`,
    );
  if (parsed.data.errors > 0)
    throw new HyperturtleError('HT_INTEGRITY', `gups: ${parsed.data.errors} entries of its table are wrong`);
  return parsed.data;
}

/** Updates a second, in millions: the median of both passes of all rounds. Undefined: it was not measured. */
export function updateRate(r: Pick<GupsResult, 'samples'>, variant: GupsVariant): number | undefined {
  const all = r.samples
    .filter((s) => s.variant === variant)
    .flatMap((s) => [s.updateNs, s.undoNs].map((ns) => (s.updates * 1000) / ns));
  return all.length > 0 ? median(all) : undefined;
}

/** Milliseconds to fill the table; the median. */
export function fillTime(r: Pick<GupsResult, 'samples'>, variant: GupsVariant): number | undefined {
  const all = r.samples.filter((s) => s.variant === variant).map((s) => s.fillNs / 1e6);
  return all.length > 0 ? median(all) : undefined;
}

export async function runGupsBench(lab: Lab, spec: GupsSpec): Promise<GupsResult> {
  const { rounds, mib, updates, arenaMib, signal } = spec;
  const startedAt = new Date();
  const l2MemoryMib = mib + L2_OWN_MIB;
  await using a = await ManagedAcceleration.on(lab, { arenaMib, signal });
  const samples: GupsResult['samples'] = [];
  for (let round = 0; round < rounds; round++)
    for (const variant of round % 2 === 0 ? GUPS_VARIANTS : [...GUPS_VARIANTS].reverse()) {
      const line = await withStep(
        spec.progress,
        `round ${round + 1} of ${rounds}: ${variant}`,
        async () => {
          await a.setLinked(variant === 'accelerated', signal);
          return parseGups(await once(lab, variant, { mib, updates, l2MemoryMib, signal }));
        },
        (l) => `${((l.updates * 1000) / l.updateNs).toFixed(2)} M updates/s`,
      );
      samples.push({ variant, round, ...line });
    }
  const { memMib: l1MemoryMib, cpus: l1Cpus } = lab.environment().l1;
  return {
    benchmark: 'gups',
    environment: await environmentOf(lab, spec.version, startedAt),
    parameters: { rounds, mib, updates, l1MemoryMib, l1Cpus, l2MemoryMib },
    samples,
  };
}

/** What the program says. */
async function once(
  lab: Lab,
  variant: GupsVariant,
  o: { mib: number; updates: number; l2MemoryMib: number; signal: AbortSignal | undefined },
): Promise<string> {
  const args = [String(o.mib), String(o.updates)];
  const wait = { timeoutMs: RUN_MS, signal: o.signal };
  if (variant === 'l1') return run(lab.l1, ['/payload/l2/programs/gups', ...args], wait);
  return withL2(
    lab,
    {
      name: `gups-${variant}`,
      ram: variant === 'vanilla' ? 'tmpfs' : 'turtlefs',
      memMib: o.l2MemoryMib,
      append: L2_TICK_ARGUMENTS,
      machine: 'pc',
      port: 0,
    },
    async ({ shell }) => (await shell.runOk(`gups ${args.join(' ')}`, wait)).join('\n'),
    { signal: o.signal },
  );
}
