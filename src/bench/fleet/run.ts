/**
 * A fleet on one machine: a stand-in of the API server in this process, and in others a reconciler for each node, each with its
 * own connections. What the API is asked, how long a change takes to reach all, and what a node's reconciler weighs.
 */
import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import os from 'node:os';
import path from 'node:path';
import { programFile } from '../../core/code-file.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { CleanupStack } from '../../core/lifecycle.ts';
import type { Progress } from '../../core/progress.ts';
import { sleep, waitFor, withDeadline } from '../../core/wait.ts';
import { GROUP, SETS, VERSION } from '../../fleet/crd.ts';
import { placeOf } from '../../fleet/rollout.ts';
import type { NodeStatus } from '../../fleet/spec.ts';
import { ApiServer, kubeconfigOf } from '../../testbed/api-server.ts';
import { machineEnvironment } from '../shared/machine-environment.ts';
import type { MachineEnvironment } from '../shared/environment-schema.ts';
import type { FromNodes, ToNodes } from './process.ts';

export interface FleetSpec {
  nodes: number;
  l2s: number;
  sets: number;
  objectBytes: number;
  /** Processes that the nodes are divided among. */
  processes: number;
  /** That the API answers a second; all others get 429. */
  requestsPerS: number;
  steadyS: number;
}

/** What happened from a moment on, until all nodes had it. */
interface Phase {
  name: string;
  /** Nodes that it concerned, and until they said so, in seconds. */
  nodes: number;
  p50S: number;
  p99S: number;
  allS: number;
  /** Answers of the API by verb and status: `list 200`. */
  answers: Record<string, number>;
  /** Most requests that came in one second. */
  peakPerS: number;
}

export interface FleetResult {
  benchmark: 'fleet';
  environment: MachineEnvironment;
  parameters: FleetSpec;
  phases: Phase[];
  steady: { seconds: number; answers: Record<string, number>; requestsPerNodeAndMinute: number };
  memory: { processes: number; rssKib: number; heapKib: number; heapKibPerNode: number };
}

const NAMESPACE = 'hyperturtle';
const SETS_PATH = `/apis/${GROUP}/${VERSION}/namespaces/${NAMESPACE}/${SETS}`;
const CONFIG_MAPS = `/api/v1/namespaces/${NAMESPACE}/configmaps`;
const START_MS = 120_000;
const CONVERGE_MS = 600_000;
/** The set whose versions are rolled out. */
const SET = 'set-0';

export interface FleetOptions {
  version: string;
  progress: Progress;
  signal: AbortSignal;
  /** The compiled process; default: beside this file. */
  processPath?: string;
}

/** Throws HT_CRASHED, HT_TIMEOUT. */
export async function runFleet(spec: FleetSpec, options: FleetOptions): Promise<FleetResult> {
  const startedAt = new Date();
  await using undo = new CleanupStack();
  const fleet = await Fleet.start(spec, options, undo);
  const phases = [await fleet.phase('start of all', () => fleet.startNodes(undo), fleet.names, 'v1')];
  await sleep(5000, options.signal); // until the last writes are there
  const steady = await fleet.steady();
  for (const percent of [1, 10, 100])
    phases.push(
      await fleet.phase(
        `another version to ${percent}%`,
        () => fleet.put('v1', { version: 'v2', percent }),
        // those that a smaller share had reached are not concerned
        fleet.names.filter(
          (n) => isIn(n, percent) && !isIn(n, percent === 100 ? 10 : percent === 10 ? 1 : 0),
        ),
        'v2',
      ),
    );
  phases.push(await fleet.phase('a version to all at once', () => fleet.put('v3'), fleet.names, 'v3'));
  phases.push(
    await fleet.phase(
      'all watches break, then a version',
      () => fleet.breakWatches('v4', false),
      fleet.names,
      'v4',
    ),
  );
  phases.push(
    await fleet.phase(
      '410 Gone for all, then a version',
      () => fleet.breakWatches('v5', true),
      fleet.names,
      'v5',
    ),
  );
  const memory = await fleet.memory();
  return {
    benchmark: 'fleet',
    environment: machineEnvironment(options.version, startedAt),
    parameters: spec,
    ...{ phases, steady, memory },
  };
}

