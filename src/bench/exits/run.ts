/**
 * What an exit costs that L1 answers, and the same answered in L0 by exit-cache: loops of CPUID and RDMSR in a guest
 * that does nothing else (c/l2/exits_guest.bare.c), vanilla and accelerated by turns on the same lab, and as L1 itself
 * has it: the same guest one level up. Times are the guest's own, in ticks of its TSC; entries of L1 are KVM's counters.
 */
import { z } from 'zod';
import { HyperturtleError } from '../../core/errors.ts';
import type { Progress } from '../../core/progress.ts';
import { CACHED_MSRS } from '../../guest/exit-counts.ts';
import type { Lab } from '../../lab/lab.ts';
import { run } from '../../lab/levels.ts';
import type { Level } from '../../lab/levels.ts';
import { Acceleration, CLI } from '../../testbed/acceleration.ts';
import { environmentOf } from '../shared/environment.ts';
import { KvmCounters, countersBetween } from '../../testbed/kvm-counters.ts';
import { environmentSchema } from '../shared/environment-schema.ts';
import { median } from '../../core/median.ts';
import { addOwn } from '../../core/own.ts';
import { recordOf } from '../../core/record.ts';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

export const EXIT_CACHE = '/payload/bpf/exit-cache.bpf.o';
export const CACHE_OPTIONS = [
  'exits=cpuid,rdmsr',
  `msrs=${CACHED_MSRS.map((m) => `0x${m.toString(16)}`).join(',')}`,
] as const;

export interface ExitBenchSpec {
  rounds: number;
  /** Exits of one loop. */
  exits: number;
  arenaMib: number;
  /** For one guest; default 150. */
  timeoutS?: number;
  version: string;
  progress: Progress;
  signal?: AbortSignal | undefined;
}

const EXIT_VARIANTS = ['vanilla', 'accelerated', 'l1'] as const;
export type ExitVariant = (typeof EXIT_VARIANTS)[number];

const count = lazy(() => z.number().int().nonnegative());

export const exitResultSchema = lazy(() =>
  z.object({
    benchmark: z.literal('exit'),
    environment: environmentSchema(),
    parameters: z.object({
      rounds: count(),
      /** Exits of one loop. */
      exits: count().positive(),
      l1MemoryMib: count(),
      l1Cpus: count(),
    }),
    samples: z.array(
      z.object({
        variant: z.enum(EXIT_VARIANTS),
        round: count(),
        instruction: z.enum(['cpuid', 'rdmsr']),
        /** Ticks of the whole loop. */
        ticks: count(),
      }),
    ),
    /** Exits by cause that L1 was entered for, of all rounds together, as KVM in L0 counted them while the guests ran. */
    reflected: z.object({
      vanilla: recordOf(z.string(), count()),
      accelerated: recordOf(z.string(), count()),
    }),
  }),
);
export type ExitResult = Output<typeof exitResultSchema>;

/** Runs the guest at a level to its end. */
export async function exitsGuest(
  level: Level,
  o: {
    name: string;
    steps: string;
    ram?: 'turtlefs' | 'anonymous';
    registeredBy?: 'self' | 'agent';
    timeoutS?: number;
    signal?: AbortSignal | undefined;
  },
): Promise<string[]> {
  const { timeoutS = 150, registeredBy = 'self' } = o;
  const out = await run(
    level,
    [
      ...[CLI, 'guest', 'l2', 'exits', '--name', o.name, '--steps', o.steps],
      ...['--ram', o.ram ?? 'turtlefs', '--timeout-s', String(timeoutS), '--registered-by', registeredBy],
    ],
    { timeoutMs: (timeoutS + 50) * 1000, signal: o.signal },
  );
  return (JSON.parse(out) as { lines: string[] }).lines;
}

/** Ticks of a loop, from `cpuid n 00000100 ticks 00000000 00025084`. */
export function ticksOf(lines: readonly string[], what: string): number {
  for (const line of lines) {
    const m = new RegExp(`^${what}.* n ([0-9a-f]+) ticks ([0-9a-f]+) ([0-9a-f]+)$`).exec(line);
    if (m) return parseInt(m[2] ?? '', 16) * 2 ** 32 + parseInt(m[3] ?? '', 16);
  }
  throw new HyperturtleError(
    'HT_COMMAND_FAILED',
    `the guest says nothing of its loop of ${what}: ${lines.join(' | ')}`,
  );
}

export async function runExitBench(lab: Lab, spec: ExitBenchSpec): Promise<ExitResult> {
  const { signal, rounds } = spec;
  await using a = await Acceleration.on(lab, {
    arenaMib: spec.arenaMib,
    hook: 'exit',
    program: EXIT_CACHE,
    options: CACHE_OPTIONS,
    signal,
  });
  const counters = await KvmCounters.start(lab.l0, signal);
  const startedAt = new Date();
  const samples: ExitResult['samples'] = [];
  const reflected: ExitResult['reflected'] = { vanilla: {}, accelerated: {} };
  const n = spec.exits.toString(16);
  // the first of each has no answer yet: it is not measured
  const steps = `cpuid:1:0:1 rdmsr:8b:1 cpuid:1:0:${n} rdmsr:8b:${n}`;
  try {
    for (let round = 0; round < rounds; round++)
      for (const variant of EXIT_VARIANTS) {
        const step = spec.progress.step(`round ${round + 1} of ${rounds}: ${variant}`);
        if (variant !== 'l1') await a.setLinked(variant === 'accelerated', signal);
        const { timeoutS = 150 } = spec;
        const guest = { name: `exit-${variant}-${round}`, steps, timeoutS, signal };
        const before = await counters.read(signal);
        const lines =
          variant === 'l1'
            ? await exitsGuest(lab.l0, { ...guest, ram: 'anonymous' })
            : await exitsGuest(lab.l1, guest);
        const { reflectedByCause } = countersBetween(before, await counters.read(signal));
        if (variant !== 'l1') add(reflected[variant], reflectedByCause);
        for (const instruction of ['cpuid', 'rdmsr'] as const) {
          const ticks = ticksOf(
            lines.filter((l) => !l.includes(' n 00000001 ')),
            instruction,
          );
          samples.push({ variant, round, instruction, ticks });
        }
        step.done();
      }
  } finally {
    await counters.stop();
  }
  const { memMib: l1MemoryMib, cpus: l1Cpus } = lab.environment().l1;
  return {
    benchmark: 'exit',
    environment: await environmentOf(lab, spec.version, startedAt),
    parameters: { rounds, exits: spec.exits, l1MemoryMib, l1Cpus },
    samples,
    reflected,
  };
}

function add(to: Record<string, number>, counts: Record<string, number>): void {
  for (const [name, n] of Object.entries(counts)) addOwn(to, name, n);
}

/** Median of the ticks of one exit. */
export function ticksPerExit(r: ExitResult, variant: ExitVariant, instruction: string): number {
  const all = r.samples.filter((s) => s.variant === variant && s.instruction === instruction);
  return median(all.map((s) => s.ticks / r.parameters.exits));
}
