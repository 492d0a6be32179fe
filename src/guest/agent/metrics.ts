/** The agent's measurements in OpenMetrics form, on a unix socket or a loopback port. Values are taken when asked for. */
import http from 'node:http';
import { Counter, Gauge, Registry } from 'prom-client';
import { metricsPage, servePages } from '../../core/metrics-http.ts';
import { listenAt, listening } from '../../core/sockets.ts';
import type { AgentConfig } from './config.ts';
import type { AgentResult } from './schema.ts';

type Status = AgentResult<'agent.status'>;

type L2Status = Status['l2s'][number];

/** A registry whose values are those of `status()` at the time of the question. */
function agentRegistry(status: () => Status): Registry {
  const registry = new Registry();
  registry.setContentType(Registry.OPENMETRICS_CONTENT_TYPE as never);
  let now: Status | undefined;
  const to = new StatusMetrics(registry, () => (now ??= status()));
  sessionMetrics(to);
  moduleMetrics(to);
  l2Metrics(to);
  const metrics = registry.metrics.bind(registry);
  registry.metrics = () => {
    now = undefined;
    return metrics();
  };
  return registry;
}

/** Metrics whose values are taken out of a status when they are asked for. */
class StatusMetrics {
  readonly #registers: Registry[];
  readonly #status: () => Status;

  constructor(registry: Registry, status: () => Status) {
    this.#registers = [registry];
    this.#status = status;
  }

  gauge(name: string, help: string, value: (s: Status) => number | undefined): void {
    const status = this.#status;
    new Gauge({
      name: `hyperturtle_agent_${name}`,
      help,
      registers: this.#registers,
      collect() {
        const v = value(status());
        if (v === undefined) this.remove();
        else this.set(v);
      },
    });
  }

  counter(name: string, help: string, value: (s: Status) => number | undefined): void {
    const status = this.#status;
    new Counter({
      name: `hyperturtle_agent_${name}`,
      help,
      registers: this.#registers,
      collect() {
        this.reset();
        this.inc(value(status()) ?? 0);
      },
    });
  }

  poolNodes(name: string, help: string): void {
    const status = this.#status;
    new Gauge({
      name: `hyperturtle_agent_${name}`,
      help,
      labelNames: ['node'],
      registers: this.#registers,
      collect() {
        this.reset();
        for (const { node, level } of status().module?.pool.nodes ?? []) this.set({ node }, level);
      },
    });
  }

  perL2(name: string, help: string, value: (l2: L2Status) => number): void {
    const status = this.#status;
    new Gauge({
      name: `hyperturtle_l2_${name}`,
      help,
      labelNames: ['l2', 'pid'],
      registers: this.#registers,
      collect() {
        this.reset();
        for (const l2 of status().l2s) this.set({ l2: l2.name, pid: l2.pid }, value(l2));
      },
    });
  }
}

/** The session with the host, and what is wanted there. */
function sessionMetrics(to: StatusMetrics): void {
  to.gauge('connected', '1 while there is a session with the host', (s) =>
    s.host.state === 'connected' ? 1 : 0,
  );
  to.gauge('start_time_seconds', 'When the agent started: its counters began at 0 then', (s) =>
    s.startedAt === undefined ? undefined : Date.parse(s.startedAt) / 1000,
  );
  to.counter('sessions', 'Sessions with the host since the agent started', (s) => s.host.sessions);
  to.gauge('desired_reached', '1 while the host has what is wanted', (s) => (s.desired.reached ? 1 : 0));
  to.gauge('desired_objects', 'Objects wanted', (s) => s.desired.objects);
  to.gauge('desired_links', 'Links wanted', (s) => s.desired.links);
  to.gauge(
    'problems',
    'Problems with what is wanted, the module and nested guests',
    (s) => [...s.desired.problems, ...s.l2Problems].length,
  );
}

/** The kernel module: its arena, pool and page index. */
function moduleMetrics(to: StatusMetrics): void {
  to.gauge('arena_bound', '1 while the module has an arena', (s) => (s.module?.arenaBound ? 1 : 0));
  to.gauge('pool_frames', 'Zeroed frames in the pool', (s) => s.module?.pool.level);
  to.poolNodes('pool_node_frames', 'Zeroed frames in the pool of a NUMA node');
  to.gauge('pool_low_frames', 'The pool is refilled below this', (s) => s.module?.pool.low);
  to.gauge('pool_high_frames', 'The pool is refilled up to this', (s) => s.module?.pool.high);
  to.counter('pool_refills', 'Refills of the pool', (s) => s.module?.pool.refills);
  to.counter('pool_shrunk_frames', 'Frames given back under memory pressure', (s) => s.module?.pool.shrunk);
  to.gauge('index_words', 'Words of the page index', (s) => s.module?.index.words);
  to.gauge('index_used_words', 'Words that belong to files', (s) => s.module?.index.used);
  to.counter('faults', 'Page faults of turtlefs in this machine', (s) => s.module?.faults.total);
  to.counter('grace_periods', 'Grace periods waited for', (s) => s.module?.gracePeriods);
}

/** Each nested guest. */
function l2Metrics(to: StatusMetrics): void {
  to.gauge('l2s', 'Registered nested guests', (s) => s.l2s.length);
  to.perL2(
    'start_time_seconds',
    'When it was registered: all that is counted of it began at 0 then',
    (l) => Date.parse(l.since) / 1000,
  );
  to.perL2('faults', 'Faults that its program saw since registration', (l) => l.faults);
  to.perL2('mapped_new', 'Faults answered with a frame of the pool since registration', (l) => l.mappedNew);
  to.perL2(
    'mapped_existing',
    'Faults answered with a frame that was there since registration',
    (l) => l.mappedExisting,
  );
  to.perL2(
    'mapped_ahead',
    'Pages that got a frame of the pool ahead of their fault, besides those',
    (l) => l.mappedAhead,
  );
  to.perL2('passes', 'Faults left to this machine since registration', (l) => l.passes);
  to.perL2('frames_taken', 'Frames taken from the pool', (l) => l.framesTaken);
  to.perL2('frames_charged', 'Frames of turtlefs charged to its memory cgroup', (l) => l.framesCharged);
  to.perL2('frames_credit', 'Of those, charged ahead of a program that takes them', (l) => l.framesCredit);
  to.perL2('pages_held', 'Pages of its RAM that have a frame', (l) => l.pagesHeld);
  to.perL2(
    'pages_unused',
    'Of those held, given ahead of their fault under `guest set --exact` and not seen to be used',
    (l) => l.pagesUnused,
  );
  to.perL2('pages', 'Pages of its RAM that programs know', (l) => l.pages);
  to.perL2(
    'indexed',
    '0 while no page of its RAM has a place in the arena: no fault of it is answered',
    (l) => (l.noIndex === undefined ? 1 : 0),
  );
}

export class MetricsServer {
  readonly #server: http.Server;

  private constructor(server: http.Server) {
    this.#server = server;
  }

  /** Throws HT_BUSY when another agent serves that socket. */
  static async listen(
    at: NonNullable<AgentConfig['metrics']>,
    status: () => Status,
    signal: AbortSignal,
  ): Promise<MetricsServer> {
    const registry = agentRegistry(status);
    const pages = [metricsPage(() => registry.metrics())];
    const server = http.createServer((request, response) => void servePages(pages, request, response));
    server.requestTimeout = 10_000;
    server.maxConnections = 16;
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

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
  }
}
