/**
 * Measurements in OpenMetrics form and a health check, over HTTP on a unix socket or a loopback port. Values are
 * taken when asked for. metric-table.ts has what they are.
 */
import type http from 'node:http';
import { collectDefaultMetrics } from 'prom-client';
import type { LabelOf, WithLabel } from '../../core/metric-table.ts';
import { closePageServer, metricsPage, pageServer } from '../../core/metrics-http.ts';
import { listening } from '../../core/sockets.ts';
import type { Page } from '../../core/metrics-http.ts';
import { TableRegistry } from '../../core/table-registry.ts';
import type { Sample as TableSample } from '../../core/table-registry.ts';
import { answersForL1, figuresOf } from '../../wire/figures.ts';
import { HOOK_TABLE } from '../hooks.ts';
import type { LoaderStatus } from '../loader/loader.ts';
import type { HostConfig } from '../config.ts';
import { framesByDevice } from '../nics/tap.ts';
import type { Frames } from '../nics/tap.ts';
import { HOST_METRICS } from './metric-table.ts';
import { listenAt } from './sockets.ts';
import type { KernelState } from '../vm/kernel.ts';
import type { VmStatus } from '../vm/vm-status.ts';

export interface MetricsSource {
  vms(): VmStatus[];
  loader(): LoaderStatus;
  kernel(): KernelState;
  /** What is wrong; empty: healthy. */
  problems(): string[];
}

export class Metrics {
  readonly #registry = new TableRegistry(HOST_METRICS);
  readonly #source: MetricsSource;
  readonly #calls = new Map<string, { vm: string; method: string; outcome: string; n: number }>();
  #server: http.Server | undefined;
  /** As they were when the measurements were last asked for. */
  #vms: readonly VmStatus[] = [];
  #frames: ReadonlyMap<string, readonly Frames[]> = new Map();

  constructor(source: MetricsSource) {
    this.#source = source;
    const { registry } = this.#registry;
    collectDefaultMetrics({ register: registry, prefix: 'hyperturtle_host_' });
    // gauges with a counter's suffix: the same by kind is there without it
    for (const what of ['handles', 'requests', 'resources'])
      registry.removeSingleMetric(`hyperturtle_host_nodejs_active_${what}_total`);
    this.#addKernel();
    this.#addCalls();
    this.#addVms();
    this.#addNics();
    this.#addHookFigures();
    this.#addRunTimes();
    this.#addFills();
    this.#addLinksAndReasons();
    this.#addLoader();
  }

  count(vm: string, method: string, outcome: string): void {
    const key = `${vm} ${method} ${outcome}`;
    const call = this.#calls.get(key);
    if (call) call.n++;
    else this.#calls.set(key, { vm, method, outcome, n: 1 });
  }

  /** A VM that is no more has no numbers. */
  forget(vm: string): void {
    for (const [key, call] of this.#calls) if (call.vm === vm) this.#calls.delete(key);
  }

  text(): Promise<string> {
    // once for all measurements: values are taken before this returns
    this.#vms = this.#source.vms();
    this.#frames = framesByDevice();
    return this.#registry.text();
  }

  /** Serves `/metrics` and `/health`. */
  async listen(at: NonNullable<HostConfig['metrics']>): Promise<void> {
    const server = pageServer(this.#pages());
    if ('socket' in at) await listenAt(server, at.socket);
    else await listening(server, () => server.listen(at.port, '127.0.0.1'));
    this.#server = server;
  }

  async close(): Promise<void> {
    const server = this.#server;
    this.#registry.registry.clear();
    if (!server) return;
    this.#server = undefined;
    await closePageServer(server);
  }

  #pages(): Page[] {
    const health = (): { type: string; body: string; status: number } => {
      const problems = this.#source.problems();
      const body = `${JSON.stringify({ healthy: problems.length === 0, problems })}\n`;
      return { type: 'application/json', body, status: problems.length === 0 ? 200 : 503 };
    };
    return [metricsPage(() => this.text()), { path: '/health', answer: () => Promise.resolve(health()) }];
  }

  #addKernel(): void {
    const source = this.#source;
    this.#value('hyperturtle_host_module_loaded', () => (source.kernel().moduleLoaded ? 1 : 0));
    this.#value('hyperturtle_host_ftrace_on', () => (source.kernel().ftraceOn ? 1 : 0));
  }

