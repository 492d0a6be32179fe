/** Names, help and labels of a reconciler's measurements; metrics.ts takes the values. Alert rules refer to this. */
import { counter, gauge } from '../core/metric-table.ts';
import type { MetricTable } from '../core/metric-table.ts';

const RESOURCE = ['resource'] as const;

export const FLEET_METRICS = {
  hyperturtle_reconciler_start_time_seconds: gauge(
    'When the reconciler started: its counters began at 0 then',
    [],
  ),
  hyperturtle_reconciler_converged: gauge(
    '1 while all sets for this node are linked, and the API has their status',
    [],
  ),
  hyperturtle_reconciler_convergence_seconds: gauge(
    'From when something that is wanted here first lacked until all of it was linked, the last time',
    [],
  ),
  hyperturtle_reconciler_sets: gauge('Sets for this node, by phase', ['phase']),
  hyperturtle_reconciler_set_phase: gauge('1 for the phase that a set is in', ['set', 'version', 'phase']),
  hyperturtle_reconciler_refused: counter(
    'Times that a set came to be refused or to fail, by the kind of error',
    ['kind'],
  ),
  hyperturtle_reconciler_agent_answers: gauge('1 while the agent answered when it was last asked', []),
  hyperturtle_reconciler_rounds: counter('Comparisons of what is wanted with what is there', []),
  hyperturtle_reconciler_api_requests: counter(
    'Requests to the API by the status of the answer; failed: there was none',
    ['outcome'],
  ),
  hyperturtle_reconciler_watching: gauge('1 while the API lets a watch go on', RESOURCE),
  hyperturtle_reconciler_lists: counter('Lists asked of the API', RESOURCE),
  hyperturtle_reconciler_watches: counter(
    'Watches asked of the API: one ends after 5 to 10 minutes',
    RESOURCE,
  ),
  hyperturtle_reconciler_watch_failures: counter('Lists and watches that failed', RESOURCE),
  hyperturtle_reconciler_watch_gone: counter('Watches that the API answered by 410 Gone', RESOURCE),
} as const satisfies MetricTable;
