/** Runs `bench net` in a lab: packets between one L2 and L0 over every way there is, in blocks that take turns. */
import { HyperturtleError } from '../../core/errors.ts';
import { CleanupStack } from '../../core/lifecycle.ts';
import { withStep } from '../../core/progress.ts';
import type { Progress } from '../../core/progress.ts';
import { sleep } from '../../core/wait.ts';
import type { L2Shell } from '../../lab/l2-shell.ts';
import type { Lab } from '../../lab/lab.ts';
import { runScript } from '../../lab/levels.ts';
import { environmentOf } from '../shared/environment.ts';
import { KvmCounters, countersBetween } from '../../testbed/kvm-counters.ts';
import { L1Exits, exitsBetween } from '../../testbed/l1-exits.ts';
import { l2KernelArguments, withL2 } from '../../testbed/l2-session.ts';
import type { L2SessionSpec } from '../../testbed/l2-session.ts';
import { loadApp, setUpAppsL0, startApps } from './apps.ts';
import { NET_PORT, setUpNetLab } from './lab.ts';
import type { NetWay } from './lab.ts';
import { NET_LOADS, loadLineSchema } from './schema.ts';
import type { NetApp, NetBlock, NetResult, NetVariant } from './schema.ts';
import { summarizeNet } from './summary.ts';
import { roundTooLate } from '../first-touch/run.ts';
import { RESULT_SCHEMA_VERSION } from '../shared/environment-schema.ts';
import type { Counters } from '../../testbed/counters-schema.ts';
import { L2_TICK_ARGUMENTS } from '../../testbed/l2-spec.ts';

export interface NetSpec {
  rounds: number;
  /** In each round every way has its turn so often, beginning with another one each time. */
  turns: number;
  /** Round trips in one block. */
  roundTrips: number;
  /** Round trips of one block with `window` under way. */
  packets: number;
  window: number;
  /** From L2; to L2 DOWN_TIMES as many. */
  tcpBytes: number;
  /** Rules of the firewall; the last ones match. */
  rules: number;
  /** Services of L2 that are asked as well; the lab must have their images, and CLIENTS. */
  apps: readonly NetApp[];
  requests: number;
  clients: number;
  l2MemoryMib: number;
  /** Also count in L1 what exits that enter it are about. Times are not to be compared with those of other runs then. */
  explain: boolean;
  /** Begin no round after the first that would not be over by then. */
  budgetMs?: number;
}

const APPEND = `console=ttyS0 ${L2_TICK_ARGUMENTS} ipv6.disable=1`;
const LINE_TIMEOUT_MS = 300_000;
/** Round trips before each block that count nowhere. */
const WARM = 5;
const MTU = 1500;
const IDLE_MS = 3000;
/** To L2 it goes so much faster that as many bytes as from L2 would be over before the window has grown. */
const DOWN_TIMES = 4;
/** Ways over which services are asked. */
const APP_VARIANTS: readonly NetVariant[] = ['nested', 'nested-vhost', 'direct', 'pass', 'firewall'];

/** The lab must be up, and nobody else using it. NICs that its L1 gets here stay until the lab ends. */
export async function runNet(lab: Lab, spec: NetSpec, options: NetOptions): Promise<NetResult> {
  const { progress, signal } = options;
  const startedAt = new Date();
  const undo = new CleanupStack();
  try {
    let step = progress.step('daemon in L0, agent in L1, NICs and programs');
    const net = await setUpNetLab(lab, { rules: spec.rules, undo, signal });
    step.done();
    step = progress.step(`an L2 with ${net.nics.length} NICs`);
    const l2: L2SessionSpec = {
      name: 'net',
      ram: 'tmpfs',
      memMib: spec.l2MemoryMib,
      machine: 'pc',
      port: 0,
      append: APPEND,
      nics: net.nics,
    };
    return await withL2(
      lab,
      l2,
      async ({ shell }) => {
        await runScript(lab.l1, net.l1SetUp, { signal });
        await shell.runOk(net.l2SetUp, { timeoutMs: LINE_TIMEOUT_MS, signal });
        step.done();
        if (spec.apps.length > 0) await setUpApps(lab, shell, spec, net.ways, options);
        return await measure(lab, shell, spec, net.ways, startedAt, options);
      },
      { signal },
    );
  } finally {
    await undo.run();
  }
}

interface NetOptions {
  version: string;
  progress: Progress;
  signal?: AbortSignal | undefined;
}