  #addCalls(): void {
    const samples = (): TableSample<typeof HOST_METRICS, 'hyperturtle_host_requests'>[] =>
      [...this.#calls.values()].map(({ n, ...labels }) => [labels, n]);
    this.#registry.add('hyperturtle_host_requests', samples);
  }

  #addVms(): void {
    this.#perVm('hyperturtle_host_vm_attached', (vm) => [[{}, vm.phase === 'attached' ? 1 : 0]]);
    this.#perVm('hyperturtle_host_vm_agent_connected', (vm) => [[{}, vm.agent.connected ? 1 : 0]]);
    this.#perVm('hyperturtle_host_vm_used', (vm) =>
      Object.entries(vm.used ?? {}).map(([quota, n]) => [{ quota }, n]),
    );
    this.#perVm('hyperturtle_host_vm_arena_bytes', (vm) => [[{ state: vm.arena.state }, vm.arena.bytes]]);
    this.#perVm('hyperturtle_host_vm_start_time_seconds', (vm) =>
      vm.countedSince === null ? [] : [[{}, Date.parse(vm.countedSince) / 1000]],
    );
    this.#perVm('hyperturtle_host_vm_l2s', (vm) => reported(vm).map((l1) => [{}, l1.l2Count]));
    this.#perVm('hyperturtle_host_vm_l2s_not_indexed', (vm) =>
      reported(vm).map((l1) => [{}, l1.l2s.filter((l) => l.noIndex !== undefined).length]),
    );
  }

  /** Frames of each VM's NICs. */
  #addNics(): void {
    for (const what of ['bytes', 'packets', 'dropped', 'errors'] as const) {
      const name = `hyperturtle_host_nic_${what}` as const;
      this.#perVm(name, (vm) =>
        vm.nics.flatMap(({ ifname, network }) =>
          (this.#frames.get(ifname) ?? []).map(
            ({ direction, counts }): Sample<typeof name> => [{ ifname, network, direction }, counts[what]],
          ),
        ),
      );
    }
  }

  /** What the hooks of each VM did since it was attached. */
  #addHookFigures(): void {
    for (const what of ['runs', 'handled', 'entries', 'learned'] as const)
      this.#perVm(`hyperturtle_host_hook_${what}`, (vm) => byHook(vm.stats, (s) => s[what]));
    this.#perVm('hyperturtle_host_hook_there', (vm) =>
      byHook(vm.stats.filter(answersForL1), (s) => figuresOf(s).there),
    );
    this.#perVm('hyperturtle_host_hook_to_l1', (vm) =>
      byHook(vm.stats.filter(answersForL1), (s) => figuresOf(s).toL1),
    );
    this.#perVm('hyperturtle_host_hook_went_on', (vm) =>
      byHook(
        vm.stats.filter((s) => s.target !== undefined),
        (s) => s.passed,
      ),
    );
  }

  /** How long programs took, and links that were ended for it. */
  #addRunTimes(): void {
    this.#perVm('hyperturtle_host_hook_overruns', (vm) =>
      vm.stats.flatMap((s) => (s.overruns === undefined ? [] : [[{ hook: s.hook }, s.overruns]])),
    );
    this.#perVm('hyperturtle_host_hook_longest_run_seconds', (vm) =>
      vm.stats.flatMap((s) => (s.maxNs === undefined ? [] : [[{ hook: s.hook }, s.maxNs / 1e9]])),
    );
    this.#perVm('hyperturtle_host_hook_link_ended', (vm) =>
      vm.ended.map(({ link }) => [{ hook: link.hook }, 1]),
    );
  }

  /** The rest of groups that L0 fills in at once. */
  #addFills(): void {
    const each = <N extends PerVm>(name: N, of: (f: Fills) => Sample<N>[]): void =>
      this.#perVm(name, (vm) => vm.stats.flatMap((s) => (s.fills === undefined ? [] : of(s.fills))));
    each('hyperturtle_host_fills', (f) => [[{}, f.done]]);
    each('hyperturtle_host_fills_left_out', (f) =>
      (['budget', 'pending', 'failed', 'absent'] as const).map((reason) => [{ reason }, f[reason]]),
    );
    each('hyperturtle_host_fill_seconds', (f) => [[{}, f.ns / 1e9]]);
    each('hyperturtle_host_fill_longest_seconds', (f) => [[{}, f.maxNs / 1e9]]);
    each('hyperturtle_host_fill_budget_seconds', (f) => [[{}, f.limitNs / 1e9]]);
  }

  #addLinksAndReasons(): void {
    this.#perVm('hyperturtle_host_nic_link_left_off', (vm) =>
      HOOK_TABLE.flatMap(({ name }): Sample<'hyperturtle_host_nic_link_left_off'>[] => {
        const n = vm.leftOff.filter(({ link }) => link.hook === name).length;
        return n === 0 ? [] : [[{ hook: name }, n]];
      }),
    );
    this.#perVm('hyperturtle_host_hook_reasons', (vm) =>
      vm.stats.flatMap((s) =>
        Object.entries(s.reasons).map(
          ([reason, n]): Sample<'hyperturtle_host_hook_reasons'> => [{ hook: s.hook, reason }, n],
        ),
      ),
    );
  }

  #addLoader(): void {
    const status = (): LoaderStatus => this.#source.loader();
    this.#value('hyperturtle_host_loader_workers', () => status().pids.length);
    for (const what of ['busy', 'waiting', 'loads', 'killed', 'crashed'] as const)
      this.#value(`hyperturtle_host_loader_${what}`, () => status()[what]);
  }

  #value(name: Plain, value: () => number): void {
    this.#registry.add(name, () => [[{}, value()]]);
  }

  #perVm<N extends PerVm>(name: N, samples: (vm: VmStatus) => Sample<N>[]): void {
    type Whole = TableSample<typeof HOST_METRICS, N>;
    const whole = (vm: VmStatus): Whole[] =>
      samples(vm).map(([labels, value]) => [{ vm: vm.name, ...labels } as Whole[0], value]);
    this.#registry.add(name, () => this.#vms.flatMap(whole));
  }
}

/** Those with no label. */
type Plain = Exclude<keyof typeof HOST_METRICS, PerVm>;
/** Those that have samples of each VM. */
type PerVm = WithLabel<typeof HOST_METRICS, 'vm'>;
/** Its labels besides the VM. */
type Sample<N extends PerVm> = [
  labels: Record<Exclude<LabelOf<typeof HOST_METRICS, N>, 'vm'>, string>,
  value: number,
];

type Stats = VmStatus['stats'];
type Fills = NonNullable<Stats[number]['fills']>;

/** What L1 said of itself, while it may be asked. */
const reported = (vm: VmStatus): NonNullable<VmStatus['l1']>[] =>
  vm.l1 !== null && vm.agent.connected ? [vm.l1] : [];

/** A hook of NICs has a row for each link. */
function byHook(stats: Stats, value: (s: Stats[number]) => number): [labels: { hook: string }, n: number][] {
  const sums = new Map<string, number>();
  for (const s of stats) sums.set(s.hook, (sums.get(s.hook) ?? 0) + value(s));
  return Array.from(sums, ([hook, n]) => [{ hook }, n]);
}
