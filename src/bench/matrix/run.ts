/**
 * `hyperturtle bench matrix`: which hook works on which kernel of which vendor's processor, by doing it: one lab for a
 * kernel and a vendor, and in it a small nested guest without an operating system (c/l2/tiny_vmm.c) for each hook. What
 * was counted is kept beside the document whose table it makes; what did not work is kept as what it said.
 */
import { gunzipSync } from 'node:zlib';
import { z } from 'zod';
import { CleanupStack } from '../../core/lifecycle.ts';
import { messageOf } from '../../core/errors.ts';
import type { Progress } from '../../core/progress.ts';
import { TURTLEFS_DIR } from '../../guest/vmm/arguments.ts';
import { kernelTroubles } from '../../lab/kernel-log.ts';
import { labUp } from '../../lab/lab.ts';
import type { Lab } from '../../lab/lab.ts';
import { run, runScript } from '../../lab/levels.ts';
import type { Level } from '../../lab/levels.ts';
import { FIRST_SEAT, L1_RUN } from '../../lab/machine.ts';
import { Acceleration, CLI, insmod, jobSays, rmmod, whenLargePoolFull } from '../../testbed/acceleration.ts';
import { EXIT_CACHE } from '../exits/run.ts';
import { countersBetween, KvmCounters } from '../../testbed/kvm-counters.ts';
import { ManagedGuest, ManagedHost } from '../../testbed/managed.ts';
import type { Counters } from '../../testbed/counters-schema.ts';
import { TinyVmm } from '../../testbed/tiny-vmm.ts';
import type { TinyVmmResult } from '../../testbed/tiny-vmm.ts';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

export const MATRIX_HOOKS = ['npf', 'large', 'exit', 'sample', 'net'] as const;
export type MatrixHook = (typeof MATRIX_HOOKS)[number];
export const MATRIX_VENDORS = ['amd', 'intel'] as const;
type MatrixVendor = (typeof MATRIX_VENDORS)[number];

const cellSchema = lazy(() =>
  z.object({
    kernel: z.string(),
    vendor: z.enum(MATRIX_VENDORS),
    hook: z.enum(MATRIX_HOOKS),
    /** `not run`: its lab did not start. That says nothing of the hook, and takes no other cell's place. */
    state: z.enum(['run', 'failed', 'not run']),
    /** What was counted, or what it said. */
    found: z.string(),
    seconds: z.number().int().nonnegative(),
    /** What it ran on. */
    on: z.string(),
    date: z.string(),
  }),
);
export type MatrixCell = Output<typeof cellSchema>;
export type MatrixColumn = Pick<MatrixCell, 'kernel' | 'vendor'>;
export const matrixSchema = lazy(() => z.array(cellSchema()));

export interface MatrixSpec {
  kernels: readonly string[];
  vendors: readonly MatrixVendor[];
  hooks: readonly MatrixHook[];
  bochsModel?: string;
  qemu?: string | undefined;
  /** Default 1. */
  l1Cpus?: number | undefined;
  progress: Progress;
  signal?: AbortSignal | undefined;
  /** Called after each cell: a run that is interrupted keeps what it had. */
  onCell: (cell: MatrixCell) => void;
}

/** Bochs takes minutes for what QEMU does in seconds. */
const STEP_MS = 400_000;
/** Touched with npf linked. */
const PAGES = { amd: 4096, intel: 1024 } as const;
/** Touched without. */
const VANILLA = 256;
const LARGE = 512;
const LARGE_TOUCHED = 4;
const LARGE_FRAMES = 12;
const EXITS = 500;
const RAM = `${TURTLEFS_DIR}/matrix.ram`;

/** NICs are given by PCI hot-plug to an L1 with spare ports, which an Intel lab has not; no vendor is in that code. */
const runs = (vendor: MatrixVendor, hook: MatrixHook): boolean => vendor === 'amd' || hook !== 'net';

/** The cells that a run has, in its order. */
export function plannedCells(
  spec: Pick<MatrixSpec, 'kernels' | 'vendors' | 'hooks'>,
): Pick<MatrixCell, 'kernel' | 'vendor' | 'hook'>[] {
  return columnsOf(spec).flatMap(({ hooks, ...column }) => hooks.map((hook) => ({ ...column, hook })));
}

const columnsOf = (
  spec: Pick<MatrixSpec, 'kernels' | 'vendors' | 'hooks'>,
): (MatrixColumn & { hooks: MatrixHook[] })[] =>
  spec.kernels.flatMap((kernel) =>
    spec.vendors.map((vendor) => ({ kernel, vendor, hooks: spec.hooks.filter((h) => runs(vendor, h)) })),
  );

