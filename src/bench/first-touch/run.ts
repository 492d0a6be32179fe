/** Runs the benchmarks of the fault path in a lab and gives the result file's content. */
import { HyperturtleError, isHyperturtleError } from '../../core/errors.ts';
import { CleanupStack } from '../../core/lifecycle.ts';
import { withStep } from '../../core/progress.ts';
import type { Progress } from '../../core/progress.ts';
import type { Lab } from '../../lab/lab.ts';
import { guestStatus } from '../../testbed/acceleration.ts';
import { ManagedAcceleration } from '../../testbed/managed.ts';
import type { GuestStatus, LargeFrames } from '../../testbed/acceleration.ts';
import { l2KernelArguments } from '../../testbed/l2-session.ts';
import { environmentOf } from '../shared/environment.ts';
import { FaultTrace } from '../../testbed/fault-trace.ts';
import { KvmCounters } from '../../testbed/kvm-counters.ts';
import { RESULT_SCHEMA_VERSION } from '../shared/environment-schema.ts';
import type { BenchResult, BootSample, MemorySample, Pattern, TouchSample, Variant } from './schema.ts';
import { summarize } from './summary.ts';
import { reservedMemory } from './touch.ts';
import { L2_TICK_ARGUMENTS } from '../../testbed/l2-spec.ts';
import { takeTurn, turnsOf } from './turn.ts';
import type { TurnContext, TurnResult } from './turn.ts';

export interface BenchSpec {
  benchmark: BenchResult['benchmark'];
  touchMib: number;
  rounds: number;
  variants: readonly Variant[];
  patterns: readonly Pattern[];
  /** Also boot the same kernel not nested. */
  notNested: boolean;
  /** No touches. */
  bootOnly: boolean;
  l2MemoryMib: number;
  arenaMib: number;
  /** QEMU's machine type for L2. */
  machine: string;
  /** Begin no round after the first that would not be over by then. */
  budgetMs?: number;
  /** 2 MiB frames that L1 keeps; 0: none. */
  largeFrames: LargeFrames;
  /** Count the instructions of each fault, by level. The lab's time must be counted in instructions. */
  count?: boolean;
}

export interface BenchOptions {
  /** Version of this program. */
  version: string;
  progress: Progress;
  signal?: AbortSignal | undefined;
}

/** Throws HT_USAGE where nobody counts instructions, or more than one vCPU's events would be in one trace. */
function checkCounted(lab: Lab): void {
  const { accel, clock, l1 } = lab.environment();
  if (accel !== 'tcg' || clock !== 'instructions' || l1.cpus !== 1)
    throw new HyperturtleError(
      'HT_USAGE',
      `counting instructions expects a lab of TCG with --clock instructions and one CPU in L1, this one has ${accel}, ${clock} and ${l1.cpus}`,
    );
}

/**
 * The lab must be up with its payload, and nobody else using it. It is to go down next: modules, daemon, agent and program
 * stay in it, as ending them in order takes longer under emulation than a turn.
 */
export async function runBench(lab: Lab, spec: BenchSpec, options: BenchOptions): Promise<BenchResult> {
  const { progress, signal } = options;
  const startedAt = new Date();
  const reserved = reservedMemory(spec.l2MemoryMib, spec.touchMib);
  const append = `console=ttyS0 ${L2_TICK_ARGUMENTS} ${reserved.kernelArguments}`;

  if (spec.count === true) checkCounted(lab);
  const undo = new CleanupStack();
  return undo.onFailure(async () => {
    const counters = await KvmCounters.start(lab.l0, signal);
    undo.add('counters', () => counters.stop());
    const trace = spec.count === true ? await FaultTrace.open(lab.l0, signal) : undefined;
    if (trace !== undefined) undo.add('trace', () => trace.close());
    const { acceleration, guest } = await accelerated(lab, spec, options);
    const groupDefault = guest.group_max;
    const group = { now: groupDefault };
    const context = {
      ...spec,
      lab,
      counters,
      trace,
      acceleration,
      groupDefault,
      group,
      reserved,
      append,
      signal,
    };
    const { touches, boots, memory, rounds } = await takeTurns(context, spec, progress, startedAt);
    if (touches.length + boots.length === 0)
      throw new HyperturtleError('HT_NO_MEMORY', 'nothing was measured: L1 had no memory for any turn');
    const result: BenchResult = {
      schema: RESULT_SCHEMA_VERSION,
      benchmark: spec.benchmark,
      environment: await environmentOf(lab, options.version, startedAt),
      parameters: parametersOf(lab, { ...spec, rounds }, guest, append),
      touches,
      boots,
      memory,
      summary: summarize({ touches, boots, memory }),
    };
    await undo.run();
    return result;
  });
}

