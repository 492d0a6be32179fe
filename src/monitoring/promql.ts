/** Measurements in PromQL, by the tables of daemon, agent and reconciler: a name or label that is in neither does not compile. */
import type { LabelOf } from '../core/metric-table.ts';
import { FLEET_METRICS } from '../fleet/metric-table.ts';
import { AGENT_METRICS } from '../guest/agent/metric-table.ts';
import { HOST_METRICS } from '../host/daemon/metric-table.ts';

const METRICS = { ...HOST_METRICS, ...AGENT_METRICS, ...FLEET_METRICS };
export type Metric = keyof typeof METRICS;

/** What a label's value is to be, is not to be, or matches whole. */
type Match = string | { not: string } | { matches: string };
export type Matches<N extends Metric> = Partial<Record<LabelOf<typeof METRICS, N>, Match>>;

/** Names of Prometheus's jobs that scrape daemons, agents and reconcilers. */
export interface Jobs {
  host: string;
  agent: string;
  fleet: string;
}

/** `hyperturtle_host_requests_total{outcome="QUOTA"}` */
export function series<N extends Metric>(name: N, labels: Matches<N> = {}): string {
  const suffix = METRICS[name].kind === 'counter' ? '_total' : '';
  return `${name}${suffix}${selector(labels)}`;
}

/** Prometheus's own: 1 while the job's last scrape of an instance worked. */
export const up = (job: string, labels: Readonly<Record<string, Match>> = {}): string =>
  `up${selector({ job, ...labels })}`;

export const hasLabel = (name: Metric, label: string): boolean =>
  METRICS[name].labels.some((l) => l === label);

function selector(labels: Readonly<Record<string, Match | undefined>>): string {
  const all = Object.entries(labels).map(([label, match = '']) => {
    if (typeof match === 'string') return `${label}=${quoted(match)}`;
    return 'not' in match ? `${label}!=${quoted(match.not)}` : `${label}=~${quoted(match.matches)}`;
  });
  return all.length === 0 ? '' : `{${all.join(',')}}`;
}

/** Escaped as in JSON, which PromQL takes. */
const quoted = (text: string): string => JSON.stringify(text);