async function setUpApps(
  lab: Lab,
  shell: L2Shell,
  spec: NetSpec,
  ways: readonly NetWay[],
  { progress, signal }: NetOptions,
): Promise<void> {
  const step = progress.step(`services in L2: ${spec.apps.join(', ')}`);
  await setUpAppsL0(lab.l0, spec.apps, signal);
  const way = ways.find((w) => w.variant === 'direct')!;
  await startApps(lab.l0, shell, { apps: spec.apps, way, signal });
  step.done();
}

async function measure(
  lab: Lab,
  shell: L2Shell,
  spec: NetSpec,
  ways: readonly NetWay[],
  startedAt: Date,
  { version, progress, signal }: NetOptions,
): Promise<NetResult> {
  await using undo = new CleanupStack();
  const counters = await KvmCounters.start(lab.l0, signal);
  undo.add('counters', () => counters.stop());
  const l1Exits = spec.explain ? await L1Exits.start(lab.l1, signal) : undefined;
  if (l1Exits !== undefined) undo.add("counters of L1's KVM", () => l1Exits.stop());
  const meters: Meters = { lab, shell, counters, l1Exits, signal };
  const { blocks, rounds } = await takeRounds(spec, ways, startedAt, progress, meters);
  const { l1 } = lab.environment();
  return {
    schema: RESULT_SCHEMA_VERSION,
    benchmark: 'net',
    environment: await environmentOf(lab, version, startedAt),
    parameters: {
      rounds,
      turns: spec.turns,
      roundTrips: spec.roundTrips,
      packets: spec.packets,
      window: spec.window,
      tcpBytes: spec.tcpBytes,
      rules: spec.rules,
      requests: spec.requests,
      clients: spec.clients,
      l2MemoryMib: spec.l2MemoryMib,
      l1MemoryMib: l1.memMib,
      l1Cpus: l1.cpus,
      mtu: MTU,
      l2KernelArguments: l2KernelArguments({ append: APPEND }),
    },
    blocks,
    summary: summarizeNet(blocks),
  };
}

interface Meters {
  lab: Lab;
  shell: L2Shell;
  counters: KvmCounters;
  /** Where exits are explained. */
  l1Exits: L1Exits | undefined;
  signal: AbortSignal | undefined;
}

async function takeRounds(
  spec: NetSpec,
  ways: readonly NetWay[],
  startedAt: Date,
  progress: Progress,
  meters: Meters,
): Promise<{ blocks: NetBlock[]; rounds: number }> {
  const blocks: NetBlock[] = [];
  const begun = Date.now();
  for (let round = 0; round < spec.rounds; round++) {
    const late = { elapsedMs: Date.now() - begun, budgetMs: spec.budgetMs };
    if (roundTooLate(late.elapsedMs, round, 1, late.budgetMs)) {
      progress.note(`  ${round} of ${spec.rounds} rounds: another would take too long here`);
      return { blocks, rounds: round };
    }
    for (let turn = 0; turn < spec.turns; turn++) {
      const takeTurn = async (): Promise<void> => {
        const first = (round * spec.turns + turn) % ways.length;
        const order = [...ways.slice(first), ...ways.slice(0, first)];
        blocks.push({ ...(await idle(meters)), round, turn });
        for (const load of NET_LOADS)
          for (const way of order)
            blocks.push({ ...(await takeBlock(load, way, spec, meters)), round, turn });
        for (const app of spec.apps)
          for (const way of order.filter((w) => APP_VARIANTS.includes(w.variant)))
            blocks.push({ ...(await askApp(app, way, spec, meters)), round, turn });
      };
      const what = `round ${round + 1} of ${spec.rounds}, turn ${turn + 1} of ${spec.turns}`;
      const seconds = (): number => Math.round((Date.now() - startedAt.getTime()) / 1000);
      await withStep(progress, what, takeTurn, () => `${seconds()} s in all`);
    }
  }
  return { blocks, rounds: spec.rounds };
}

function commandOf(load: (typeof NET_LOADS)[number], peer: string, spec: NetSpec): string {
  const to = `${peer} ${NET_PORT}`;
  switch (load) {
    case 'round-trip':
      return `net_load --gate --warm ${WARM} rtt ${to} ${spec.roundTrips}`;
    case 'packets':
      return `net_load --gate --warm ${WARM} rtt ${to} ${spec.packets} ${spec.window}`;
    case 'tcp-up':
    case 'tcp-down':
      return `net_load --gate tcp ${to} ${load.slice('tcp-'.length)} ${spec.tcpBytes * (load === 'tcp-down' ? DOWN_TIMES : 1)}`;
  }
}

