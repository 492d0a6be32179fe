/**
 * Measures the control plane on this machine: a daemon in a process of its own, with real sockets, real eBPF objects
 * and maps, and no kernel module (control-kernel.ts); two VMs, of which one is measured and the other makes load.
 */
import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { programFile } from '../../core/code-file.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { exec } from '../../core/exec.ts';
import { CleanupStack } from '../../core/lifecycle.ts';
import type { Progress } from '../../core/progress.ts';
import { sleep, withDeadline } from '../../core/wait.ts';
import type { RpcPeer } from '../../wire/peer.ts';
import type { METHODS } from '../../wire/schema.ts';
import { HOOK, OBJECT, change, elapsedMs, roundTripsUs } from './measure.ts';
import { Port } from './port.ts';
import type { FromProcess, ToProcess } from './process.ts';
import { LOADS, ROUND_TRIPS } from './schema.ts';
import type { ChangeSample, ControlResult, Load, MemorySample, PhaseSample } from './schema.ts';
import { summarizeControl } from './summary.ts';
import { RESULT_SCHEMA_VERSION } from '../shared/environment-schema.ts';
import { machineEnvironment } from '../shared/machine-environment.ts';

export interface ControlSpec {
  /** eBPF object for hook npf. */
  objectFile: string;
  roundTrips: number;
  changes: number;
  rounds: number;
  phaseSeconds: number;
  probeIntervalMs: number;
  requestsPerSecond: number;
  window: number;
}

export interface ControlOptions {
  version: string;
  progress: Progress;
  signal?: AbortSignal | undefined;
  /** The compiled control-process; default: beside this file. */
  processPath?: string;
}

type Agent = RpcPeer<typeof METHODS>;

const START_TIMEOUT_MS = 30_000;
/** A new loading process is ready long before. */
const CHANGE_PAUSE_MS = 1500;

/** Needs root, as loading programs does. Throws what the daemon says, HT_TIMEOUT. */
export async function runControl(spec: ControlSpec, options: ControlOptions): Promise<ControlResult> {
  const { signal } = options;
  const startedAt = new Date();
  const elf = (await readFile(spec.objectFile)).toString('base64');
  const undo = new CleanupStack();
  try {
    const context = await setUp(spec, options, undo);
    const { agent } = context;
    // the first of each kind compiles and allocates what stays
    await change(agent, elf, { signal });
    await roundTripsUs(agent, 200, signal);
    await remember(context, 'warm');
    const trips = await measureTrips(context);
    const changes = await measureChanges(context, elf);
    await remember(context, 'after loads');
    const { object } = await agent.request('load', { name: OBJECT, elf }, { signal });
    await agent.request('link', { object: OBJECT, hook: HOOK }, { signal });
    const phases = await takePhases(context);
    await agent.request('unload', { name: OBJECT, force: true }, { signal });
    await remember(context, 'all unloaded');
    agent.close();

    const samples = { roundTripsUs: trips, changes, phases, memory: context.memory };
    const sizes = object.programs.filter((p) => p.hook === HOOK);
    return {
      schema: RESULT_SCHEMA_VERSION,
      benchmark: 'control',
      environment: machineEnvironment(options.version, startedAt),
      parameters: {
        ...parametersOf(spec),
        changePauseMs: CHANGE_PAUSE_MS,
        objectBytes: Buffer.from(elf, 'base64').length,
        objectInstructions: sizes.reduce((n, p) => n + p.instructions, 0),
        objectVerifiedInstructions: sizes.reduce((n, p) => n + p.verifiedInstructions, 0),
      },
      ...samples,
      summary: summarizeControl(samples),
    };
  } finally {
    await undo.run();
  }
}

