/** What the dashboard of many hosts shows, row by row. grafana.ts makes Grafana's JSON of it. */
import { hasLabel, series, up } from './promql.ts';
import type { Jobs, Matches, Metric } from './promql.ts';

/** A query, and the name of its lines in the template language of Grafana. */
type Query = readonly [expr: string, legend: string];

/** `stat`: one number; `lines`: over time. */
export interface Panel {
  kind: 'stat' | 'lines';
  title: string;
  /** In Grafana's words; left out: a plain number. */
  unit?: 's' | 'bytes' | 'Bps' | 'pps' | 'ops' | 'percentunit';
  /** From this number on a stat is red; left out: it never is. */
  redFrom?: number;
  queries: readonly Query[];
}

interface Row {
  title: string;
  /** The service whose measurements it shows. */
  of: keyof Jobs;
  panels: readonly Panel[];
}

/** Variables of the dashboard, by the label that they choose values of. */
export const VARIABLES = {
  instance: 'hyperturtle_host_vm_attached',
  vm: 'hyperturtle_host_vm_attached',
} as const satisfies Record<string, Metric>;

/** A measurement of the instances and VMs that are chosen. */
function chosen<N extends Metric>(name: N, labels?: Matches<N>): string {
  const text = series(name, labels);
  const filters = ['instance', 'vm']
    .filter((label) => label === 'instance' || hasLabel(name, label))
    .map((label) => `${label}=~"$${label}"`);
  return text.endsWith('}') ? `${text.slice(0, -1)},${filters.join(',')}}` : `${text}{${filters.join(',')}}`;
}

const rate = <N extends Metric>(name: N, labels?: Matches<N>): string =>
  `rate(${chosen(name, labels)}[$__rate_interval])`;

/** Counted, with 0 where there is none. */
const orNone = (expr: string): string => `${expr} or vector(0)`;

const stat = (title: string, expr: string, redFrom?: number): Panel => ({
  ...{ kind: 'stat', title, queries: [[expr, '']] },
  ...(redFrom === undefined ? {} : { redFrom }),
});

const lines = (title: string, unit: Panel['unit'], ...queries: Query[]): Panel => ({
  ...{ kind: 'lines', title, queries },
  ...(unit === undefined ? {} : { unit }),
});

const all = { instance: { matches: '$instance' } };

const hostsRow = (job: string): Row => ({
  title: 'Hosts',
  of: 'host',
  panels: [
    stat('Daemons that answer', orNone(`sum(${up(job, all)})`)),
    stat('Daemons that do not', orNone(`count(${up(job, all)} == 0)`), 1),
    stat(
      'Hosts without module or ftrace',
      orNone(
        `count(${chosen('hyperturtle_host_module_loaded')} * ${chosen('hyperturtle_host_ftrace_on')} == 0)`,
      ),
      1,
    ),
    stat('VMs attached', orNone(`sum(${chosen('hyperturtle_host_vm_attached')})`)),
    stat('Agents connected', orNone(`sum(${chosen('hyperturtle_host_vm_agent_connected')})`)),
    stat('Nested guests', orNone(`sum(${chosen('hyperturtle_host_vm_l2s')})`)),
    stat('Links ended for overruns', orNone(`sum(${chosen('hyperturtle_host_hook_link_ended')})`), 1),
    stat('Links of NICs left off', orNone(`sum(${chosen('hyperturtle_host_nic_link_left_off')})`), 1),
  ],
});

