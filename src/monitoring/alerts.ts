/** What an operator of many hosts is told of, and when. rules.ts makes Prometheus's rules of it. */
import type { ErrorKind } from '../wire/errors.ts';
import type { NpfReason } from '../kernel/npf.ts';
import type { HookName } from '../host/hooks.ts';
import { series, up } from './promql.ts';
import type { Jobs } from './promql.ts';

export interface Alert {
  /** The service whose measurements it is about. */
  of: keyof Jobs;
  expr: (jobs: Jobs) => string;
  /** How long it must be so. */
  for: `${number}${'m' | 'h'}`;
  /** critical: nothing is accelerated, or frames are not filtered; warning: part of it; info: a tenant's matter. */
  severity: 'critical' | 'warning' | 'info';
  /** In Prometheus's template language. */
  summary: string;
  /** Section of docs/ that says what to do. */
  runbook: `${string}.md#${string}`;
}

const NPF = { hook: 'npf' satisfies HookName } as const;
const QUOTA = { outcome: 'QUOTA' satisfies ErrorKind } as const;
const EMPTY = { ...NPF, reason: 'POOL_EMPTY' satisfies NpfReason } as const;

/** Faults in a quarter of an hour from which on it is no accident that none was answered. */
const FAULTS_MIN = 1000;

const REFUSED = { phase: { matches: 'Refused|Failed' } } as const;

/** One lasts 5 to 10 minutes: 12 at most in an hour where none breaks. */
const WATCHES_MAX = 30;

const NOTHING_ACCELERATED = 'troubleshooting.md#nothing-is-accelerated';
const NO_DAEMON = 'troubleshooting.md#the-daemon-and-the-dashboard';
const AGENT = 'guest-agent.md#what-it-does';
const RECONCILER = 'fleet.md#the-reconciler';

const VM = 'VM {{ $labels.vm }} on {{ $labels.instance }}';
const HERE = '{{ $labels.instance }}';
const L2 = 'nested guest {{ $labels.l2 }} on {{ $labels.instance }}';

/** Services that do not answer. */
const SCRAPES = {
  HyperTurtleDaemonDown: {
    of: 'host',
    expr: ({ host }) => `${up(host)} == 0`,
    for: '5m',
    severity: 'critical',
    summary: `the daemon on ${HERE} does not answer Prometheus`,
    runbook: NO_DAEMON,
  },
  HyperTurtleDaemonLost: {
    of: 'host',
    expr: ({ host }) => `max_over_time(${up(host)}[1h]) unless ${up(host)}`,
    for: '10m',
    severity: 'warning',
    summary: `the daemon on ${HERE} was scraped within the last hour and is not now`,
    runbook: NO_DAEMON,
  },
  HyperTurtleNoDaemonScraped: {
    of: 'host',
    expr: ({ host }) => `absent(${up(host)})`,
    for: '15m',
    severity: 'critical',
    summary: 'no daemon is scraped by job {{ $labels.job }}',
    runbook: NO_DAEMON,
  },
  HyperTurtleAgentDown: {
    of: 'agent',
    expr: ({ agent }) => `${up(agent)} == 0`,
    for: '5m',
    severity: 'warning',
    summary: `the agent on ${HERE} does not answer Prometheus`,
    runbook: 'guest-agent.md#restarts-in-any-order',
  },
  HyperTurtleAgentLost: {
    of: 'agent',
    expr: ({ agent }) => `max_over_time(${up(agent)}[1h]) unless ${up(agent)}`,
    for: '10m',
    severity: 'info',
    summary: `the agent on ${HERE} was scraped within the last hour and is not now`,
    runbook: 'guest-agent.md#restarts-in-any-order',
  },
  HyperTurtleNoAgentScraped: {
    of: 'agent',
    expr: ({ agent }) => `absent(${up(agent)})`,
    for: '15m',
    severity: 'warning',
    summary: 'no agent is scraped by job {{ $labels.job }}',
    runbook: 'guest-agent.md#restarts-in-any-order',
  },
} as const satisfies Record<string, Alert>;

