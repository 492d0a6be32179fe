/**
 * Measurements in OpenMetrics form and a health check, over HTTP on a unix socket or a loopback port. Values are
 * taken when asked for. Labels are names from the configuration and from tables, never what a tenant chose.
 */
import http from 'node:http';
import { Counter, Gauge, Registry, collectDefaultMetrics } from 'prom-client';
import { metricsPage, servePages } from '../../core/metrics-http.ts';
import { listening } from '../../core/sockets.ts';
import type { Page } from '../../core/metrics-http.ts';
import { answersForL1, figuresOf } from '../../wire/figures.ts';
import { HOOK_TABLE } from '../hooks.ts';
import type { LoaderStatus } from '../loader/loader.ts';
import type { HostConfig } from '../config.ts';
import { framesOf } from '../nics/tap.ts';
import { listenAt } from './sockets.ts';
import type { VmStatus } from '../vm/managed-vm.ts';

export interface MetricsSource {
  vms(): VmStatus[];
  loader(): LoaderStatus;
  /** What is wrong; empty: healthy. */
  problems(): string[];
}

export class Metrics {
  readonly #registry = new Registry();
  readonly #source: MetricsSource;
  readonly #calls = new Map<string, { vm: string; method: string; outcome: string; n: number }>();
  #server: http.Server | undefined;

