/**
 * The agent's measurements in OpenMetrics form, on a unix socket or a loopback port. Values are taken when asked for.
 * metric-table.ts has what they are.
 */
import type http from 'node:http';
import type { WithLabel } from '../../core/metric-table.ts';
import { closePageServer, metricsPage, pageServer } from '../../core/metrics-http.ts';
import { listenAt, listening } from '../../core/sockets.ts';
import { TableRegistry } from '../../core/table-registry.ts';
import type { AgentConfig } from './config.ts';
import { AGENT_METRICS } from './metric-table.ts';
import type { AgentResult } from './schema.ts';

type Status = AgentResult<'agent.status'>;

type L2Status = Status['l2s'][number];

interface AgentFigures {
  status: () => Status;
  /** VMs of this machine whose memory is not on turtlefs; undefined where none is to be. */
  vmsElsewhere: () => number | undefined;
}

type AgentMetric = keyof typeof AGENT_METRICS;
/** Those with no label. */
type Plain = Exclude<AgentMetric, WithLabel<typeof AGENT_METRICS, 'node' | 'l2'>>;

/** Measurements whose values are taken out of a status, which is that of the time when they are asked for. */
class StatusMetrics {
  readonly #registry = new TableRegistry(AGENT_METRICS);
  readonly #figures: AgentFigures;
  #now: Status | undefined;

  constructor(figures: AgentFigures) {
    this.#figures = figures;
    sessionMetrics(this);
    moduleMetrics(this);
    l2Metrics(this);
    this.one('hyperturtle_agent_vms_elsewhere', figures.vmsElsewhere);
  }

  text(): Promise<string> {
    // once for all measurements
    this.#now = undefined;
    return this.#registry.text();
  }

  one(name: Plain, value: (s: Status) => number | undefined): void {
    this.#registry.add(name, () => {
      const v = value(this.#status);
      return v === undefined ? [] : [[{}, v]];
    });
  }

  poolNodes(name: WithLabel<typeof AGENT_METRICS, 'node'>): void {
    this.#registry.add(name, () =>
      (this.#status.module?.pool.nodes ?? []).map(({ node, level }) => [{ node }, level] as const),
    );
  }

  perL2(name: WithLabel<typeof AGENT_METRICS, 'l2'>, value: (l2: L2Status) => number | undefined): void {
    this.#registry.add(name, () =>
      this.#status.l2s.flatMap((l2) => {
        const v = value(l2);
        return v === undefined ? [] : [[{ l2: l2.name, pid: l2.pid }, v] as const];
      }),
    );
  }

  get #status(): Status {
    return (this.#now ??= this.#figures.status());
  }
}

/** The session with the host, and what is wanted there. */
function sessionMetrics(to: StatusMetrics): void {
  to.one('hyperturtle_agent_connected', (s) => (s.host.state === 'connected' ? 1 : 0));
  to.one('hyperturtle_agent_start_time_seconds', (s) =>
    s.startedAt === undefined ? undefined : Date.parse(s.startedAt) / 1000,
  );
  to.one('hyperturtle_agent_sessions', (s) => s.host.sessions);
  to.one('hyperturtle_agent_desired_reached', (s) => (s.desired.reached ? 1 : 0));
  to.one('hyperturtle_agent_desired_objects', (s) => s.desired.objects);
  to.one('hyperturtle_agent_desired_links', (s) => s.desired.links);
  to.one('hyperturtle_agent_problems', (s) => s.desired.problems.length + s.l2Problems.length);
}