/** As a host sees itself and its VMs. */
const HOST = {
  HyperTurtleHostModuleMissing: {
    of: 'host',
    expr: () => `${series('hyperturtle_host_module_loaded')} == 0`,
    for: '5m',
    severity: 'critical',
    summary: `hyperturtle_host.ko is not loaded on ${HERE}: no VM is accelerated`,
    runbook: NOTHING_ACCELERATED,
  },
  HyperTurtleFtraceOff: {
    of: 'host',
    expr: () => `${series('hyperturtle_host_ftrace_on')} == 0`,
    for: '5m',
    severity: 'critical',
    summary: `ftrace is off on ${HERE}: no hook of KVM is called`,
    runbook: NOTHING_ACCELERATED,
  },
  HyperTurtleLinkEnded: {
    of: 'host',
    expr: () => `${series('hyperturtle_host_hook_link_ended')} > 0`,
    for: '1m',
    severity: 'warning',
    summary: `the link of hook {{ $labels.hook }} of ${VM} was ended: runs took too long`,
    runbook: 'hooks.md#how-long-a-run-may-take',
  },
  HyperTurtleNicLinkLeftOff: {
    of: 'host',
    expr: () => `${series('hyperturtle_host_nic_link_left_off')} > 0`,
    for: '5m',
    severity: 'critical',
    summary: `links of hook {{ $labels.hook }} of ${VM} were not taken over: off, or held as they were`,
    runbook: 'host-daemon.md#nics-without-a-daemon',
  },
  HyperTurtleNothingLinked: {
    of: 'host',
    expr: () =>
      `${series('hyperturtle_host_vm_l2s')} > 0 unless ignoring(hook) ${series('hyperturtle_host_hook_runs', NPF)}`,
    for: '15m',
    severity: 'warning',
    summary: `${VM} has {{ $value }} nested guests and no program for their faults`,
    runbook: NOTHING_ACCELERATED,
  },
  HyperTurtleNothingAnswered: {
    of: 'host',
    expr: () =>
      [
        `increase(${series('hyperturtle_host_hook_to_l1', NPF)}[15m]) > ${FAULTS_MIN}`,
        `and increase(${series('hyperturtle_host_hook_handled', NPF)}[15m]) == 0`,
        `and ignoring(hook) ${series('hyperturtle_host_vm_attached')} == 1`,
      ].join(' '),
    for: '15m',
    severity: 'warning',
    summary: `${VM} is attached, and none of its nested page faults was answered`,
    runbook: NOTHING_ACCELERATED,
  },
  HyperTurtleNestedGuestsNotIndexed: {
    of: 'host',
    expr: () => `${series('hyperturtle_host_vm_l2s_not_indexed')} > 0`,
    for: '15m',
    severity: 'info',
    summary: `{{ $value }} nested guests of ${VM} have no page in the arena: they are not accelerated`,
    runbook: NOTHING_ACCELERATED,
  },
  HyperTurtleVmWithoutAgent: {
    of: 'host',
    expr: () =>
      `${series('hyperturtle_host_vm_agent_connected')} == 0 and ${series('hyperturtle_host_vm_attached')} == 1`,
    for: '15m',
    severity: 'info',
    summary: `${VM} is attached, and its agent is not connected`,
    runbook: NOTHING_ACCELERATED,
  },
  HyperTurtlePoolRunsDry: {
    of: 'host',
    expr: () =>
      `increase(${series('hyperturtle_host_hook_reasons', EMPTY)}[10m]) > ignoring(reason) ` +
      `0.1 * increase(${series('hyperturtle_host_hook_runs', NPF)}[10m])`,
    for: '10m',
    severity: 'warning',
    summary: `the pool of ${VM} was empty at more than a tenth of its nested page faults`,
    runbook: NOTHING_ACCELERATED,
  },
  HyperTurtleQuotaRefused: {
    of: 'host',
    // a series that begins with its first refusal has no increase
    expr: () => {
      const refused = series('hyperturtle_host_requests', QUOTA);
      return `increase(${refused}[15m]) > 0 or (${refused} unless ${refused} offset 15m)`;
    },
    for: '1m',
    severity: 'warning',
    summary: `requests {{ $labels.method }} of ${VM} were refused for a quota`,
    runbook: 'host-daemon.md#configuration',
  },
  HyperTurtleLoaderCrashed: {
    of: 'host',
    expr: () => `increase(${series('hyperturtle_host_loader_crashed')}[1h]) > 0`,
    for: '1m',
    severity: 'warning',
    summary: `a process that loads objects crashed on ${HERE}`,
    runbook: 'host-daemon.md#watching-it',
  },
} as const satisfies Record<string, Alert>;

