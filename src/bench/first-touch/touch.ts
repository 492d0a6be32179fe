/** First touches in an L2 and in L1: runs c/l2/first_touch and counts around each of its phases. */
import { HyperturtleError } from '../../core/errors.ts';
import type { L2Shell } from '../../lab/l2-shell.ts';
import type { Lab } from '../../lab/lab.ts';
import { run } from '../../lab/levels.ts';
import { countersBetween } from '../../testbed/kvm-counters.ts';
import type { KvmCounters } from '../../testbed/kvm-counters.ts';
import type { FaultTrace } from '../../testbed/fault-trace.ts';
import { touchSchema } from './schema.ts';
import type { Pattern, Touch, TouchSample, Variant } from './schema.ts';
import type { Counters } from '../../testbed/counters-schema.ts';
import { subtractCounts } from '../../core/counts.ts';
import { withoutUndefined } from '../../core/defined.ts';
import { sleep } from '../../core/wait.ts';

/** The longest that one phase may take: vanilla, 64 MiB, a machine that does other things as well. */
const PHASE_TIMEOUT_MS = 600_000;
/**
 * What daemon and agent do after they answered a question (tens of ms, which a short phase of fast touches would be half of) is over
 * by then. Before every phase of every variant.
 */
const SETTLE_MS = 500;

/** How L2's kernel is told to keep memory untouched until it is measured. */
export interface ReservedMemory {
  /** Address of the memory for the scattered order. */
  address: number;
  kernelArguments: string;
}

/** Memory of L2 that is not for touching: its kernel, initramfs and a shell. */
const L2_OWN_MIB = 96;
/** The end of memory: firmware works there, and the initramfs is there. */
const END_MIB = 24;
/** Patterns that touch anonymous memory, each its own. */
const ANONYMOUS_PATTERNS = 3;
/** Room in the movable zone for the initramfs' files and the processes. */
const MOVABLE_SLACK_MIB = 16;

/**
 * A first touch must be the first: memory that L2's kernel used while it booted, and freed, is no longer fresh.
 *   movablecore=  a zone from which the kernel itself takes nothing; user memory comes from there first
 *   retain_initrd the initramfs lies in that zone, and its pages are not given to the next who wants some
 *   memmap=       memory that the kernel leaves alone, for /dev/mem: a multiple of 2 MiB, below what is at the end
 *                 of memory (initramfs, firmware's tables)
 */
export function reservedMemory(l2MemoryMib: number, touchMib: number): ReservedMemory {
  const mib = Math.floor((l2MemoryMib - END_MIB - touchMib) / 2) * 2;
  const needMib = touchMib * (ANONYMOUS_PATTERNS + 1) + L2_OWN_MIB;
  if (l2MemoryMib < needMib)
    throw new HyperturtleError(
      'HT_USAGE',
      `L2 with ${l2MemoryMib} MiB has no room to touch ${touchMib} MiB in four orders: give it at least ${needMib} MiB`,
    );
  const address = mib * (1 << 20);
  const movableMib = touchMib * ANONYMOUS_PATTERNS + MOVABLE_SLACK_MIB;
  return {
    address,
    kernelArguments: `memmap=${touchMib}M$0x${address.toString(16)} movablecore=${movableMib}M retain_initrd`,
  };
}

/** A round size that is enough. */
export function l2MemoryFor(touchMib: number): number {
  return Math.ceil((touchMib * (ANONYMOUS_PATTERNS + 1) + L2_OWN_MIB) / 32) * 32;
}

export interface TouchPlan {
  variant: Variant;
  round: number;
  touchMib: number;
  patterns: readonly Pattern[];
  reserved: ReservedMemory;
}

export interface Meters {
  lab: Lab;
  counters: KvmCounters;
  /** Why faults were passed to L1 so far; null where no program is linked. */
  fallbacks: (() => Promise<Record<string, number>>) | null;
  /** Counts instructions of faults, too, which adds its own to each. */
  trace?: FaultTrace | undefined;
}

