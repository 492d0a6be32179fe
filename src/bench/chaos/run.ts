/**
 * Kills the daemon, an agent, or the QEMU of an L1 with -9, at random moments while L2s check their memory; then
 * starts it again and waits until all is as it was. Two L1s: the one whose QEMU is killed is not the one whose L2
 * must not notice anything. Seeded: the same seed kills the same in the same order.
 */
import { generator } from '../../testbed/random.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { withStep } from '../../core/progress.ts';
import type { Progress } from '../../core/progress.ts';
import { CleanupStack } from '../../core/lifecycle.ts';
import { sleep, waitFor } from '../../core/wait.ts';
import type { Lab } from '../../lab/lab.ts';
import { runScript } from '../../lab/levels.ts';
import { FIRST_SEAT, SECOND_SEAT } from '../../lab/machine.ts';
import { withL2 } from '../../testbed/l2-session.ts';
import type { L2Session } from '../../testbed/l2-session.ts';
import { troubles } from '../../testbed/leftovers.ts';
import { ManagedGuest, ManagedHost } from '../../testbed/managed.ts';
import type { ManagedVmSpec } from '../../testbed/managed.ts';
import { Tenant } from '../../testbed/tenant.ts';
import type { Checked } from '../../testbed/tenant.ts';

const VICTIMS = ['daemon', 'agent', 'qemu'] as const;
type Victim = (typeof VICTIMS)[number];

export interface ChaosSpec {
  rounds: number;
  seed: number;
  /** How long the L2 checks its memory in each round; the kill comes in its first half. */
  patternSeconds: number;
  arenaMib: number;
  progress: Progress;
  signal?: AbortSignal | undefined;
}

/** Daemon and agents as they run, and two L1s with what they want in L0. */
export interface Stage {
  host: ManagedHost;
  vms: readonly ManagedVmSpec[];
  first: ManagedGuest;
  /** It is another one after its QEMU was killed; anyone who has the stage ends it. */
  second: Tenant;
}

interface ChaosRound {
  victim: Victim;
  /** After the beginning of the L2's check. */
  atMs: number;
  /** From the new start until both L1s have in L0 what they want, and their L2s are registered. */
  recoveredMs: number;
  pagesChecked: number;
  mismatches: number;
}

export interface ChaosReport {
  seed: number;
  rounds: ChaosRound[];
  killed: Record<Victim, number>;
  pagesChecked: number;
  mismatches: number;
  /** Faults answered in L0 since the last start of the daemon: acceleration is there again. */
  handledInL0: number;
  /** What was attached or exported in L0 after a kill of the daemon, before the next start. */
  leftAttached: string[];
  kernelTroubles: string[];
  durationSeconds: number;
  /** Empty: nothing is wrong. */
  problems: string[];
}

const L2_MIB = 128;
const OWN_MIB = 24;
const RECOVERY_MS = 240_000;

/** The lab must have memory for a second L1. It is left as it was found. */
export async function runChaos(lab: Lab, spec: ChaosSpec): Promise<ChaosReport> {
  const { progress, signal } = spec;
  const undo = new CleanupStack();
  const host = new ManagedHost(lab.l0);
  const vms: ManagedVmSpec[] = [
    { name: 'first', seat: FIRST_SEAT, arenaMib: spec.arenaMib },
    { name: 'second', seat: SECOND_SEAT, arenaMib: spec.arenaMib },
  ];
  try {
    const setUp = progress.step('two L1s, a daemon and two agents');
    await host.setUp(undo, vms, signal);
    const first = new ManagedGuest(lab.l1);
    await first.setUp(undo, signal);
    const stage: Stage = { host, vms, first, second: await Tenant.start(lab, signal) };
    undo.add('second L1', () => stage.second.end());
    setUp.done();
    return await runChaosOn(lab, stage, spec);
  } finally {
    await undo.run();
  }
}

/** The same where all runs already, and goes on running. */
export async function runChaosOn(lab: Lab, stage: Stage, spec: ChaosSpec): Promise<ChaosReport> {
  const { progress, signal } = spec;
  const t0 = performance.now();
  const rounds: ChaosRound[] = [];
  const leftAttached: string[] = [];
  const random = generator(spec.seed);
  await withL2(
    lab,
    {
      name: 'chaos',
      ram: 'turtlefs',
      memMib: L2_MIB,
      append: '',
      machine: 'pc',
      port: 0,
      registeredBy: 'agent',
    },
    async (l2) => {
      for (let i = 0; i < spec.rounds; i++) {
        const victim = VICTIMS[Math.floor(random() * VICTIMS.length)]!;
        const atMs = Math.round(random() * spec.patternSeconds * 500);
        const round = await withStep(
          progress,
          `[${i + 1}/${spec.rounds}] kill -9 ${victim} after ${atMs} ms`,
          () => takeRound({ lab, stage, l2, spec, leftAttached }, victim, atMs),
          ({ pagesChecked }) => `${pagesChecked} pages checked`,
        );
        rounds.push(round);
      }
    },
    { signal },
  );
  const report = {
    ...(await reportOf(lab, stage, rounds, signal)),
    seed: spec.seed,
    leftAttached,
    durationSeconds: Math.round((performance.now() - t0) / 1000),
  };
  return { ...report, problems: chaosProblems(report) };
}

interface RoundContext {
  lab: Lab;
  stage: Stage;
  l2: Pick<L2Session, 'shell'>;
  spec: ChaosSpec;
  /** What is found after a kill of the daemon is added. */
  leftAttached: string[];
}

