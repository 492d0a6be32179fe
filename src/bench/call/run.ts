/**
 * What a call of a program in L0 costs (the hook `call`): from L1's kernel against a hypercall that KVM answers, from an
 * L2 against one that its L1 answers and against one of an L1, and over the channel. By turns in each round, on the same
 * lab. Loops of a guest are timed by its TSC, those of L1 by its clock, so each is compared with its own kind.
 */
import { CleanupStack } from '../../core/lifecycle.ts';
import type { Progress } from '../../core/progress.ts';
import type { Lab } from '../../lab/lab.ts';
import { run } from '../../lab/levels.ts';
import type { Level } from '../../lab/levels.ts';
import { Acceleration } from '../../testbed/acceleration.ts';
import { KvmCounters, countersBetween } from '../../testbed/kvm-counters.ts';
import { ManagedAcceleration } from '../../testbed/managed.ts';
import { exitsGuest, ticksOf } from '../exits/run.ts';
import type { Environment } from '../shared/environment-schema.ts';
import { environmentOf } from '../shared/environment.ts';
import { median } from '../../core/median.ts';

const COUNTERS = '/payload/bpf/counters.bpf.o';
/** examples/counters */
const NUMBER = 0x48540010;
const HEX = NUMBER.toString(16);
const OPTIONS = [`numbers=0x${HEX}`, 'from=both'];

export interface CallBenchSpec {
  rounds: number;
  /** Calls of one loop. */
  calls: number;
  /** By the channel, once; 0: none. */
  channelCalls: number;
  arenaMib: number;
  /** For one guest; default 150. */
  timeoutS?: number;
  version: string;
  progress: Progress;
  signal?: AbortSignal | undefined;
}

/** Loops of L1 are short, and it has other work beside them: so many times as long as those of guests. */
const L1_TIMES = 10;

/** `l1`: in nanoseconds of its clock. `guest`: as an L1, and `l2`: in ticks of their TSC. */
export type CallVariant = 'l1-plain' | 'l1-call' | 'guest-plain' | 'l2-plain' | 'l2-call' | 'channel';

export interface CallResult {
  benchmark: 'call';
  environment: Environment;
  parameters: {
    rounds: number;
    calls: number;
    channelCalls: number;
    l1MemoryMib: number;
    l1Cpus: number;
  };
  /** `each`: time of one call. */
  samples: { variant: CallVariant; round: number; each: number }[];
  /** Entries of L1 for VMMCALL or VMCALL of L2, of all rounds together, as KVM in L0 counted them. */
  reflected: Record<'l2-plain' | 'l2-call', number>;
}

/** In L1's kernel; nanoseconds of one. */
async function l1Calls(l1: Level, n: number, signal: AbortSignal | undefined): Promise<number> {
  const words = ['1', '0', '0'];
  const out = await run(l1, ['/payload/l2/programs/calls', 'kernel', `0x${HEX}`, String(n), ...words], {
    timeoutMs: 300_000,
    signal,
  });
  return (JSON.parse(out) as { ns: number }).ns / n;
}

interface Loops {
  lab: Lab;
  spec: CallBenchSpec;
  counters: KvmCounters;
  reflected: CallResult['reflected'];
}

/** A loop of one variant: time of one call. */
async function loop(
  { lab, spec, counters, reflected }: Loops,
  variant: CallVariant,
  round: number,
): Promise<number> {
  const { calls, signal, timeoutS = 150 } = spec;
  if (variant === 'l1-plain' || variant === 'l1-call') return l1Calls(lab.l1, L1_TIMES * calls, signal);
  const guest = {
    name: `call-${variant}-${round}`,
    steps: `call:${HEX}:1:0:0:${calls.toString(16)}`,
    timeoutS,
    signal,
  };
  if (variant === 'guest-plain')
    return ticksOf(await exitsGuest(lab.l0, { ...guest, ram: 'anonymous' }), 'call') / calls;
  const before = await counters.read(signal);
  const lines = await exitsGuest(lab.l1, guest);
  const { reflectedByCause } = countersBetween(before, await counters.read(signal));
  if (variant === 'l2-plain' || variant === 'l2-call') reflected[variant] += reflectedByCause['vmmcall'] ?? 0;
  return ticksOf(lines, 'call') / calls;
}

const LOOPS: readonly CallVariant[] = ['l1-plain', 'l1-call', 'guest-plain', 'l2-plain', 'l2-call'];

async function loops(lab: Lab, spec: CallBenchSpec): Promise<Pick<CallResult, 'samples' | 'reflected'>> {
  const { signal, rounds, arenaMib } = spec;
  const undo = new CleanupStack();
  const samples: CallResult['samples'] = [];
  const reflected: CallResult['reflected'] = { 'l2-plain': 0, 'l2-call': 0 };
  try {
    const a = await Acceleration.on(lab, {
      arenaMib,
      hook: 'call',
      program: COUNTERS,
      options: OPTIONS,
      signal,
    });
    undo.add('modules', () => a.off());
    const counters = await KvmCounters.start(lab.l0, signal);
    undo.add('counters', () => counters.stop());
    for (let round = 0; round < rounds; round++)
      for (const variant of LOOPS) {
        const step = spec.progress.step(`round ${round + 1} of ${rounds}: ${variant}`);
        await a.setLinked(variant.endsWith('-call'), signal);
        const each = await loop({ lab, spec, counters, reflected }, variant, round);
        samples.push({ variant, round, each });
        step.done();
      }
  } finally {
    await undo.run();
  }
  return { samples, reflected };
}

/** By the channel, one after the other, as the command has it: nanoseconds of one. */
async function byChannel(lab: Lab, spec: CallBenchSpec): Promise<number> {
  const { signal, arenaMib, channelCalls } = spec;
  const step = spec.progress.step(`${channelCalls} by the channel`);
  await using m = await ManagedAcceleration.on(lab, { arenaMib, signal });
  const options = OPTIONS.flatMap((o) => ['--option', o]);
  await m.guest.command(['load', COUNTERS, '--name', 'counters', '--link', ...options], signal);
  const call = ['call', 'counters', '--words', '1', '--repeat', String(channelCalls), '--json'];
  const said = (await m.guest.command(call, signal)).trim().split('\n').at(-1) ?? '';
  await m.guest.command(['unload', 'counters', '--force'], signal);
  step.done();
  return (JSON.parse(said) as { nsPerCall: number }).nsPerCall;
}

export async function runCallBench(lab: Lab, spec: CallBenchSpec): Promise<CallResult> {
  const startedAt = new Date();
  const { samples, reflected } = await loops(lab, spec);
  if (spec.channelCalls > 0) samples.push({ variant: 'channel', round: 0, each: await byChannel(lab, spec) });
  const { memMib: l1MemoryMib, cpus: l1Cpus } = lab.environment().l1;
  const { rounds, calls, channelCalls } = spec;
  return {
    benchmark: 'call',
    environment: await environmentOf(lab, spec.version, startedAt),
    parameters: { rounds, calls, channelCalls, l1MemoryMib, l1Cpus },
    samples,
    reflected,
  };
}

/** Median of one call's time, in the variant's unit. Undefined: it was not measured. */
export function timeOf(r: CallResult, variant: CallVariant): number | undefined {
  const all = r.samples.filter((s) => s.variant === variant).map((s) => s.each);
  return all.length > 0 ? median(all) : undefined;
}