const EXITS: Row = {
  title: 'What hooks of exits did',
  of: 'host',
  panels: [
    lines('Answered in L0', 'ops', [`sum by (hook) (${rate('hyperturtle_host_hook_handled')})`, '{{hook}}']),
    lines('Reached L1', 'ops', [`sum by (hook) (${rate('hyperturtle_host_hook_to_l1')})`, '{{hook}}']),
    lines('Share answered, by VM', 'percentunit', [
      `sum by (instance, vm) (${rate('hyperturtle_host_hook_handled', { hook: 'npf' })}) / ` +
        `sum by (instance, vm) (${rate('hyperturtle_host_hook_handled', { hook: 'npf' })} + ${rate('hyperturtle_host_hook_to_l1', { hook: 'npf' })})`,
      '{{vm}} on {{instance}}',
    ]),
    lines('Why L1 ran', 'ops', [
      `sum by (hook, reason) (${rate('hyperturtle_host_hook_reasons', { reason: { not: 'PRESENT' } })})`,
      '{{hook}} {{reason}}',
    ]),
    lines(
      'Further faults of groups, and what was left out',
      'ops',
      [`sum(${rate('hyperturtle_host_fills')})`, 'filled in'],
      [`sum by (reason) (${rate('hyperturtle_host_fills_left_out')})`, 'left out: {{reason}}'],
    ),
    lines('Longest run of a program', 's', [
      `max by (instance, vm, hook) (${chosen('hyperturtle_host_hook_longest_run_seconds')})`,
      '{{hook}} of {{vm}} on {{instance}}',
    ]),
    lines('Runs that took longer than allowed', 'ops', [
      `sum by (instance, vm, hook) (${rate('hyperturtle_host_hook_overruns')})`,
      '{{hook}} of {{vm}} on {{instance}}',
    ]),
  ],
};

const NICS: Row = {
  title: 'NICs',
  of: 'host',
  panels: [
    lines('Bytes', 'Bps', [
      `sum by (vm, direction) (${rate('hyperturtle_host_nic_bytes')})`,
      '{{vm}} {{direction}}',
    ]),
    lines('Packets', 'pps', [
      `sum by (vm, direction) (${rate('hyperturtle_host_nic_packets')})`,
      '{{vm}} {{direction}}',
    ]),
    lines(
      'Dropped and damaged packets',
      'pps',
      [`sum by (vm, direction) (${rate('hyperturtle_host_nic_dropped')})`, '{{vm}} {{direction}} dropped'],
      [`sum by (vm, direction) (${rate('hyperturtle_host_nic_errors')})`, '{{vm}} {{direction}} errors'],
    ),
  ],
};

const REQUESTS: Row = {
  title: 'Requests of VMs',
  of: 'host',
  panels: [
    lines('Requests by outcome', 'ops', [
      `sum by (outcome) (${rate('hyperturtle_host_requests')})`,
      '{{outcome}}',
    ]),
    lines('Refused or failed', 'ops', [
      `sum by (instance, vm, method, outcome) (${rate('hyperturtle_host_requests', { outcome: { not: 'ok' } })})`,
      '{{method}}: {{outcome}}, {{vm}} on {{instance}}',
    ]),
    lines('Use of quotas', undefined, [
      `max by (instance, vm, quota) (${chosen('hyperturtle_host_vm_used', { quota: { not: 'mapBytes' } })})`,
      '{{quota}} of {{vm}} on {{instance}}',
    ]),
    lines('Memory of maps', 'bytes', [
      `max by (instance, vm) (${chosen('hyperturtle_host_vm_used', { quota: 'mapBytes' })})`,
      '{{vm}} on {{instance}}',
    ]),
    lines(
      'Loader',
      undefined,
      [`sum(${chosen('hyperturtle_host_loader_busy')})`, 'busy'],
      [`sum(${chosen('hyperturtle_host_loader_waiting')})`, 'waiting'],
    ),
  ],
};