  constructor(source: MetricsSource) {
    this.#source = source;
    // the declared type of a registry knows Prometheus's content type only
    this.#registry.setContentType(Registry.OPENMETRICS_CONTENT_TYPE as never);
    collectDefaultMetrics({ register: this.#registry, prefix: 'hyperturtle_host_' });
    // gauges with a counter's suffix: the same by kind is there without it
    for (const what of ['handles', 'requests', 'resources'])
      this.#registry.removeSingleMetric(`hyperturtle_host_nodejs_active_${what}_total`);
    this.#addCalls();
    this.#addVms();
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
    return this.#registry.metrics();
  }

  /** Serves `/metrics` and `/health`. */
  async listen(at: NonNullable<HostConfig['metrics']>): Promise<void> {
    const pages = this.#pages();
    const server = http.createServer((request, response) => void servePages(pages, request, response));
    server.maxConnections = 16;
    server.requestTimeout = 10_000;
    if ('socket' in at) await listenAt(server, at.socket);
    else await listening(server, () => server.listen(at.port, '127.0.0.1'));
    this.#server = server;
  }

  async close(): Promise<void> {
    const server = this.#server;
    this.#registry.clear();
    if (!server) return;
    this.#server = undefined;
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }

  #pages(): Page[] {
    const health = (): { type: string; body: string; status: number } => {
      const problems = this.#source.problems();
      const body = `${JSON.stringify({ healthy: problems.length === 0, problems })}\n`;
      return { type: 'application/json', body, status: problems.length === 0 ? 200 : 503 };
    };
    return [metricsPage(() => this.text()), { path: '/health', answer: () => Promise.resolve(health()) }];
  }

  #addCalls(): void {
    const calls = this.#calls;
    new Counter({
      name: 'hyperturtle_host_requests',
      help: 'Requests of VMs by outcome',
      labelNames: ['vm', 'method', 'outcome'],
      registers: [this.#registry],
      collect() {
        this.reset();
        for (const { n, ...labels } of calls.values()) this.inc(labels, n);
      },
    });
  }

  /** Each VM, and the frames of its NICs. */
  #addVms(): void {
    this.#perVm('vm_attached', 'Whether the VM runs and is attached', (vm) => [
      [{}, vm.phase === 'attached' ? 1 : 0],
    ]);
    this.#perVm('vm_agent_connected', 'Whether its port is connected', (vm) => [
      [{}, vm.agent.connected ? 1 : 0],
    ]);
    this.#perVm('vm_used', 'Of its quotas', (vm) =>
      Object.entries(vm.used ?? {}).map(([quota, n]) => [{ quota }, n]),
    );
    this.#perVm('vm_arena_bytes', 'Size of its arena', (vm) => [[{ state: vm.arena.state }, vm.arena.bytes]]);
    for (const what of ['bytes', 'packets', 'dropped', 'errors'] as const)
      this.#perVm(`nic_${what}`, `Of the VM's NICs, by the direction as its guest sees it: ${what}`, (vm) =>
        vm.nics.flatMap(({ ifname, network }) =>
          framesOf(ifname)
            .filter((f) => f.what === what)
            .map((f): Sample => [{ ifname, network, direction: f.direction }, f.n]),
        ),
      );
    this.#perVm(
      'vm_start_time_seconds',
      'When it was attached: counters of its hooks began at 0 then',
      (vm) => (vm.countedSince === null ? [] : [[{}, Date.parse(vm.countedSince) / 1000]]),
    );
  }

  /** What the hooks of each VM did since it was attached. */
  #addHookFigures(): void {
    for (const [what, help] of HOOK_COUNTS)
      this.#perVm(`hook_${what}`, `Since the VM was attached: ${help}`, (vm) =>
        byHook(vm.stats, (s) => s[what]),
      );
    this.#perVm(
      'hook_there',
      'Since the VM was attached: faults whose entry was there already; L1 did not run',
      (vm) => byHook(vm.stats.filter(answersForL1), (s) => figuresOf(s).there),
    );
    this.#perVm('hook_to_l1', 'Since the VM was attached: events that reached L1', (vm) =>
      byHook(vm.stats.filter(answersForL1), (s) => figuresOf(s).toL1),
    );
    this.#perVm('hook_went_on', 'Of hooks of NICs, since the links were made: frames that went on', (vm) =>
      byHook(
        vm.stats.filter((s) => s.target !== undefined),
        (s) => s.passed,
      ),
    );
  }

  /** How long programs took, and links that were ended for it. */
  #addRunTimes(): void {
    this.#perVm('hook_overruns', 'Runs of programs that took longer than allowed', (vm) =>
      vm.stats.flatMap((s) => (s.overruns === undefined ? [] : [[{ hook: s.hook }, s.overruns]])),
    );
    this.#perVm('hook_longest_run_seconds', 'Longest run of the program that was linked last', (vm) =>
      vm.stats.flatMap((s) => (s.maxNs === undefined ? [] : [[{ hook: s.hook }, s.maxNs / 1e9]])),
    );
    this.#perVm('hook_link_ended', 'Links that were ended as runs took too long, and not made again', (vm) =>
      vm.ended.map(({ link }) => [{ hook: link.hook }, 1]),
    );
  }

  /** The rest of groups that L0 fills in at once. */
  #addFills(): void {
    const each = (name: string, help: string, of: (f: Fills) => Sample[]): void =>
      this.#perVm(name, help, (vm) => vm.stats.flatMap((s) => (s.fills === undefined ? [] : of(s.fills))));
    each('fills', 'Further faults of a group, up to 8 pages each, in the exit of its first one', (f) => [
      [{}, f.done],
    ]);
    each('fills_left_out', 'Exits in which the rest of a group was left out; absent: pages', (f) =>
      (['budget', 'pending', 'failed', 'absent'] as const).map((reason): Sample => [{ reason }, f[reason]]),
    );
    each('fill_seconds', 'Time that fills took, together', (f) => [[{}, f.ns / 1e9]]);
    each('fill_longest_seconds', 'Longest time from the hook to the last fill of an exit', (f) => [
      [{}, f.maxNs / 1e9],
    ]);
    each('fill_budget_seconds', 'No fill begins later in an exit; 0: fills are off', (f) => [
      [{}, f.limitNs / 1e9],
    ]);
  }

  #addLinksAndReasons(): void {
    this.#perVm(
      'nic_link_left_off',
      'Links to NICs that could not be taken over from an earlier daemon: off, or held as they were',
      (vm) =>
        HOOK_TABLE.flatMap(({ name }): Sample[] => {
          const n = vm.leftOff.filter(({ link }) => link.hook === name).length;
          return n === 0 ? [] : [[{ hook: name }, n]];
        }),
    );
    this.#perVm('hook_reasons', 'Why the program did not answer; L1 ran for all of them but PRESENT', (vm) =>
      vm.stats.flatMap((s) =>
        Object.entries(s.reasons).map(([reason, n]): Sample => [{ hook: s.hook, reason }, n]),
      ),
    );
  }

  #addLoader(): void {
    const source = this.#source;
    const status = (name: string, help: string, value: (s: LoaderStatus) => number): void => {
      new Gauge({
        name: `hyperturtle_host_loader_${name}`,
        help,
        registers: [this.#registry],
        collect() {
          this.set(value(source.loader()));
        },
      });
    };
    status('workers', 'Worker processes', (s) => s.pids.length);
    status('busy', 'Objects being loaded', (s) => s.busy);
    status('waiting', 'Requests that wait for a worker', (s) => s.waiting);
    status('loads', 'Requests served since start', (s) => s.loads);
    status('killed', 'Workers ended for their deadline since start', (s) => s.killed);
    status('crashed', 'Workers that ended by themselves since start', (s) => s.crashed);
  }

  #perVm(name: string, help: string, samples: (vm: VmStatus) => Sample[]): void {
    const source = this.#source;
    new Gauge({
      name: `hyperturtle_host_${name}`,
      help,
      labelNames: ['vm', ...LABELS],
      registers: [this.#registry],
      collect() {
        this.reset();
        for (const vm of source.vms())
          for (const [labels, value] of samples(vm)) this.set({ vm: vm.name, ...labels }, value);
      },
    });
  }
}

const HOOK_COUNTS = [
  ['runs', 'faults, exits or frames that a program saw'],
  ['handled', 'faults and exits answered in L0, samples taken, frames dropped'],
  ['entries', "entries written into L1's tables"],
  ['learned', "faults from which the flags of L1's entries were learned"],
] as const;

type Stats = VmStatus['stats'];
type Fills = NonNullable<Stats[number]['fills']>;

/** A hook of NICs has a row for each link. */
function byHook(stats: Stats, value: (s: Stats[number]) => number): Sample[] {
  const sums = new Map<string, number>();
  for (const s of stats) sums.set(s.hook, (sums.get(s.hook) ?? 0) + value(s));
  return Array.from(sums, ([hook, n]): Sample => [{ hook }, n]);
}

const LABELS = ['quota', 'state', 'hook', 'reason', 'ifname', 'network', 'direction'] as const;
type Sample = [labels: Partial<Record<(typeof LABELS)[number], string>>, value: number];