/** `up`: starts a lab. */
export async function runMatrix(spec: MatrixSpec, up: typeof labUp = labUp): Promise<void> {
  for (const { hooks, ...column } of columnsOf(spec)) {
    let left = hooks;
    // what failed may have left something behind: the next hook has another lab
    while (left.length > 0) left = left.slice(await runColumn(spec, column, left, up));
  }
}

type Verdict = Pick<MatrixCell, 'state' | 'found'>;

/** Runs hooks of one kernel and vendor in one lab, up to the first that fails. How many cells there are of it. */
async function runColumn(
  spec: MatrixSpec,
  column: MatrixColumn,
  hooks: readonly MatrixHook[],
  up: typeof labUp,
): Promise<number> {
  const { progress, signal } = spec;
  let on = 'no lab';
  const tell = (hook: MatrixHook, verdict: Verdict, begin: number): void => {
    const seconds = Math.round((performance.now() - begin) / 1000);
    spec.onCell({
      ...column,
      hook,
      ...verdict,
      seconds,
      on,
      date: new Date().toISOString().slice(0, 10),
    });
  };
  const started = performance.now();
  let lab: Lab | undefined;
  try {
    let logs: KernelLogs;
    try {
      lab = await up({
        kernel: column.kernel,
        ...(column.vendor === 'intel' ? { accel: 'bochs' as const } : {}),
        ...(spec.bochsModel === undefined ? {} : { bochsModel: spec.bochsModel }),
        qemu: spec.qemu,
        ...(spec.l1Cpus === undefined ? {} : { l1Cpus: spec.l1Cpus }),
        progress,
        signal,
      });
      logs = await KernelLogs.of(lab, signal);
    } catch (e) {
      if (signal?.aborted) throw e;
      const found = reason(e);
      progress.note(`x ${column.kernel}, ${column.vendor}: no lab: ${found}`);
      for (const hook of hooks) tell(hook, { state: 'not run', found }, started);
      return hooks.length;
    }
    on = labLine(lab, spec.bochsModel);
    for (const [i, hook] of hooks.entries()) {
      const step = progress.step(`${column.kernel}, ${column.vendor}, ${hook}`);
      const begin = performance.now();
      const verdict = await tried(lab, column.vendor, hook, logs, signal);
      if (verdict.state === 'run') step.done();
      else step.fail();
      tell(hook, verdict, begin);
      if (verdict.state === 'failed') return i + 1;
    }
    return hooks.length;
  } finally {
    await lab?.down();
  }
}

async function tried(
  lab: Lab,
  vendor: MatrixVendor,
  hook: MatrixHook,
  logs: KernelLogs,
  signal: AbortSignal | undefined,
): Promise<Verdict> {
  try {
    await using undo = new CleanupStack();
    const found = await HOOKS[hook]({ lab, vendor, undo, signal });
    await undo.run();
    await logs.expectClean(signal);
    return { state: 'run', found };
  } catch (e) {
    if (signal?.aborted) throw e;
    return { state: 'failed', found: reason(e) };
  }
}

const reason = (e: unknown): string => messageOf(e).replaceAll(/\s+/g, ' ').slice(0, 300);

function labLine(lab: Lab, bochsModel: string | undefined): string {
  const { accel, qemuVersion, l0QemuVersion, kernelVersion, l1 } = lab.environment();
  const bochs = `Bochs${bochsModel === undefined ? '' : ` (${bochsModel})`}`;
  const outer = accel === 'bochs' ? bochs : `QEMU ${qemuVersion}`;
  return `Linux ${kernelVersion} at L0 and L1, ${outer} outside, QEMU ${l0QemuVersion} in L0${l1.cpus > 1 ? `, ${l1.cpus} CPUs in L1` : ''}`;
}

/** What the kernels of L0 and L1 say from a moment on: of an emulator's processor some have something to say as they boot. */
class KernelLogs {
  readonly #levels: readonly Level[];
  readonly #before: readonly number[];

  private constructor(levels: readonly Level[], before: readonly number[]) {
    this.#levels = levels;
    this.#before = before;
  }

  static async of(lab: Lab, signal: AbortSignal | undefined): Promise<KernelLogs> {
    const levels = [lab.l0, lab.l1];
    const before: number[] = [];
    for (const level of levels) before.push((await troublesOf(level, signal)).length);
    return new KernelLogs(levels, before);
  }

