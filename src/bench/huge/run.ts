/**
 * 2 MiB pages in L1, as its users have them today (L2's RAM on hugetlbfs) and by the hyperupcall: first touches of a
 * guest without an operating system, and boots of a Linux, by turns on the same lab.
 */
import { z } from 'zod';
import { CleanupStack } from '../../core/lifecycle.ts';
import type { Progress } from '../../core/progress.ts';
import { HUGETLBFS_DIR, TURTLEFS_DIR } from '../../guest/vmm/arguments.ts';
import { HT_LARGE_PAGES } from '../../kernel/arena.ts';
import type { Lab } from '../../lab/lab.ts';
import { runScript } from '../../lab/levels.ts';
import type { Job } from '../../lab/levels.ts';
import { Acceleration, CLI, jobSays, whenLargePoolFull } from '../../testbed/acceleration.ts';
import { reserveHugePages } from '../../testbed/huge-pages.ts';
import { KvmCounters, countersBetween } from '../../testbed/kvm-counters.ts';
import { environmentOf } from '../shared/environment.ts';
import { withL2 } from '../../testbed/l2-session.ts';
import { environmentSchema } from '../shared/environment-schema.ts';
import { median } from '../../core/median.ts';
import { TinyVmm } from '../../testbed/tiny-vmm.ts';
import { L2_TICK_ARGUMENTS } from '../../testbed/l2-spec.ts';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

export const HUGE_VARIANTS = ['vanilla', 'accelerated'] as const;
type HugeVariant = (typeof HUGE_VARIANTS)[number];

export interface HugeSpec {
  rounds: number;
  /** Memory to touch. */
  mib: number;
  l2MemoryMib: number;
  arenaMib: number;
  version: string;
  progress: Progress;
  signal?: AbortSignal | undefined;
}

const count = lazy(() => z.number().int().nonnegative());

const hugeSampleSchema = lazy(() =>
  z.object({
    variant: z.enum(HUGE_VARIANTS),
    round: count(),
    /** Time of all touches, by L1's clock. */
    touchNs: z.number().nonnegative(),
    /** Page faults of L2 that left it, and how many of them L1 was entered for. */
    touchFaults: count(),
    touchFaultsToL1: count(),
    /** From the VMM's `cont` to the first line of the guest's /init. */
    bootMs: z.number().nonnegative(),
    bootFaults: count(),
    bootFaultsToL1: count(),
  }),
);
export type HugeSample = Output<typeof hugeSampleSchema>;

export const hugeResultSchema = lazy(() =>
  z.object({
    benchmark: z.literal('huge'),
    environment: environmentSchema(),
    parameters: z.object({
      rounds: count(),
      /** Touched and measured. */
      pages: count(),
      /** Frames of 2 MiB, in either variant. */
      frames: count(),
      l1MemoryMib: count(),
      l1Cpus: count(),
      l2MemoryMib: count(),
      l2KernelArguments: z.string(),
    }),
    samples: z.array(hugeSampleSchema()),
  }),
);
export type HugeResult = Output<typeof hugeResultSchema>;

const STEP_MS = 300_000;

export async function runHugeBench(lab: Lab, spec: HugeSpec): Promise<HugeResult> {
  const { l0, l1 } = lab;
  const startedAt = new Date();
  const { signal, rounds, mib, l2MemoryMib } = spec;
  // the first range is where flags are learned; what lies before the test pages is the guest's code
  const frames = Math.max(mib, l2MemoryMib) / 2 + 8;
  await using a = await Acceleration.on(lab, { arenaMib: spec.arenaMib, largeFrames: frames, signal });
  const undo = new CleanupStack();
  const counters = await KvmCounters.start(l0, signal);
  undo.add('counters', () => counters.stop());
  const samples: HugeSample[] = [];
  try {
    undo.add('pages set aside', await reserveHugePages(l1, frames, signal));
    for (let round = 0; round < rounds; round++)
      for (const variant of round % 2 === 0 ? HUGE_VARIANTS : [...HUGE_VARIANTS].reverse()) {
        const step = spec.progress.step(`round ${round + 1} of ${rounds}: ${variant}`);
        await a.setLinked(variant === 'accelerated', signal);
        const touch = await touchOnce(lab, counters, variant, (mib << 20) / 4096, frames, signal);
        const boot = await bootOnce(lab, counters, variant, l2MemoryMib, frames, signal);
        samples.push({ variant, round, ...touch, ...boot });
        step.done(`${(touch.touchNs / 1e6).toFixed(1)} ms, boot ${(boot.bootMs / 1000).toFixed(1)} s`);
      }
  } finally {
    await undo.run();
  }
  const { memMib: l1MemoryMib, cpus: l1Cpus } = lab.environment().l1;
  return {
    benchmark: 'huge',
    environment: await environmentOf(lab, spec.version, startedAt),
    parameters: {
      rounds,
      pages: (mib << 20) / 4096 - HT_LARGE_PAGES,
      frames,
      l1MemoryMib,
      l1Cpus,
      l2MemoryMib,
      l2KernelArguments: L2_TICK_ARGUMENTS,
    },
    samples,
  };
}