const isIn = (node: string, percent: number): boolean => placeOf(SET, node) < percent;

class Fleet {
  readonly names: readonly string[];
  readonly #spec: FleetSpec;
  readonly #o: FleetOptions;
  readonly #api: ApiServer;
  readonly #dir: string;
  readonly #children: ChildProcess[] = [];
  /** SHA-256 of the object of each version. */
  readonly #objects = new Map<string, string>();
  #perSecond: number[] = [];

  private constructor(spec: FleetSpec, options: FleetOptions, api: ApiServer, dir: string) {
    this.#spec = spec;
    this.#o = options;
    this.#api = api;
    this.#dir = dir;
    this.names = Array.from({ length: spec.nodes }, (_, i) => `node-${i}`);
    api.fault = () => {
      const second = Math.floor(performance.now() / 1000);
      this.#perSecond[second] = (this.#perSecond[second] ?? 0) + 1;
      return undefined;
    };
  }

  static async start(spec: FleetSpec, options: FleetOptions, undo: CleanupStack): Promise<Fleet> {
    const dir = await mkdtemp(path.join(os.tmpdir(), 'hyperturtle-bench-'));
    undo.add('directory', () => rm(dir, { recursive: true, force: true }));
    const api = new ApiServer({ requestsPerS: spec.requestsPerS, history: 100_000 });
    undo.add('API', () => api.close());
    await writeFile(path.join(dir, 'kubeconfig'), kubeconfigOf(await api.listen(), NAMESPACE));
    const fleet = new Fleet(spec, options, api, dir);
    for (const name of fleet.names) api.put('/api/v1/nodes', { metadata: { name, labels: { pool: 'a' } } });
    fleet.put('v1');
    for (let i = 1; i < spec.sets; i++) fleet.#putSet(`set-${i}`, 'v1');
    return fleet;
  }

  /** The set has this version, and another one on a share of the nodes. */
  put(version: string, rollout?: { version: string; percent: number }): void {
    this.#putSet(SET, version, rollout);
  }

  #putSet(name: string, version: string, rollout?: { version: string; percent: number }): void {
    const object = (v: string): object => ({ configMap: { name: this.#configMap(v), key: 'o' } });
    this.#api.put(SETS_PATH, {
      metadata: { name },
      spec: {
        object: object(version),
        ...(rollout ? { rollout: { object: object(rollout.version), percent: rollout.percent } } : {}),
        links: [{ hook: 'npf' }],
        nodeSelector: { pool: 'a' },
      },
    });
  }

  #configMap(version: string): string {
    if (!this.#objects.has(version)) {
      const o = randomBytes(this.#spec.objectBytes);
      this.#objects.set(version, '');
      this.#api.put(CONFIG_MAPS, { metadata: { name: version }, binaryData: { o: o.toString('base64') } });
    }
    return version;
  }