/** A daemon with two VMs: one is measured, a process of its own makes the load of the other. */
async function setUp(spec: ControlSpec, options: ControlOptions, undo: CleanupStack): Promise<Context> {
  const { progress, signal } = options;
  const dir = await mkdtemp(path.join(os.tmpdir(), 'hyperturtle-bench-'));
  undo.add('directory', () => rm(dir, { recursive: true, force: true }));
  const bpffs = path.join(dir, 'bpf');
  await mkdir(bpffs);
  await exec('mount', ['-t', 'bpf', 'bpf', bpffs], { signal });
  undo.add('bpffs', async () => void (await exec('umount', [bpffs])));

  const sockets = { measured: path.join(dir, 'measured'), loading: path.join(dir, 'loading') };
  const port = await Port.listen(sockets.measured);
  undo.add('port', () => port.close());
  const processPath = options.processPath ?? programFile('bench/control/process');
  const loader = await Child.start(processPath, ['load', sockets.loading, String(spec.window)], dir);
  undo.add('loading VM', () => loader.stop());
  const configFile = path.join(dir, 'host.yaml');
  await writeFile(configFile, configuration(dir, sockets, spec.requestsPerSecond));
  const daemon = await Child.start(processPath, ['daemon', configFile, dir, options.version], dir);
  undo.add('daemon', () => daemon.stop());
  const agent = await port.session(signal);
  return { spec, agent, loader, daemon, memory: [], progress, signal };
}

async function remember({ memory, daemon }: Context, when: string): Promise<void> {
  memory.push({ when, ...(await memoryOf(daemon.pid)) });
}

async function measureTrips({
  spec,
  agent,
  progress,
  signal,
}: Context): Promise<ControlResult['roundTripsUs']> {
  const step = progress.step(`${spec.roundTrips} round trips each of ${ROUND_TRIPS.join(', ')}`);
  const trips = await roundTripsUs(agent, spec.roundTrips, signal);
  step.done();
  return trips;
}

async function measureChanges(
  { spec, agent, progress, signal }: Context,
  elf: string,
): Promise<ChangeSample[]> {
  const step = progress.step(`2 x ${spec.changes} times load, link, unlink, unload`);
  const changes: ChangeSample[] = [];
  for (const pace of ['apart', 'next'] as const)
    for (let i = 0; i < spec.changes; i++) {
      if (pace === 'apart') await sleep(CHANGE_PAUSE_MS, signal);
      changes.push({ pace, ...(await change(agent, elf, { signal })) });
    }
  step.done();
  return changes;
}

async function takePhases(context: Context): Promise<PhaseSample[]> {
  const { spec, progress } = context;
  const phases: PhaseSample[] = [];
  for (let round = 0; round < spec.rounds; round++)
    for (const load of LOADS) {
      const name = `[${phases.length + 1}/${spec.rounds * LOADS.length}] other VM: ${load}`;
      const step = progress.step(name);
      phases.push(await phase(context, load, round));
      step.done();
      await remember(context, `after ${load}, round ${round + 1}`);
    }
  return phases;
}

function parametersOf(spec: ControlSpec): Omit<ControlSpec, 'objectFile'> {
  return {
    roundTrips: spec.roundTrips,
    changes: spec.changes,
    rounds: spec.rounds,
    phaseSeconds: spec.phaseSeconds,
    probeIntervalMs: spec.probeIntervalMs,
    requestsPerSecond: spec.requestsPerSecond,
    window: spec.window,
  };
}

interface Context {
  spec: ControlSpec;
  agent: Agent;
  loader: Child;
  daemon: Child;
  /** The daemon's, at named moments. */
  memory: MemorySample[];
  progress: Progress;
  signal: AbortSignal | undefined;
}

/** One VM asks `ping` at an even pace while the other makes its load. */
async function phase(
  { spec, agent, loader, daemon, signal }: Context,
  load: Load,
  round: number,
): Promise<PhaseSample> {
  const seconds = spec.phaseSeconds;
  let other: Promise<FromProcess> | undefined;
  if (load !== 'quiet') {
    loader.send({ load, seconds });
    await loader.next((m) => 'begun' in m, START_TIMEOUT_MS);
    other = loader.next((m) => 'answeredPerSecond' in m, seconds * 1000 + START_TIMEOUT_MS);
  }
  const cpu = await cpuSecondsOf(daemon.pid);
  const t0 = performance.now();
  const probeUs: number[] = [];
  let failures = 0;
  while (performance.now() - t0 < seconds * 1000) {
    try {
      probeUs.push(1000 * (await elapsedMs(agent.request('ping', {}, { signal, timeoutMs: 5000 }))));
    } catch (e) {
      if (signal?.aborted) throw e;
      failures++;
    }
    await sleep(spec.probeIntervalMs, signal);
  }
  const took = (performance.now() - t0) / 1000;
  const daemonCpuSeconds = (await cpuSecondsOf(daemon.pid)) - cpu;
  const report = await other;
  const counts = report && 'answeredPerSecond' in report ? report : { answeredPerSecond: [], failures: 0 };
  return {
    round,
    load,
    seconds: took,
    probeUs,
    answeredPerSecond: counts.answeredPerSecond,
    failures: failures + counts.failures,
    daemonCpuSeconds,
  };
}