/** The kernel module: its arena, pool and page index. */
function moduleMetrics(to: StatusMetrics): void {
  to.one('hyperturtle_agent_module_present', (s) =>
    s.module === null ? undefined : s.module.state === 'present' ? 1 : 0,
  );
  to.one('hyperturtle_agent_arena_bound', (s) => (s.module?.arenaBound ? 1 : 0));
  to.one('hyperturtle_agent_pool_frames', (s) => s.module?.pool.level);
  to.poolNodes('hyperturtle_agent_pool_node_frames');
  to.one('hyperturtle_agent_pool_low_frames', (s) => s.module?.pool.low);
  to.one('hyperturtle_agent_pool_high_frames', (s) => s.module?.pool.high);
  to.one('hyperturtle_agent_pool_refills', (s) => s.module?.pool.refills);
  to.one('hyperturtle_agent_pool_shrunk_frames', (s) => s.module?.pool.shrunk);
  to.one('hyperturtle_agent_index_words', (s) => s.module?.index.words);
  to.one('hyperturtle_agent_index_used_words', (s) => s.module?.index.used);
  to.one('hyperturtle_agent_faults', (s) => s.module?.faults.total);
  to.one('hyperturtle_agent_grace_periods', (s) => s.module?.gracePeriods);
}

/** Each nested guest. */
function l2Metrics(to: StatusMetrics): void {
  to.one('hyperturtle_agent_l2s', (s) => s.l2s.length);
  to.perL2('hyperturtle_l2_start_time_seconds', (l) => Date.parse(l.since) / 1000);
  to.perL2('hyperturtle_l2_faults', (l) => l.faults);
  to.perL2('hyperturtle_l2_mapped_new', (l) => l.mappedNew);
  to.perL2('hyperturtle_l2_mapped_existing', (l) => l.mappedExisting);
  to.perL2('hyperturtle_l2_mapped_ahead', (l) => l.mappedAhead);
  to.perL2('hyperturtle_l2_passes', (l) => l.passes);
  to.perL2('hyperturtle_l2_frames_taken', (l) => l.framesTaken);
  to.perL2('hyperturtle_l2_frames_charged', (l) => l.framesCharged);
  to.perL2('hyperturtle_l2_frames_credit', (l) => l.framesCredit);
  to.perL2('hyperturtle_l2_pages_held', (l) => l.pagesHeld);
  to.perL2('hyperturtle_l2_pages_unused', (l) => l.pagesUnused);
  to.perL2('hyperturtle_l2_large_waiting', (l) => l.largeWaiting);
  to.perL2('hyperturtle_l2_large_seen', (l) => l.largeSeen);
  to.perL2('hyperturtle_l2_large_kept', (l) => l.largeKept);
  to.perL2('hyperturtle_l2_pages_vain', (l) => l.pagesVain);
  to.perL2('hyperturtle_l2_pages_given_back', (l) => l.pagesBack);
  to.perL2('hyperturtle_l2_small', (l) => (l.small === undefined ? 0 : 1));
  to.perL2('hyperturtle_l2_pages', (l) => l.pages);
  to.perL2('hyperturtle_l2_indexed', (l) => (l.noIndex === undefined ? 1 : 0));
}

export class MetricsServer {
  readonly #server: http.Server;

  private constructor(server: http.Server) {
    this.#server = server;
  }

  /** Throws HT_BUSY when another agent serves that socket. */
  static async listen(
    at: NonNullable<AgentConfig['metrics']>,
    figures: AgentFigures,
    signal: AbortSignal,
  ): Promise<MetricsServer> {
    const metrics = new StatusMetrics(figures);
    const server = pageServer([metricsPage(() => metrics.text())]);
    if ('socket' in at)
      await listenAt(server, at.socket, {
        signal,
        // measurements are no secret within the machine's group of readers; the rest of the directory is root's
        mode: 0o660,
        taken: `${at.socket}: another agent serves its measurements there: stop it first, or give this one another socket`,
      });
    else await listening(server, () => server.listen(at.port, '127.0.0.1'));
    return new MetricsServer(server);
  }

  get port(): number | undefined {
    const address = this.#server.address();
    return typeof address === 'object' ? address?.port : undefined;
  }

  close(): Promise<void> {
    return closePageServer(this.#server);
  }
}