  async expectClean(signal: AbortSignal | undefined): Promise<void> {
    for (const [i, level] of this.#levels.entries()) {
      const troubles = (await troublesOf(level, signal)).slice(this.#before[i]);
      if (troubles.length > 0) throw new Error(`kernel log of ${level.name}: ${troubles[0]!}`);
    }
  }
}

async function troublesOf(level: Level, signal: AbortSignal | undefined): Promise<string[]> {
  // packed: it goes through a serial port in an Intel lab
  const packed = await level.exec(['sh', '-c', 'dmesg | gzip'], { timeoutMs: STEP_MS, signal });
  return kernelTroubles(gunzipSync(packed.stdout).toString('utf8'));
}

type RunHook = (o: {
  lab: Lab;
  vendor: MatrixVendor;
  undo: CleanupStack;
  signal: AbortSignal | undefined;
}) => Promise<string>;

const HOOKS: Readonly<Record<MatrixHook, RunHook>> = {
  npf: ({ lab, vendor, undo, signal }) => npf(lab, PAGES[vendor], undo, signal),
  large: ({ lab, undo, signal }) => large(lab, undo, signal),
  exit: ({ lab, undo, signal }) => exits(lab, undo, signal),
  sample: ({ lab, undo, signal }) => samples(lab, undo, signal),
  net: ({ lab, undo, signal }) => packets(lab, undo, signal),
};

interface Guest {
  vmm: TinyVmm;
  /** The next step, and what KVM in L0 counted in it. */
  step(): Promise<{ result: TinyVmmResult; counters: Counters }>;
  register(): Promise<void>;
}

async function guest(
  lab: Lab,
  o: { pages: number; steps: readonly string[] },
  undo: CleanupStack,
  signal: AbortSignal | undefined,
): Promise<Guest> {
  const { l0, l1 } = lab;
  const counters = await KvmCounters.start(l0, signal);
  undo.add('counters', () => counters.stop());
  const vmm = await TinyVmm.start(l1, { ram: RAM, ...o }, signal);
  undo.add('file', () => runScript(l1, `rm -f ${RAM}`).then(() => {}));
  undo.add('VMM', () => vmm[Symbol.asyncDispose]());
  return {
    vmm,
    step: async () => {
      const before = await counters.read(signal);
      const result = await vmm.step(STEP_MS, signal);
      if (result.mismatches > 0) throw new Error(`${result.mismatches} words of the guest are not its own`);
      return { result, counters: countersBetween(before, await counters.read(signal)) };
    },
    register: async () => {
      const job = await l1.spawn([CLI, 'guest', 'register', '--pid', String(vmm.pid)], { signal });
      undo.add('registration', async () => {
        await job.kill('TERM');
        await job.wait({ timeoutMs: STEP_MS });
      });
      await jobSays(job, /registered/, 'hyperturtle guest register', STEP_MS, signal);
    },
  };
}

async function accelerated(
  lab: Lab,
  o: Omit<Parameters<typeof Acceleration.on>[1], 'arenaMib'>,
  undo: CleanupStack,
): Promise<Acceleration> {
  const a = await Acceleration.on(lab, { arenaMib: 8, ...o });
  undo.add('modules', () => a.off());
  return a;
}

/** A fault that L1 handled comes back once more, for L0 to copy the entry. */
function faults(c: Counters, pages: number): { exits: number; toL1: number; switches: number } {
  const [exits, toL1] = [c.l2ExitsByCause['npf'] ?? 0, c.reflectedByCause['npf'] ?? 0];
  return { exits, toL1, switches: (2 * (exits + toL1)) / pages };
}

function faultLine(what: string, c: Counters, pages: number): string {
  const { exits, toL1, switches } = faults(c, pages);
  return `${what}: ${exits} faults for ${pages} pages, ${toL1} to L1, ${switches.toFixed(2)} switches a page`;
}

async function npf(
  lab: Lab,
  pages: number,
  undo: CleanupStack,
  signal: AbortSignal | undefined,
): Promise<string> {
  await accelerated(lab, { signal }, undo);
  const steps = [`touch:${pages + LARGE}:${VANILLA}`, `touch:0:${pages}`];
  const g = await guest(lab, { pages: pages + VANILLA + LARGE, steps }, undo, signal);
  const vanilla = await g.step();
  await g.register();
  const { counters } = await g.step();
  const found = `${faultLine('vanilla', vanilla.counters, VANILLA)}; ${faultLine('answered', counters, pages)}`;
  const { exits, toL1, switches } = faults(counters, pages);
  // nine of ten first touches in L0, and at most half a world switch a page
  if (toL1 > exits / 10 || switches > 0.5) throw new Error(found);
  return found;
}

async function large(lab: Lab, undo: CleanupStack, signal: AbortSignal | undefined): Promise<string> {
  await accelerated(lab, { largeFrames: LARGE_FRAMES, signal }, undo);
  await whenLargePoolFull(lab.l1, LARGE_FRAMES, signal);
  const pages = LARGE_TOUCHED * LARGE;
  const steps = [`touch:0:${LARGE}`, `touch:${LARGE}:${pages}`];
  const g = await guest(lab, { pages: pages + LARGE, steps }, undo, signal);
  await g.register();
  await g.step();
  const { counters } = await g.step();
  const found = faultLine(`${LARGE_TOUCHED} times 2 MiB`, counters, pages);
  if (faults(counters, pages).exits > 2 * LARGE_TOUCHED) throw new Error(found);
  return found;
}

async function exits(lab: Lab, undo: CleanupStack, signal: AbortSignal | undefined): Promise<string> {
  await accelerated(lab, { hook: 'exit', program: EXIT_CACHE, options: ['exits=cpuid'], signal }, undo);
  const steps = [`cpuid:${EXITS}`, `cpuid:${EXITS}`];
  const g = await guest(lab, { pages: LARGE, steps }, undo, signal);
  const vanilla = await g.step();
  await g.register();
  const m = await g.step();
  const toL1 = (c: Counters): number => c.reflectedByCause['cpuid'] ?? 0;
  if (toL1(m.counters) > EXITS / 20)
    throw new Error(`L1 was entered for ${toL1(m.counters)} of ${EXITS} CPUIDs`);
  if (String(m.result.registers) !== String(vanilla.result.registers))
    throw new Error('CPUID was answered with other values than those of L1');
  return `${EXITS} CPUIDs: L1 entered for ${toL1(vanilla.counters)}; with exit-cache for ${toL1(m.counters)}`;
}

async function samples(lab: Lab, undo: CleanupStack, signal: AbortSignal | undefined): Promise<string> {
  const { l0, l1 } = lab;
  await insmod(l0, 'hyperturtle_host', signal);
  undo.add('module', () => rmmod(l0, 'hyperturtle_host'));
  const vmm = await TinyVmm.start(l1, { ram: '-', pages: 64, steps: ['share:0:16:2:100000000'] }, signal);
  undo.add('VMM', () => vmm[Symbol.asyncDispose]());
  await vmm.begin();
  const command = [CLI, 'host', 'profile', '--qmp', L1_RUN.qmpSocket, '--json', '--rows', '1000'];
  const said = await run(l0, [...command, '--hz', '499', '--seconds', '4'], { timeoutMs: STEP_MS, signal });
  const profile = JSON.parse(said.trim().split('\n').at(-1)!) as { source: string; samples: number };
  if (profile.samples < 50) throw new Error(`${profile.samples} samples in 4 s at 499 Hz`);
  return `${profile.samples} samples in 4 s at 499 Hz by ${profile.source}`;
}

const PINGS = 20;

/** A NIC that comes while L1 runs, with the same programs as network.test.ts: counted, and then dropped by a rule. */
async function packets(lab: Lab, undo: CleanupStack, signal: AbortSignal | undefined): Promise<string> {
  const { l0, l1 } = lab;
  await runScript(
    l0,
    'modprobe bridge && ip link add br0 type bridge && ip address add 10.9.0.1/24 dev br0 && ip link set br0 up',
  );
  undo.add('bridge', async () => void (await runScript(l0, 'ip link del br0')));
  const host = new ManagedHost(l0, ['networks:', '  lan: {bridge: br0}']);
  const nics = 'nics: {networks: [lan], ports: [spare0, spare1]}';
  await host.setUp(undo, [{ name: 'l1', seat: FIRST_SEAT, arenaMib: 4, more: [nics] }], signal);
  const g = new ManagedGuest(l1);
  await g.setUpAgent(undo, signal);
  await runScript(l1, 'modprobe virtio_net');
  const added = await g.command(['nic', 'add', 'm', '--driver', 'virtio-net', '--json'], signal);
  undo.add('NIC', () => g.command(['nic', 'del', 'm']).then(() => {}));
  const { interface: ifname } = JSON.parse(added) as { interface: string };
  await runScript(l1, `ip address add 10.9.0.2/24 dev ${ifname} && ip link set ${ifname} up`);
  const pings = async (): Promise<number> => {
    const said = await runScript(l1, `ping -c ${PINGS} -i 0.1 -W 2 10.9.0.1 || true`, {
      timeoutMs: STEP_MS,
      signal,
    });
    return Number(/(\d+) packets received/.exec(said)?.[1] ?? 0);
  };
  await g.command(['enable', 'packet-counter', '--nic', 'm', '--order', '10'], signal);
  await g.command(['enable', 'firewall', '--nic', 'm'], signal);
  const passed = await pings();
  await g.command(['firewall', 'add', '--nic', 'm', '--at', '1', 'deny in icmp from 10.9.0.1'], signal);
  const denied = await pings();
  await g.command(['disable', 'firewall', '--nic', 'm'], signal);
  await g.command(['disable', 'packet-counter', '--nic', 'm'], signal);
  if (passed < PINGS / 2 || denied > 0)
    throw new Error(`${passed} of ${PINGS} pings passed, ${denied} against the rule`);
  return `${passed} of ${PINGS} pings through counter and firewall, ${denied} against its rule`;
}
