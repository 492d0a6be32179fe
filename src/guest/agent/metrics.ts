/** The agent's measurements in OpenMetrics form, on a unix socket or a loopback port. Values are taken when asked for. */
import http from 'node:http';
import { Counter, Gauge, Registry } from 'prom-client';
import { metricsPage, servePages } from '../../core/metrics-http.ts';
import { listenAt, listening } from '../../core/sockets.ts';
import type { AgentConfig } from './config.ts';
import type { AgentResult } from './schema.ts';

type Status = AgentResult<'agent.status'>;

/** A registry whose values are those of `status()` at the time of the question. */
function agentRegistry(status: () => Status): Registry {
  const registry = new Registry();
  registry.setContentType(Registry.OPENMETRICS_CONTENT_TYPE as never);
  const registers = [registry];
  let now: Status | undefined;
  const taken = (): Status => (now ??= status());
  const gauge = (name: string, help: string, value: (s: Status) => number | undefined): void => {
    new Gauge({
      name: `hyperturtle_agent_${name}`,
      help,
      registers,
      collect() {
        const v = value(taken());
        if (v === undefined) this.remove();
        else this.set(v);
      },
    });
  };
  const counter = (name: string, help: string, value: (s: Status) => number | undefined): void => {
    new Counter({
      name: `hyperturtle_agent_${name}`,
      help,
      registers,
      collect() {
        this.reset();
        this.inc(value(taken()) ?? 0);
      },
    });
  };
  gauge('connected', '1 while there is a session with the host', (s) =>
    s.host.state === 'connected' ? 1 : 0,
  );
  gauge('start_time_seconds', 'When the agent started: its counters began at 0 then', (s) =>
    s.startedAt === undefined ? undefined : Date.parse(s.startedAt) / 1000,
  );
  counter('sessions', 'Sessions with the host since the agent started', (s) => s.host.sessions);
  gauge('desired_reached', '1 while the host has what is wanted', (s) => (s.desired.reached ? 1 : 0));
  gauge('desired_objects', 'Objects wanted', (s) => s.desired.objects);
  gauge('desired_links', 'Links wanted', (s) => s.desired.links);
  gauge(
    'problems',
    'Problems with what is wanted, the module and nested guests',
    (s) => [...s.desired.problems, ...s.l2Problems].length,
  );
  gauge('arena_bound', '1 while the module has an arena', (s) => (s.module?.arenaBound ? 1 : 0));
  gauge('pool_frames', 'Zeroed frames in the pool', (s) => s.module?.pool.level);
  gauge('pool_low_frames', 'The pool is refilled below this', (s) => s.module?.pool.low);
  gauge('pool_high_frames', 'The pool is refilled up to this', (s) => s.module?.pool.high);
  counter('pool_refills', 'Refills of the pool', (s) => s.module?.pool.refills);
  counter('pool_shrunk_frames', 'Frames given back under memory pressure', (s) => s.module?.pool.shrunk);
  gauge('index_words', 'Words of the page index', (s) => s.module?.index.words);
  gauge('index_used_words', 'Words that belong to files', (s) => s.module?.index.used);
  counter('faults', 'Page faults of turtlefs in this machine', (s) => s.module?.faults.total);
  counter('grace_periods', 'Grace periods waited for', (s) => s.module?.gracePeriods);
  gauge('l2s', 'Registered nested guests', (s) => s.l2s.length);
  const perL2 = (name: string, help: string, value: (l2: Status['l2s'][number]) => number): void => {
    new Gauge({
      name: `hyperturtle_l2_${name}`,
      help,
      labelNames: ['l2', 'pid'],
      registers,
      collect() {
        this.reset();
        for (const l2 of taken().l2s) this.set({ l2: l2.name, pid: l2.pid }, value(l2));
      },
    });
  };
  perL2(
    'start_time_seconds',
    'When it was registered: all that is counted of it began at 0 then',
    (l) => Date.parse(l.since) / 1000,
  );
  perL2('faults', 'Faults that its program saw since registration', (l) => l.faults);
  perL2('mapped_new', 'Faults answered with a frame of the pool since registration', (l) => l.mappedNew);
  perL2(
    'mapped_existing',
    'Faults answered with a frame that was there since registration',
    (l) => l.mappedExisting,
  );
  perL2(
    'mapped_ahead',
    'Pages that got a frame of the pool ahead of their fault, besides those',
    (l) => l.mappedAhead,
  );
  perL2('passes', 'Faults left to this machine since registration', (l) => l.passes);
  perL2('frames_taken', 'Frames taken from the pool', (l) => l.framesTaken);
  perL2('frames_charged', 'Frames of turtlefs charged to its memory cgroup', (l) => l.framesCharged);
  perL2('frames_credit', 'Of those, charged ahead of a program that takes them', (l) => l.framesCredit);
  perL2('pages_held', 'Pages of its RAM that have a frame', (l) => l.pagesHeld);
  perL2(
    'pages_unused',
    'Of those held, given ahead of their fault and not seen to be used',
    (l) => l.pagesUnused,
  );
  perL2('pages', 'Pages of its RAM that programs know', (l) => l.pages);
  perL2('indexed', '0 while no page of its RAM has a place in the arena: no fault of it is answered', (l) =>
    l.noIndex === undefined ? 1 : 0,
  );
  const metrics = registry.metrics.bind(registry);
  registry.metrics = () => {
    now = undefined;
    return metrics();
  };
  return registry;
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