const agentRows = (job: string): Row[] => [
  {
    title: 'Guest hypervisors',
    of: 'agent',
    panels: [
      stat('Agents that answer', orNone(`sum(${up(job)})`)),
      stat('Agents that do not', orNone(`count(${up(job)} == 0)`), 1),
      stat('Not connected to the host', orNone(`count(${series('hyperturtle_agent_connected')} == 0)`), 1),
      stat('Out of sync', orNone(`count(${series('hyperturtle_agent_desired_reached')} == 0)`), 1),
      stat('Nested guests', orNone(`sum(${series('hyperturtle_agent_l2s')})`)),
      stat('Nested guests without index', orNone(`count(${series('hyperturtle_l2_indexed')} == 0)`), 1),
      stat('VMs not on turtlefs', orNone(`sum(${series('hyperturtle_agent_vms_elsewhere')})`), 1),
      stat('Problems', orNone(`sum(${series('hyperturtle_agent_problems')})`), 1),
    ],
  },
  {
    title: 'Pools and nested guests',
    of: 'agent',
    panels: [
      lines(
        'Frames in pools',
        undefined,
        [series('hyperturtle_agent_pool_frames'), '{{instance}}'],
        [series('hyperturtle_agent_pool_low_frames'), '{{instance}}: refilled below'],
      ),
      lines('Use of the page index', 'percentunit', [
        `${series('hyperturtle_agent_index_used_words')} / (${series('hyperturtle_agent_index_words')} > 0)`,
        '{{instance}}',
      ]),
      lines(
        'Faults of nested guests',
        'ops',
        [
          `sum by (instance) (rate(${series('hyperturtle_l2_mapped_new')}[$__rate_interval]))`,
          '{{instance}}: new frame',
        ],
        [
          `sum by (instance) (rate(${series('hyperturtle_l2_mapped_existing')}[$__rate_interval]))`,
          '{{instance}}: frame was there',
        ],
        [
          `sum by (instance) (rate(${series('hyperturtle_l2_passes')}[$__rate_interval]))`,
          '{{instance}}: left to L1',
        ],
      ),
      lines('Pages held', undefined, [
        `sum by (instance, l2) (${series('hyperturtle_l2_pages_held')})`,
        '{{l2}} on {{instance}}',
      ]),
    ],
  },
];

const fleetRow = (job: string): Row => ({
  title: 'Programs of a fleet',
  of: 'fleet',
  panels: [
    stat('Reconcilers that answer', orNone(`sum(${up(job)})`)),
    stat('Reconcilers that do not', orNone(`count(${up(job)} == 0)`), 1),
    stat('Nodes with all they want', orNone(`sum(${series('hyperturtle_reconciler_converged')})`)),
    stat('Nodes without', orNone(`count(${series('hyperturtle_reconciler_converged')} == 0)`), 1),
    stat('Not watched', orNone(`count(${series('hyperturtle_reconciler_watching')} == 0)`), 1),
    stat(
      'Sets refused or failed',
      orNone(`sum(${series('hyperturtle_reconciler_sets', { phase: { matches: 'Refused|Failed' } })})`),
      1,
    ),
    lines('Sets by phase', undefined, [
      `sum by (phase) (${series('hyperturtle_reconciler_sets')})`,
      '{{phase}}',
    ]),
    lines('Nodes by set and version', undefined, [
      `sum by (set, version, phase) (${series('hyperturtle_reconciler_set_phase')})`,
      '{{set}} {{version}}: {{phase}}',
    ]),
    lines('Until a change was in force', 's', [
      `max(${series('hyperturtle_reconciler_convergence_seconds')})`,
      'longest',
    ]),
    lines('Came to be refused', 'ops', [
      `sum by (kind) (rate(${series('hyperturtle_reconciler_refused')}[$__rate_interval]))`,
      '{{kind}}',
    ]),
    lines('Requests to the API', 'ops', [
      `sum by (outcome) (rate(${series('hyperturtle_reconciler_api_requests')}[$__rate_interval]))`,
      '{{outcome}}',
    ]),
    lines(
      'Watches',
      'ops',
      [
        `sum by (resource) (rate(${series('hyperturtle_reconciler_watches')}[$__rate_interval]))`,
        '{{resource}}: begun',
      ],
      [
        `sum by (resource) (rate(${series('hyperturtle_reconciler_watch_failures')}[$__rate_interval]))`,
        '{{resource}}: failed',
      ],
      [
        `sum by (resource) (rate(${series('hyperturtle_reconciler_watch_gone')}[$__rate_interval]))`,
        '{{resource}}: 410 Gone',
      ],
    ),
  ],
});

export function rowsOf({ host, agent, fleet }: Jobs): readonly Row[] {
  return [hostsRow(host), EXITS, NICS, REQUESTS, ...agentRows(agent), fleetRow(fleet)];
}
