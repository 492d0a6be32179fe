/** A reconciler's measurements, over HTTP for Prometheus. metric-table.ts has what they are. */
import { closePageServer, metricsPage, pageServer } from '../core/metrics-http.ts';
import { listening } from '../core/sockets.ts';
import { TableRegistry } from '../core/table-registry.ts';
import type { FleetFigures } from './figures.ts';
import { FLEET_METRICS } from './metric-table.ts';

type Counts = ReadonlyMap<string, number>;
type Metrics = TableRegistry<typeof FLEET_METRICS>;

/** Serves `/metrics` at the address and port; 0 takes a free one. Throws HT_BUSY, HT_KERNEL. */
export async function serveFleetMetrics(
  at: { address: string; port: number },
  figures: () => FleetFigures,
): Promise<{ port: number; close: () => Promise<void> }> {
  const metrics = new TableRegistry(FLEET_METRICS);
  let now = figures();
  define(metrics, () => now);
  const text = (): Promise<string> => {
    // once for all measurements
    now = figures();
    return metrics.text();
  };
  const server = pageServer([metricsPage(text)]);
  await listening(server, () => server.listen(at.port, at.address));
  const address = server.address();
  return {
    port: typeof address === 'object' && address ? address.port : at.port,
    close: () => closePageServer(server),
  };
}

function define(to: Metrics, now: () => FleetFigures): void {
  to.add('hyperturtle_reconciler_start_time_seconds', () => [[{}, now().startedAt / 1000]]);
  to.add('hyperturtle_reconciler_converged', () => [[{}, now().converged ? 1 : 0]]);
  to.add('hyperturtle_reconciler_convergence_seconds', () => {
    const { convergenceMs: ms } = now();
    return ms === undefined ? [] : [[{}, ms / 1000]];
  });
  to.add('hyperturtle_reconciler_sets', () => [...now().phases].map(([phase, n]) => [{ phase }, n]));
  to.add('hyperturtle_reconciler_set_phase', () =>
    now().sets.map(({ name, version, phase }) => [{ set: name, version, phase }, 1]),
  );
  to.add('hyperturtle_reconciler_refused', () => labelled('kind', now().refused));
  to.add('hyperturtle_reconciler_agent_answers', () => [[{}, now().agentAnswers ? 1 : 0]]);
  to.add('hyperturtle_reconciler_rounds', () => [[{}, now().rounds]]);
  to.add('hyperturtle_reconciler_api_requests', () => labelled('outcome', now().requests));
  const each = (of: (r: FleetFigures['resources'][number]) => number) => () =>
    now().resources.map((r) => [{ resource: r.resource }, of(r)] as const);
  to.add(
    'hyperturtle_reconciler_watching',
    each((r) => (r.watching ? 1 : 0)),
  );
  to.add(
    'hyperturtle_reconciler_lists',
    each((r) => r.lists),
  );
  to.add(
    'hyperturtle_reconciler_watches',
    each((r) => r.watches),
  );
  to.add(
    'hyperturtle_reconciler_watch_failures',
    each((r) => r.failures),
  );
  to.add(
    'hyperturtle_reconciler_watch_gone',
    each((r) => r.gone),
  );
}

const labelled = <L extends string>(label: L, counts: Counts): (readonly [Record<L, string>, number])[] =>
  Array.from(counts, ([value, n]) => [{ [label]: value } as Record<L, string>, n] as const);