/** What was counted at a gate. */
interface Reading {
  counters: Counters;
  cpuSeconds: number;
  explained: Record<string, number> | undefined;
}

/** What reading costs lies outside of the gates. */
async function readAtGate(gate: 'before' | 'after', m: Meters): Promise<Reading> {
  const { lab, counters, l1Exits, signal } = m;
  if (gate === 'before') {
    const explained = await l1Exits?.read(signal);
    const read = await counters.read(signal);
    return { counters: read, cpuSeconds: lab.emulatorCpuSeconds(), explained };
  }
  const cpuSeconds = lab.emulatorCpuSeconds();
  const read = await counters.read(signal);
  return { counters: read, cpuSeconds, explained: await l1Exits?.read(signal) };
}

type Between = Pick<NetBlock, 'counters' | 'emulatorCpuSeconds' | 'explained'>;

function between(before: Reading, after: Reading): Between {
  const explained =
    before.explained === undefined || after.explained === undefined
      ? {}
      : { explained: exitsBetween(before.explained, after.explained) };
  return {
    counters: countersBetween(before.counters, after.counters),
    emulatorCpuSeconds: Math.max(0, after.cpuSeconds - before.cpuSeconds),
    ...explained,
  };
}

/** Between the gates L2 does nothing but the load; the counters are read outside of them. */
async function takeBlock(
  load: (typeof NET_LOADS)[number],
  way: NetWay,
  spec: NetSpec,
  meters: Meters,
): Promise<Omit<NetBlock, 'round' | 'turn'>> {
  const { shell, signal } = meters;
  let before: Reading | undefined;
  let after: Reading | undefined;
  let block: Omit<NetBlock, 'round' | 'turn'> | undefined;
  await shell.runOk(commandOf(load, way.peer, spec), {
    timeoutMs: LINE_TIMEOUT_MS,
    signal,
    onLine: async (line) => {
      if (line.includes('"gate":"before"')) {
        before = await readAtGate('before', meters);
        return 'go';
      }
      if (line.includes('"gate":"after"')) {
        after = await readAtGate('after', meters);
        return 'go';
      }
      if (!line.startsWith('{"kind"') || !before || !after) return undefined;
      const r = loadLineSchema().parse(JSON.parse(line));
      block = {
        variant: way.variant,
        load,
        totalNs: r.totalNs,
        ...(r.kind === 'rtt'
          ? { units: r.count, lost: r.lost, ns: r.ns }
          : { units: r.bytes, lost: 0, ns: [] }),
        ...between(before, after),
      };
      return undefined;
    },
  });
  if (!block || block.units === 0)
    throw new HyperturtleError(
      'HT_COMMAND_FAILED',
      `${load} over '${way.variant}': nothing came back from ${way.peer} port ${NET_PORT}`,
    );
  return block;
}

/** L2 does nothing. The variant says nothing. */
async function idle({ counters, signal }: Meters): Promise<Omit<NetBlock, 'round' | 'turn'>> {
  const before = await counters.read(signal);
  const begun = performance.now();
  await sleep(IDLE_MS, signal);
  // as long as from one reading to the other
  const after = await counters.read(signal);
  const ms = performance.now() - begun;
  return {
    variant: 'direct',
    load: 'idle',
    units: Math.round(ms),
    lost: 0,
    ns: [],
    emulatorCpuSeconds: 0,
    totalNs: Math.round(ms * 1e6),
    counters: countersBetween(before, after),
  };
}

/** The generator runs in L0, and tells the time itself. What it takes to start it is in the counters, a few exits. */
async function askApp(
  app: NetApp,
  way: NetWay,
  spec: NetSpec,
  { lab, counters, signal }: Meters,
): Promise<Omit<NetBlock, 'round' | 'turn'>> {
  const { requests, clients } = spec;
  const before = await counters.read(signal);
  const cpuSeconds = lab.emulatorCpuSeconds();
  const perSecond = await loadApp(lab.l0, app, { l2: way.here, requests, clients, signal });
  const emulatorCpuSeconds = Math.max(0, lab.emulatorCpuSeconds() - cpuSeconds);
  const counted = countersBetween(before, await counters.read(signal));
  return {
    variant: way.variant,
    load: app,
    units: requests,
    lost: 0,
    ns: [],
    totalNs: Math.round((requests / perSecond) * 1e9),
    counters: counted,
    emulatorCpuSeconds,
  };
}
