/** One turn of one variant: a fresh L2 (or L1, or a guest that is not nested), its boot and its first touches. */
import { CleanupStack } from '../../core/lifecycle.ts';
import type { Lab } from '../../lab/lab.ts';
import type { RamKind } from '../../guest/vmm/arguments.ts';
import { setGroupMax, whenLargePoolFull } from '../../testbed/acceleration.ts';
import type { LargeFrames } from '../../testbed/acceleration.ts';
import type { ManagedAcceleration } from '../../testbed/managed.ts';
import { countersBetween } from '../../testbed/kvm-counters.ts';
import type { KvmCounters } from '../../testbed/kvm-counters.ts';
import type { FaultTrace } from '../../testbed/fault-trace.ts';
import { reserveHugePages, setHugePages } from '../../testbed/huge-pages.ts';
import type { HugePages } from '../../testbed/huge-pages.ts';
import { bootOnly, withL2 } from '../../testbed/l2-session.ts';
import type { BootSample, BootVariant, MemorySample, Pattern, TouchSample, Variant } from './schema.ts';
import { touchInL1, touchInL2 } from './touch.ts';
import type { ReservedMemory } from './touch.ts';

/** A variant of touching, or the guest that is not nested, which only boots. */
export type Turn = Variant | 'not-nested';

export interface TurnContext {
  lab: Lab;
  counters: KvmCounters;
  /** Where instructions of faults are counted. */
  trace?: FaultTrace | undefined;
  acceleration: ManagedAcceleration;
  /** The module's default before the benchmark. */
  groupDefault: number;
  /** 2 MiB frames that L1 keeps; 0: none. */
  largeFrames: LargeFrames;
  /** What it is set to now. */
  group: { now: number };
  touchMib: number;
  patterns: readonly Pattern[];
  reserved: ReservedMemory;
  /** No touches. */
  bootOnly: boolean;
  l2MemoryMib: number;
  machine: string;
  append: string;
  signal?: AbortSignal | undefined;
}

export interface TurnResult {
  touches: TouchSample[];
  boots: BootSample[];
  memory: MemorySample[];
}

const L2_RAM: Readonly<Record<Exclude<Variant, 'l1'>, RamKind>> = {
  'l2-vanilla': 'tmpfs',
  'l2-vanilla-prealloc': 'tmpfs-prealloc',
  'l2-anonymous': 'anonymous',
  'l2-thp': 'anonymous',
  'l2-hugetlb': 'hugetlbfs',
  'l2-group1': 'turtlefs',
  'l2-default': 'turtlefs',
};

/** What L1's kernel gives for anonymous memory; where nothing is said, what it is set to. */
const HUGE_PAGES: Partial<Record<Variant, HugePages>> = { 'l2-anonymous': 'never', 'l2-thp': 'always' };

/** Variant of booting as which the boot of a variant counts. */
const BOOT_OF: Partial<Record<Variant, BootVariant>> = {
  'l2-vanilla': 'vanilla',
  'l2-thp': 'thp',
  'l2-default': 'accelerated',
};

export interface Plan {
  variants: readonly Variant[];
  rounds: number;
  notNested: boolean;
  bootOnly: boolean;
}

/**
 * Every turn of every round. Each round begins with another variant, so that what else the machine does, and
 * what a turn leaves behind for the next, spreads over all of them.
 */
export function turnsOf(plan: Plan): { turn: Turn; round: number }[] {
  const wanted: Turn[] = plan.bootOnly
    ? plan.variants.filter((v) => BOOT_OF[v] !== undefined)
    : [...plan.variants];
  if (plan.notNested) wanted.push('not-nested');
  return Array.from({ length: plan.rounds }, (_, round) =>
    wanted.map((_, i) => ({ turn: wanted[(i + round) % wanted.length]!, round })),
  ).flat();
}

export async function takeTurn(c: TurnContext, turn: Turn, round: number): Promise<TurnResult> {
  const plan = { round, touchMib: c.touchMib, patterns: c.patterns, reserved: c.reserved };
  if (turn === 'l1')
    return { boots: [], memory: [], touches: await touchInL1({ ...plan, variant: turn }, c.lab, c.signal) };
  if (turn === 'not-nested') return notNested(c, round);

  const ram = L2_RAM[turn];
  const { registeredBy } = c.acceleration;
  await c.acceleration.setLinked(ram === 'turtlefs', c.signal);
  const pages = turn === 'l2-group1' ? 1 : c.groupDefault;
  if (ram === 'turtlefs' && c.group.now !== pages) {
    await setGroupMax(c.lab.l1, pages, c.signal);
    c.group.now = pages;
  }
  if (ram === 'turtlefs' && c.largeFrames !== 0) await whenLargePoolFull(c.lab.l1, c.largeFrames, c.signal);
  const hugePages = HUGE_PAGES[turn];
  await using undo = new CleanupStack();
  if (hugePages !== undefined) undo.add('huge pages', await setHugePages(c.lab.l1, hugePages, c.signal));
  if (ram === 'hugetlbfs')
    undo.add('pages set aside', await reserveHugePages(c.lab.l1, Math.ceil(c.l2MemoryMib / 2), c.signal));
  const fallbacks =
    ram === 'turtlefs' ? async () => (await c.acceleration.hookCounts(c.signal)).reasons : null;
  const cpuSeconds = c.lab.emulatorCpuSeconds();
  const before = await c.counters.read(c.signal);
  return await withL2(
    c.lab,
    {
      name: `bench-${turn}`,
      ram,
      memMib: c.l2MemoryMib,
      append: c.append,
      machine: c.machine,
      registeredBy,
      port: 0,
    },
    async ({ shell, bootMs }): Promise<TurnResult> => {
      const boots: BootSample[] = [];
      const variant = BOOT_OF[turn];
      if (variant !== undefined)
        // these take in the launcher's start as well, which is the same for all
        boots.push({
          variant,
          round,
          bootMs,
          counters: countersBetween(before, await c.counters.read(c.signal)),
          fallbacks: null,
          emulatorCpuSeconds: c.lab.emulatorCpuSeconds() - cpuSeconds,
        });
      const meters = { lab: c.lab, counters: c.counters, fallbacks, trace: c.trace };
      const touches = c.bootOnly ? [] : await touchInL2(shell, { ...plan, variant: turn }, meters, c.signal);
      const judged = turn === 'l2-default' && c.largeFrames === 'auto';
      const memory = judged ? [{ round, ...(await c.acceleration.guest.l2Memory(c.signal)) }] : [];
      return { boots, touches, memory };
    },
    { signal: c.signal },
  );
}

async function notNested(c: TurnContext, round: number): Promise<TurnResult> {
  const cpuSeconds = c.lab.emulatorCpuSeconds();
  const bootMs = await bootOnly(
    c.lab.l0,
    {
      name: 'bench-not-nested',
      ram: 'anonymous',
      memMib: c.l2MemoryMib,
      append: c.append,
      machine: c.machine,
    },
    c.signal,
  );
  const emulatorCpuSeconds = c.lab.emulatorCpuSeconds() - cpuSeconds;
  return {
    touches: [],
    memory: [],
    boots: [{ variant: 'not-nested', round, bootMs, counters: null, fallbacks: null, emulatorCpuSeconds }],
  };
}