async function touchOnce(
  lab: Lab,
  counters: KvmCounters,
  variant: HugeVariant,
  pages: number,
  frames: number,
  signal: AbortSignal | undefined,
): Promise<Pick<HugeSample, 'touchNs' | 'touchFaults' | 'touchFaultsToL1'>> {
  const { l1 } = lab;
  if (variant === 'accelerated') await whenLargePoolFull(lab.l1, frames, signal);
  const ram = `${variant === 'vanilla' ? HUGETLBFS_DIR : TURTLEFS_DIR}/huge.ram`;
  const steps = [`touch:0:${HT_LARGE_PAGES}`, `touch:${HT_LARGE_PAGES}:${pages - HT_LARGE_PAGES}`];
  const undo = new CleanupStack();
  try {
    undo.add('file', () => runScript(l1, `rm -f ${ram}`).then(() => {}));
    const vmm = await TinyVmm.start(l1, { ram, pages, steps }, signal);
    undo.add('VMM', () => vmm[Symbol.asyncDispose]());
    if (variant === 'accelerated') {
      const register: Job = await l1.spawn([CLI, 'guest', 'register', '--pid', String(vmm.pid)], { signal });
      undo.add('registration', async () => {
        if ((await register.status()) === undefined) await register.kill('TERM');
        await register.wait({ timeoutMs: 60_000 });
      });
      await jobSays(register, /registered/, 'hyperturtle guest register', 120_000, signal);
    }
    await vmm.step(STEP_MS, signal);
    const before = await counters.read(signal);
    const { ns } = await vmm.step(STEP_MS, signal);
    const c = countersBetween(before, await counters.read(signal));
    return {
      touchNs: ns,
      touchFaults: c.l2ExitsByCause['npf'] ?? 0,
      touchFaultsToL1: c.reflectedByCause['npf'] ?? 0,
    };
  } finally {
    await undo.run();
  }
}

async function bootOnce(
  lab: Lab,
  counters: KvmCounters,
  variant: HugeVariant,
  memMib: number,
  frames: number,
  signal: AbortSignal | undefined,
): Promise<Pick<HugeSample, 'bootMs' | 'bootFaults' | 'bootFaultsToL1'>> {
  if (variant === 'accelerated') await whenLargePoolFull(lab.l1, frames, signal);
  const before = await counters.read(signal);
  return withL2(
    lab,
    {
      name: `huge-${variant}`,
      ram: variant === 'vanilla' ? 'hugetlbfs' : 'turtlefs',
      memMib,
      append: L2_TICK_ARGUMENTS,
      machine: 'pc',
      port: 0,
    },
    async ({ bootMs }) => {
      const c = countersBetween(before, await counters.read(signal));
      return {
        bootMs,
        bootFaults: c.l2ExitsByCause['npf'] ?? 0,
        bootFaultsToL1: c.reflectedByCause['npf'] ?? 0,
      };
    },
    { signal },
  );
}

/** Vanilla's median against that of accelerated. */
export function hugeRatio(r: HugeResult, of: (s: HugeSample) => number): number {
  const all = (variant: HugeVariant): number =>
    median(r.samples.filter((s) => s.variant === variant).map(of));
  return all('vanilla') / all('accelerated');
}