/** Kills the victim while L2s check their memory, starts it again, and waits until all is as before. */
async function takeRound(c: RoundContext, victim: Victim, atMs: number): Promise<ChaosRound> {
  const { stage } = c;
  const { signal, patternSeconds } = c.spec;
  const checking = pattern(c.l2, patternSeconds);
  checking.catch(() => {}); // awaited below, after the restart
  // an L2 of the other tenant as well, which dies with its L1 when that is the victim
  const over = new AbortController();
  const beside = stage.second.check(AbortSignal.any([over.signal, ...(signal ? [signal] : [])]));
  beside.catch(() => {}); // awaited below, unless it dies
  await sleep(atMs, signal);
  if (victim === 'qemu') {
    // killed while its L2 runs; nobody will answer for that any more
    await stage.second.kill();
    over.abort();
    await beside.catch(() => {});
  }
  await restart(c, victim);
  const others = victim === 'qemu' ? [] : [await beside];
  const from = performance.now();
  await stage.first.whenSettled(1, RECOVERY_MS, signal);
  await stage.second.guest.whenSettled(0, RECOVERY_MS, signal);
  const recoveredMs = Math.round(performance.now() - from);
  const checks = [await checking, ...others, await stage.second.check(signal)];
  const sum = (of: (c: Checked) => number): number => checks.reduce((n, c) => n + of(c), 0);
  return {
    victim,
    atMs,
    recoveredMs,
    pagesChecked: sum((c) => c.checked),
    mismatches: sum((c) => c.mismatches),
  };
}

async function restart({ lab, stage, spec, leftAttached }: RoundContext, victim: Victim): Promise<void> {
  const { host, vms, first } = stage;
  const { signal } = spec;
  if (victim === 'daemon') {
    await host.end('KILL');
    leftAttached.push(...(await attachedIn(lab)));
    await host.start(vms, signal);
  } else if (victim === 'agent') {
    await first.end('KILL');
    await first.start(signal);
  } else {
    await stage.second.end();
    stage.second = await Tenant.start(lab, signal);
  }
}

async function reportOf(
  lab: Lab,
  { host, second }: Stage,
  rounds: ChaosRound[],
  signal: AbortSignal | undefined,
): Promise<Omit<ChaosReport, 'seed' | 'leftAttached' | 'durationSeconds' | 'problems'>> {
  const handled = async (vm: string): Promise<number> =>
    (await host.metrics(vm, signal)).get('hook_handled npf') ?? 0;
  const sum = (of: (r: ChaosRound) => number): number => rounds.reduce((n, r) => n + of(r), 0);
  const killed = VICTIMS.map((v) => [v, rounds.filter((r) => r.victim === v).length] as const);
  return {
    rounds,
    killed: Object.fromEntries(killed) as Record<Victim, number>,
    pagesChecked: sum((r) => r.pagesChecked),
    mismatches: sum((r) => r.mismatches),
    handledInL0: (await handled('first')) + (await handled('second')),
    kernelTroubles: await troubles(lab, signal, [second.l1]),
  };
}

/** Everything that should not be, in words. Pure. */
export function chaosProblems(r: Omit<ChaosReport, 'problems'>): string[] {
  const problems: string[] = [];
  if (r.mismatches > 0) problems.push(`${r.mismatches} pages changed under their owner`);
  if (r.pagesChecked === 0) problems.push('no page was checked');
  if (r.handledInL0 === 0) problems.push('L0 answers no faults after the last start');
  for (const left of r.leftAttached) problems.push(`left after the daemon was killed: ${left}`);
  if (r.kernelTroubles.length > 0) problems.push(`${r.kernelTroubles.length} complaints in kernel logs`);
  return problems;
}

/** The pattern program in an L2: writes and checks its own memory. Throws HT_COMMAND_FAILED without a result. */
export async function pattern(l2: Pick<L2Session, 'shell'>, seconds: number): Promise<Checked> {
  const lines = await l2.shell.runOk(`pattern own ${OWN_MIB} --seconds ${seconds}`, {
    timeoutMs: seconds * 30_000 + 120_000,
  });
  const last = lines.findLast((l) => l.startsWith('{'));
  if (last === undefined)
    throw new HyperturtleError(
      'HT_COMMAND_FAILED',
      `pattern in L2 gave no result: ${lines.join(' | ').slice(-500)}`,
    );
  const r = JSON.parse(last) as { checked: number; mismatches: number; zeroed: number };
  return { checked: r.checked, mismatches: r.mismatches + r.zeroed };
}

/** Attached VMs and exported arenas, soon after a daemon has died: the kernel closes its files a moment later. */
async function attachedIn(lab: Lab): Promise<string[]> {
  const look = async (): Promise<string[]> =>
    (
      await runScript(
        lab.l0,
        `ls /dev | grep hyperturtle-arena; for p in /proc/[0-9]*/fd; do ls -l $p 2>/dev/null | grep -o 'anon_inode:hyperturtle-vm'; done; :`,
      )
    )
      .split('\n')
      .filter((l) => l !== '');
  try {
    await waitFor(
      'the dead daemon to leave nothing',
      async () => ((await look()).length === 0 ? true : undefined),
      {
        timeoutMs: 20_000,
        intervalMs: 250,
      },
    );
    return [];
  } catch {
    return look();
  }
}