interface Reading {
  counters: Counters;
  cpuSeconds: number;
}

/** What a line of first_touch is. */
export function parseLine(
  line: string,
): { kind: 'before' | 'after' } | { kind: 'result'; touch: Touch } | undefined {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return undefined; // noise on the console
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const gate = (value as Record<string, unknown>)['gate'];
  if (gate === 'before' || gate === 'after') return { kind: gate };
  return { kind: 'result', touch: touchSchema().parse(value) };
}

/** As c/l2/first_touch takes them. */
function ordersOf({ patterns, reserved }: TouchPlan): string {
  const scattered = `scattered@0x${reserved.address.toString(16)}`;
  return patterns.map((p) => (p === 'scattered' ? scattered : p)).join(' ');
}

/** All patterns, then a second touch of memory that was freed. The guest must be idle otherwise. */
export async function touchInL2(
  shell: L2Shell,
  plan: TouchPlan,
  meters: Meters,
  signal?: AbortSignal,
): Promise<TouchSample[]> {
  const samples: TouchSample[] = [];
  let before: Reading | undefined;
  let after: Reading | undefined;
  let reasons = meters.fallbacks === null ? null : await meters.fallbacks();
  let phaseReasons: Record<string, number> | null = null;
  let faultCosts: TouchSample['faultCosts'];
  const read = async (): Promise<Reading> => {
    // CPU time at the inner side, so that reading the counters is not part of it
    const cpu = meters.lab.emulatorCpuSeconds();
    const counters = await meters.counters.read(signal);
    return { counters, cpuSeconds: cpu };
  };
  await shell.runOk(`first_touch --gate --second ${plan.touchMib} ${ordersOf(plan)}`, {
    timeoutMs: PHASE_TIMEOUT_MS,
    signal,
    onLine: async (line) => {
      const said = parseLine(line);
      if (said?.kind === 'before') {
        await meters.trace?.begin(signal);
        await sleep(SETTLE_MS, signal);
        before = await read();
        before.cpuSeconds = meters.lab.emulatorCpuSeconds();
        return 'go';
      }
      if (said?.kind === 'after') {
        after = await read();
        faultCosts = await meters.trace?.end({ signal });
        if (meters.fallbacks !== null && reasons !== null) {
          const now = await meters.fallbacks();
          phaseReasons = subtractCounts(now, reasons);
          reasons = now;
        }
        return 'go';
      }
      if (said?.kind === 'result') {
        if (!before || !after)
          throw new HyperturtleError('HT_COMMAND_FAILED', 'first_touch gave a result without its gates');
        samples.push({
          variant: plan.variant,
          round: plan.round,
          touch: said.touch,
          counters: countersBetween(before.counters, after.counters),
          fallbacks: phaseReasons,
          emulatorCpuSeconds: Math.max(0, after.cpuSeconds - before.cpuSeconds),
          ...withoutUndefined({ faultCosts }),
        });
        before = after = undefined;
      }
      return undefined;
    },
  });
  return samples;
}

/** The same touches by a process of L1 itself. One process each, as there is no gate to count at. */
export async function touchInL1(plan: TouchPlan, lab: Lab, signal?: AbortSignal): Promise<TouchSample[]> {
  const samples: TouchSample[] = [];
  for (const pattern of plan.patterns) {
    if (pattern === 'scattered') continue; // L1's kernel owns all of its memory
    await sleep(SETTLE_MS, signal);
    const cpu = lab.emulatorCpuSeconds();
    const out = await run(lab.l1, ['/payload/l2/programs/first_touch', String(plan.touchMib), pattern], {
      timeoutMs: PHASE_TIMEOUT_MS,
      signal,
    });
    samples.push({
      variant: 'l1',
      round: plan.round,
      touch: touchSchema().parse(JSON.parse(out)),
      counters: null,
      fallbacks: null,
      emulatorCpuSeconds: lab.emulatorCpuSeconds() - cpu,
    });
  }
  return samples;
}