  async startNodes(undo: CleanupStack): Promise<void> {
    const { nodes, processes, l2s } = this.#spec;
    const file = this.#o.processPath ?? programFile('bench/fleet/process');
    for (let i = 0; i < processes; i++) {
      const share = [Math.floor((nodes * i) / processes), Math.floor((nodes * (i + 1)) / processes)];
      const args = [...share, l2s].map(String);
      const child = fork(file, [...args, path.join(this.#dir, 'kubeconfig'), NAMESPACE], {
        execArgv: ['--expose-gc'],
        stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      });
      this.#children.push(child);
      undo.add('nodes', () => ended(child));
    }
    await Promise.all(this.#children.map((c) => answerOf(c, START_MS)));
  }

  /** Does something, and waits until these nodes say that they have the version linked. */
  async phase(
    name: string,
    begin: () => void | Promise<void>,
    concerned: readonly string[],
    version: string,
  ): Promise<Phase> {
    const step = this.#o.progress.step(name);
    const waiting = new Set(concerned);
    const times: number[] = [];
    const before = this.#answers();
    this.#perSecond = [];
    const t0 = performance.now();
    const generation = (): number | undefined => this.#api.get(SETS_PATH, SET)?.metadata.generation;
    this.#api.onApply = (node, object) => {
      const { sets = [] } = (object['status'] ?? {}) as Partial<NodeStatus>;
      const found = sets.find((s) => s.name === SET);
      if (found?.phase !== 'Linked' || found.generation !== generation()) return;
      if (waiting.delete(node)) times.push((performance.now() - t0) / 1000);
    };
    await begin();
    await waitFor(`${name}: ${version} on all nodes`, () => (waiting.size === 0 ? true : undefined), {
      timeoutMs: CONVERGE_MS,
      signal: this.#o.signal,
    });
    this.#api.onApply = () => {};
    step.done();
    times.sort((a, b) => a - b);
    const at = (share: number): number => times[Math.ceil(share * times.length) - 1] ?? 0;
    return {
      ...{ name, nodes: concerned.length, p50S: at(0.5), p99S: at(0.99), allS: at(1) },
      answers: difference(this.#answers(), before),
      peakPerS: Math.max(0, ...this.#perSecond.filter((n) => n !== undefined)),
    };
  }

  breakWatches(version: string, gone: boolean): void {
    this.#api.cutWatches();
    if (gone) this.#api.forget();
    this.put(version);
    if (gone) this.#api.forget();
  }

  async steady(): Promise<FleetResult['steady']> {
    const { steadyS, nodes } = this.#spec;
    const step = this.#o.progress.step(`${steadyS} s without a change`);
    const before = this.#answers();
    const t0 = performance.now();
    await sleep(steadyS * 1000, this.#o.signal);
    const seconds = (performance.now() - t0) / 1000;
    const answers = difference(this.#answers(), before);
    step.done();
    const requests = Object.entries(answers).filter(([what]) => what !== 'watch 200');
    const sum = requests.reduce((n, [, count]) => n + count, 0);
    return { seconds, answers, requestsPerNodeAndMinute: (sum * 60) / seconds / nodes };
  }

  async memory(): Promise<FleetResult['memory']> {
    let [rssKib, heapKib] = [0, 0];
    for (const child of this.#children) {
      const answer = answerOf(child, START_MS);
      child.send({ what: 'memory' } satisfies ToNodes);
      const told = await answer;
      if (!('rssKib' in told)) continue;
      rssKib += told.rssKib;
      heapKib += told.heapKib;
    }
    const heapKibPerNode = heapKib / this.#spec.nodes;
    return { processes: this.#children.length, rssKib, heapKib, heapKibPerNode };
  }

  #answers(): Map<string, number> {
    return new Map(this.#api.answers);
  }
}

function difference(after: Map<string, number>, before: Map<string, number>): Record<string, number> {
  const counts = Array.from(after, ([what, n]) => [what, n - (before.get(what) ?? 0)] as const);
  return Object.fromEntries(counts.filter(([, n]) => n > 0).sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Throws HT_CRASHED when the process has ended or met a problem, HT_TIMEOUT. */
function answerOf(child: ChildProcess, timeoutMs: number): Promise<FromNodes> {
  const answer = new Promise<FromNodes>((resolve, reject) => {
    child.once('message', (m: FromNodes) =>
      'problem' in m ? reject(new HyperturtleError('HT_CRASHED', `nodes: ${m.problem}`)) : resolve(m),
    );
    child.once('exit', () => reject(new HyperturtleError('HT_CRASHED', 'a process of nodes has ended')));
  });
  return withDeadline('nodes', answer, timeoutMs);
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, 'exit');
  if (child.connected) child.send({ what: 'stop' } satisfies ToNodes);
  const timer = setTimeout(() => child.kill('SIGKILL'), 10_000);
  await exit;
  clearTimeout(timer);
}