/** As a guest hypervisor sees itself and its nested guests. */
const GUEST = {
  HyperTurtleGuestModuleMissing: {
    of: 'agent',
    expr: () => `${series('hyperturtle_agent_module_present')} == 0`,
    for: '10m',
    severity: 'critical',
    summary: `the agent on ${HERE} has no hyperturtle_guest.ko: no nested guest is accelerated`,
    runbook: NOTHING_ACCELERATED,
  },
  HyperTurtleNoArena: {
    of: 'agent',
    expr: () =>
      `${series('hyperturtle_agent_arena_bound')} == 0 and ${series('hyperturtle_agent_module_present')} == 1`,
    for: '10m',
    severity: 'critical',
    summary: `${HERE} has no arena: no nested guest is accelerated`,
    runbook: NOTHING_ACCELERATED,
  },
  HyperTurtleHostNotConnected: {
    of: 'agent',
    expr: () => `${series('hyperturtle_agent_connected')} == 0`,
    for: '10m',
    severity: 'warning',
    summary: `the agent on ${HERE} is not connected to its host`,
    runbook: NOTHING_ACCELERATED,
  },
  HyperTurtleOutOfSync: {
    of: 'agent',
    expr: () =>
      `${series('hyperturtle_agent_desired_reached')} == 0 and ${series('hyperturtle_agent_connected')} == 1`,
    for: '15m',
    severity: 'warning',
    summary: `the host of ${HERE} does not have the objects and links that are wanted`,
    runbook: AGENT,
  },
  HyperTurtlePoolEmpty: {
    of: 'agent',
    expr: () =>
      `${series('hyperturtle_agent_pool_frames')} == 0 and ${series('hyperturtle_agent_arena_bound')} == 1`,
    for: '5m',
    severity: 'warning',
    summary: `the pool on ${HERE} is empty`,
    runbook: NOTHING_ACCELERATED,
  },
  HyperTurtlePageIndexNearlyFull: {
    of: 'agent',
    expr: () =>
      `${series('hyperturtle_agent_index_used_words')} > 0.9 * ${series('hyperturtle_agent_index_words')}`,
    for: '15m',
    severity: 'warning',
    summary: `the page index on ${HERE} is nearly full: the next nested guest may not be accelerated`,
    runbook: AGENT,
  },
  HyperTurtleNestedGuestNotIndexed: {
    of: 'agent',
    expr: () => `${series('hyperturtle_l2_indexed')} == 0`,
    for: '15m',
    severity: 'warning',
    summary: `${L2} has no page in the arena: it is not accelerated`,
    runbook: NOTHING_ACCELERATED,
  },
  HyperTurtleVmElsewhere: {
    of: 'agent',
    expr: () => `${series('hyperturtle_agent_vms_elsewhere')} > 0`,
    for: '15m',
    severity: 'warning',
    summary: `{{ $value }} VMs on ${HERE} have their memory elsewhere than on turtlefs: they are not accelerated`,
    runbook: NOTHING_ACCELERATED,
  },
  HyperTurtleNestedGuestUnanswered: {
    of: 'agent',
    expr: () =>
      `increase(${series('hyperturtle_l2_passes')}[15m]) > ${FAULTS_MIN} and ` +
      `increase(${series('hyperturtle_l2_mapped_new')}[15m]) + ` +
      `increase(${series('hyperturtle_l2_mapped_existing')}[15m]) == 0`,
    for: '15m',
    severity: 'warning',
    summary: `no fault of ${L2} was answered in its host`,
    runbook: NOTHING_ACCELERATED,
  },
} as const satisfies Record<string, Alert>;

/** As a node of a cluster sees the sets that it is to have. */
const FLEET = {
  HyperTurtleReconcilerDown: {
    of: 'fleet',
    expr: ({ fleet }) => `${up(fleet)} == 0`,
    for: '10m',
    severity: 'warning',
    summary: `the reconciler on ${HERE} does not answer Prometheus`,
    runbook: RECONCILER,
  },
  HyperTurtleSetRefused: {
    of: 'fleet',
    expr: () => `${series('hyperturtle_reconciler_set_phase', REFUSED)} == 1`,
    for: '5m',
    severity: 'warning',
    summary: `set {{ $labels.set }} ({{ $labels.version }}) is {{ $labels.phase }} on ${HERE}`,
    runbook: 'fleet.md#status',
  },
  HyperTurtleSetsNotInForce: {
    of: 'fleet',
    expr: () =>
      `${series('hyperturtle_reconciler_converged')} == 0 unless on(job, instance) ` +
      `${series('hyperturtle_reconciler_set_phase', REFUSED)} == 1`,
    for: '15m',
    severity: 'warning',
    summary: `${HERE} does not have all programs that its sets want, or the API lacks its status`,
    runbook: RECONCILER,
  },
  HyperTurtleClusterNotWatched: {
    of: 'fleet',
    expr: () => `${series('hyperturtle_reconciler_watching')} == 0`,
    for: '15m',
    severity: 'warning',
    summary: `the API lets ${HERE} watch no {{ $labels.resource }}: changes do not reach it`,
    runbook: RECONCILER,
  },
  HyperTurtleWatchesBreak: {
    of: 'fleet',
    expr: () => `increase(${series('hyperturtle_reconciler_watches')}[1h]) > ${WATCHES_MAX}`,
    for: '15m',
    severity: 'info',
    summary: `${HERE} began {{ $value }} watches of {{ $labels.resource }} within an hour: they do not last`,
    runbook: RECONCILER,
  },
} as const satisfies Record<string, Alert>;

export const ALERTS = { ...SCRAPES, ...HOST, ...GUEST, ...FLEET };
export type AlertName = keyof typeof ALERTS;