function configuration(
  dir: string,
  sockets: { measured: string; loading: string },
  requestsPerSecond: number,
): string {
  const vm = (name: string, socket: string): object => ({
    qmp: path.join(dir, `${name}.qmp`),
    agent: { socket },
    arenaMib: 16,
    // what is measured is the one that loads; the other's own pace must not limit it
    quotas: { requestsPerSecond: name === 'loading' ? requestsPerSecond : 100_000 },
  });
  // JSON is YAML
  return JSON.stringify({
    vms: { measured: vm('measured', sockets.measured), loading: vm('loading', sockets.loading) },
    log: { level: 'info', file: path.join(dir, 'daemon.log') },
    state: path.join(dir, 'state'),
    run: path.join(dir, 'run'),
    bpffs: path.join(dir, 'bpf'),
  });
}

/** One of our processes, told what to do by messages. */
class Child {
  readonly #process: ChildProcess;
  readonly #received: FromProcess[] = [];
  #ended: string | undefined;
  #changed = (): void => {};

  private constructor(process: ChildProcess) {
    this.#process = process;
    process.on('message', (m: FromProcess) => {
      this.#received.push(m);
      this.#changed();
    });
    process.on('exit', (status, name) => {
      this.#ended = `ended with ${name ?? `status ${status}`}`;
      this.#changed();
    });
  }

  static async start(file: string, args: readonly string[], cwd: string): Promise<Child> {
    const child = new Child(fork(file, args, { cwd, stdio: ['ignore', 'ignore', 'inherit', 'ipc'] }));
    try {
      await child.next((m) => 'ready' in m, START_TIMEOUT_MS);
    } catch (e) {
      await child.stop();
      throw e;
    }
    return child;
  }

  get pid(): number {
    return this.#process.pid ?? 0;
  }

  send(message: ToProcess): void {
    if (this.#process.connected) this.#process.send(message);
  }

  /** Throws HT_CRASHED when the process has ended or met a problem, HT_TIMEOUT. */
  next(matches: (m: FromProcess) => boolean, timeoutMs: number): Promise<FromProcess> {
    const found = new Promise<FromProcess>((resolve, reject) => {
      this.#changed = () => {
        const problem = this.#received.find((m) => 'problem' in m);
        const i = this.#received.findIndex(matches);
        if (problem !== undefined) reject(new HyperturtleError('HT_CRASHED', `bench: ${problem.problem}`));
        else if (i >= 0) resolve(this.#received.splice(i, 1)[0]!);
        else if (this.#ended !== undefined)
          reject(new HyperturtleError('HT_CRASHED', `a process of the benchmark ${this.#ended}`));
      };
      this.#changed();
    });
    return withDeadline('a process of the benchmark', found, timeoutMs);
  }

  async stop(): Promise<void> {
    if (this.#ended !== undefined) return;
    const exit = once(this.#process, 'exit');
    this.send({ stop: true });
    const timer = setTimeout(() => this.#process.kill('SIGKILL'), 10_000);
    await exit;
    clearTimeout(timer);
  }
}

async function memoryOf(pid: number): Promise<Omit<MemorySample, 'when'>> {
  const of = async (p: number): Promise<{ rss: number; own: number }> => {
    const text = await readFile(`/proc/${p}/smaps_rollup`, 'utf8');
    const kib = (name: string): number =>
      Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0);
    return { rss: kib('Rss'), own: kib('Private_Clean') + kib('Private_Dirty') };
  };
  const self = await of(pid);
  const children = (await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')).split(' ').filter(Boolean);
  const workers = await Promise.all(
    // one that has ended meanwhile has no memory
    children.map((c) => of(Number(c)).catch(() => ({ own: 0 }))),
  );
  return {
    rssKib: self.rss,
    privateKib: self.own,
    workersPrivateKib: workers.reduce((n, w) => n + w.own, 0),
    openFiles: (await readdir(`/proc/${pid}/fd`)).length,
  };
}

async function cpuSecondsOf(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  // utime and stime, in ticks of 1/100 s
  return (Number(fields[11]) + Number(fields[12])) / 100;
}