/** Daemon, agent and program; they stay in the lab. */
async function accelerated(
  lab: Lab,
  spec: BenchSpec,
  { progress, signal }: BenchOptions,
): Promise<{ acceleration: ManagedAcceleration; guest: GuestStatus }> {
  const accelerate = async (): Promise<{ acceleration: ManagedAcceleration; guest: GuestStatus }> => {
    const { arenaMib, largeFrames } = spec;
    const acceleration = await ManagedAcceleration.on(lab, { arenaMib, largeFrames, signal });
    return { acceleration, guest: await guestStatus(lab.l1, signal) };
  };
  return withStep(
    progress,
    'daemon in L0, agent in L1, npf loaded over their channel',
    accelerate,
    ({ guest }) => `groups of up to ${guest.group_max} pages, pool of ${guest.pool_high} frames`,
  );
}

/** Turn after turn, until another round would take too long. */
async function takeTurns(
  context: TurnContext,
  spec: BenchSpec,
  progress: Progress,
  startedAt: Date,
): Promise<TurnResult & { rounds: number }> {
  const touches: TouchSample[] = [];
  const boots: BootSample[] = [];
  const memory: MemorySample[] = [];
  const turns = turnsOf(spec);
  let rounds = spec.rounds;
  for (const [i, { turn, round }] of turns.entries()) {
    if (roundTooLate(Date.now() - startedAt.getTime(), i, turns.length / spec.rounds, spec.budgetMs)) {
      rounds = round;
      progress.note(`  ${round} of ${spec.rounds} rounds: another would take too long here`);
      break;
    }
    const turnStep = progress.step(`[${i + 1}/${turns.length}] round ${round + 1}, ${turn}`);
    try {
      const done = await takeTurn(context, turn, round);
      touches.push(...done.touches);
      boots.push(...done.boots);
      memory.push(...done.memory);
      turnStep.done(remark(done));
    } catch (e) {
      turnStep.fail();
      if (turn !== 'l2-hugetlb' || !isHyperturtleError(e, 'HT_NO_MEMORY')) throw e;
      progress.note(`  left out: ${e.message}`);
    }
  }
  return { touches, boots, memory, rounds };
}

/** Whether turn `i` begins a round that, at the pace so far, would end after the budget. Never the first round. */
export function roundTooLate(
  elapsedMs: number,
  i: number,
  turnsPerRound: number,
  budgetMs: number | undefined,
): boolean {
  if (budgetMs === undefined || i === 0 || i % turnsPerRound !== 0) return false;
  return (elapsedMs / i) * (i + turnsPerRound) > budgetMs;
}

/** What a turn gave, in a few words for the progress line. */
function remark(r: TurnResult): string {
  const boots = r.boots.map((b) => `boot ${(b.bootMs / 1000).toFixed(1)} s`);
  const touches = r.touches
    .filter((s) => s.touch.pass === 1)
    .map((s) => `${s.touch.pattern} ${Math.round(s.touch.avgNs / 1000)} µs`);
  return [...boots, ...touches].join(', ');
}

function parametersOf(
  lab: Lab,
  spec: BenchSpec,
  guest: GuestStatus,
  append: string,
): BenchResult['parameters'] {
  const { l1 } = lab.environment();
  return {
    touchMib: spec.touchMib,
    rounds: spec.rounds,
    variants: [...spec.variants],
    patterns: [...spec.patterns],
    l2MemoryMib: spec.l2MemoryMib,
    l1MemoryMib: l1.memMib,
    l1Cpus: l1.cpus,
    groupDefault: guest.group_max,
    largeFrames: spec.largeFrames,
    poolHigh: guest.pool_high,
    l2Machine: spec.machine,
    l2KernelArguments: l2KernelArguments({ append }),
  };
}
