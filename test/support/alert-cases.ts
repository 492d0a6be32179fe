/** Made-up series for each alert: with the first it fires after an hour of one sample a minute, with the second it does not. */
import type { ALERTS, AlertName } from '../../src/monitoring/alerts.ts';
import { series, up } from '../../src/monitoring/promql.ts';
import type { Jobs, Metric } from '../../src/monitoring/promql.ts';

export const JOBS: Jobs = { host: 'hosts', agent: 'agents', fleet: 'nodes' };

/** Values by series, in promtool's notation: `0+10x60` begins at 0 and grows by 10 a minute. */
type Series = Readonly<Record<string, string>>;

interface Case {
  firing: Series;
  /** Labels of the alert besides its name and severity. */
  labels: Readonly<Record<string, string>>;
  summary: string;
  silent: Series;
}

const HOUR = 60;
/** The same value all the time. */
const always = (n: number): string => `${n}+0x${HOUR}`;
/** More each minute, from 0. */
const growing = (each: number): string => `0+${each}x${HOUR}`;

const host = { job: JOBS.host, instance: 'h1' };
const vm = { ...host, vm: 'web' };
const npf = { ...vm, hook: 'npf' };
const guest = { job: JOBS.agent, instance: 'g1' };
const l2 = { ...guest, l2: 'pod', pid: '7' };

/** Labels of scrapes are no labels of the metric: written after those. */
function of(name: Metric, labels: Readonly<Record<string, string>>): string {
  return `${series(name)}{${Object.entries(labels)
    .map(([label, value]) => `${label}="${value}"`)
    .join(',')}}`;
}

const one = (
  name: Metric,
  labels: Readonly<Record<string, string>>,
  values: { firing: number; silent: number },
  summary: string,
): Case => ({
  firing: { [of(name, labels)]: always(values.firing) },
  silent: { [of(name, labels)]: always(values.silent) },
  labels,
  summary,
});

const upOf = ({ job, instance }: typeof host): string => up(job, { instance });
/** There for half an hour, then no more. */
const GONE = `1+0x30 _x${HOUR - 30}`;

const SCRAPES = {
  HyperTurtleDaemonDown: {
    firing: { [upOf(host)]: always(0) },
    silent: { [upOf(host)]: always(1) },
    labels: host,
    summary: 'the daemon on h1 does not answer Prometheus',
  },
  HyperTurtleDaemonLost: {
    firing: { [upOf(host)]: GONE },
    // another host is there all the time, and one that has not answered is not lost
    silent: { [upOf(host)]: always(1), [upOf({ ...host, instance: 'h2' })]: always(0) },
    labels: host,
    summary: 'the daemon on h1 was scraped within the last hour and is not now',
  },
  HyperTurtleNoDaemonScraped: {
    firing: { [upOf(guest)]: always(1) },
    silent: { [upOf(host)]: always(0) },
    labels: { job: host.job },
    summary: 'no daemon is scraped by job hosts',
  },
  HyperTurtleAgentDown: {
    firing: { [upOf(guest)]: always(0) },
    silent: { [upOf(guest)]: always(1) },
    labels: guest,
    summary: 'the agent on g1 does not answer Prometheus',
  },
  HyperTurtleAgentLost: {
    firing: { [upOf(guest)]: GONE },
    silent: { [upOf(guest)]: always(0) },
    labels: guest,
    summary: 'the agent on g1 was scraped within the last hour and is not now',
  },
  HyperTurtleNoAgentScraped: {
    firing: { [upOf(host)]: always(1) },
    silent: { [upOf(guest)]: always(0) },
    labels: { job: guest.job },
    summary: 'no agent is scraped by job agents',
  },
} satisfies Partial<Record<AlertName, Case>>;

const toL1 = of('hyperturtle_host_hook_to_l1', npf);
const handled = of('hyperturtle_host_hook_handled', npf);
const attached = of('hyperturtle_host_vm_attached', vm);
const empty = of('hyperturtle_host_hook_reasons', { ...npf, reason: 'POOL_EMPTY' });
const refused = of('hyperturtle_host_requests', { ...vm, method: 'load', outcome: 'QUOTA' });

const HOST = {
  HyperTurtleHostModuleMissing: one(
    'hyperturtle_host_module_loaded',
    host,
    { firing: 0, silent: 1 },
    'hyperturtle_host.ko is not loaded on h1: no VM is accelerated',
  ),
  HyperTurtleFtraceOff: one(
    'hyperturtle_host_ftrace_on',
    host,
    { firing: 0, silent: 1 },
    'ftrace is off on h1: no hook of KVM is called',
  ),
  HyperTurtleLinkEnded: {
    firing: { [of('hyperturtle_host_hook_link_ended', npf)]: always(1) },
    // made again: the daemon has no such sample any more
    silent: { [of('hyperturtle_host_hook_link_ended', npf)]: GONE },
    labels: npf,
    summary: 'the link of hook npf of VM web on h1 was ended: runs took too long',
  },
  HyperTurtleNicLinkLeftOff: {
    firing: { [of('hyperturtle_host_nic_link_left_off', { ...vm, hook: 'xdp' })]: always(2) },
    silent: { [of('hyperturtle_host_nic_link_left_off', { ...vm, hook: 'xdp' })]: GONE },
    labels: { ...vm, hook: 'xdp' },
    summary: 'links of hook xdp of VM web on h1 were not taken over: off, or held as they were',
  },
  HyperTurtleNothingLinked: {
    firing: {
      [of('hyperturtle_host_vm_l2s', vm)]: always(3),
      [of('hyperturtle_host_hook_runs', { ...vm, hook: 'exit' })]: growing(10),
    },
    silent: {
      [of('hyperturtle_host_vm_l2s', vm)]: always(3),
      [of('hyperturtle_host_hook_runs', npf)]: always(0),
    },
    labels: vm,
    summary: 'VM web on h1 has 3 nested guests and no program for their faults',
  },
  HyperTurtleNothingAnswered: {
    firing: { [toL1]: growing(100), [handled]: always(5), [attached]: always(1) },
    silent: { [toL1]: growing(100), [handled]: growing(1), [attached]: always(1) },
    labels: npf,
    summary: 'VM web on h1 is attached, and none of its nested page faults was answered',
  },
  HyperTurtleNestedGuestsNotIndexed: one(
    'hyperturtle_host_vm_l2s_not_indexed',
    vm,
    { firing: 2, silent: 0 },
    '2 nested guests of VM web on h1 have no page in the arena: they are not accelerated',
  ),
  HyperTurtleVmWithoutAgent: {
    firing: { [of('hyperturtle_host_vm_agent_connected', vm)]: always(0), [attached]: always(1) },
    // a VM that does not run
    silent: { [of('hyperturtle_host_vm_agent_connected', vm)]: always(0), [attached]: always(0) },
    labels: vm,
    summary: 'VM web on h1 is attached, and its agent is not connected',
  },
  HyperTurtlePoolRunsDry: {
    firing: { [empty]: growing(20), [of('hyperturtle_host_hook_runs', npf)]: growing(100) },
    silent: { [empty]: growing(5), [of('hyperturtle_host_hook_runs', npf)]: growing(100) },
    labels: npf,
    summary: 'the pool of VM web on h1 was empty at more than a tenth of its nested page faults',
  },
  HyperTurtleQuotaRefused: {
    // the first refusal of that VM, ten minutes ago
    firing: { [refused]: '_x50 1+0x10' },
    silent: { [refused]: always(7) },
    labels: { ...vm, method: 'load', outcome: 'QUOTA' },
    summary: 'requests load of VM web on h1 were refused for a quota',
  },
  HyperTurtleLoaderCrashed: {
    firing: { [of('hyperturtle_host_loader_crashed', host)]: '0+0x40 1+0x20' },
    silent: { [of('hyperturtle_host_loader_crashed', host)]: always(4) },
    labels: host,
    summary: 'a process that loads objects crashed on h1',
  },
} satisfies Partial<Record<AlertName, Case>>;

const present = of('hyperturtle_agent_module_present', guest);
const bound = of('hyperturtle_agent_arena_bound', guest);
const connected = of('hyperturtle_agent_connected', guest);
const words = of('hyperturtle_agent_index_words', guest);
const passes = of('hyperturtle_l2_passes', l2);
const mappedNew = of('hyperturtle_l2_mapped_new', l2);
const mappedExisting = of('hyperturtle_l2_mapped_existing', l2);

const GUEST = {
  HyperTurtleGuestModuleMissing: one(
    'hyperturtle_agent_module_present',
    guest,
    { firing: 0, silent: 1 },
    'the agent on g1 has no hyperturtle_guest.ko: no nested guest is accelerated',
  ),
  HyperTurtleNoArena: {
    firing: { [bound]: always(0), [present]: always(1) },
    // one alert for a module that is not there
    silent: { [bound]: always(0), [present]: always(0) },
    labels: guest,
    summary: 'g1 has no arena: no nested guest is accelerated',
  },
  HyperTurtleHostNotConnected: one(
    'hyperturtle_agent_connected',
    guest,
    { firing: 0, silent: 1 },
    'the agent on g1 is not connected to its host',
  ),
  HyperTurtleOutOfSync: {
    firing: { [of('hyperturtle_agent_desired_reached', guest)]: always(0), [connected]: always(1) },
    silent: { [of('hyperturtle_agent_desired_reached', guest)]: always(0), [connected]: always(0) },
    labels: guest,
    summary: 'the host of g1 does not have the objects and links that are wanted',
  },
  HyperTurtlePoolEmpty: {
    firing: { [of('hyperturtle_agent_pool_frames', guest)]: always(0), [bound]: always(1) },
    // filled again at last
    silent: { [of('hyperturtle_agent_pool_frames', guest)]: '0+0x50 9+0x10', [bound]: always(1) },
    labels: guest,
    summary: 'the pool on g1 is empty',
  },
  HyperTurtlePageIndexNearlyFull: {
    firing: { [of('hyperturtle_agent_index_used_words', guest)]: always(91), [words]: always(100) },
    silent: { [of('hyperturtle_agent_index_used_words', guest)]: always(89), [words]: always(100) },
    labels: guest,
    summary: 'the page index on g1 is nearly full: the next nested guest may not be accelerated',
  },
  HyperTurtleNestedGuestNotIndexed: one(
    'hyperturtle_l2_indexed',
    l2,
    { firing: 0, silent: 1 },
    'nested guest pod on g1 has no page in the arena: it is not accelerated',
  ),
  HyperTurtleVmElsewhere: one(
    'hyperturtle_agent_vms_elsewhere',
    guest,
    { firing: 1, silent: 0 },
    '1 VMs on g1 have their memory elsewhere than on turtlefs: they are not accelerated',
  ),
  HyperTurtleNestedGuestUnanswered: {
    firing: { [passes]: growing(100), [mappedNew]: always(3), [mappedExisting]: always(0) },
    silent: { [passes]: growing(100), [mappedNew]: always(3), [mappedExisting]: growing(1) },
    labels: l2,
    summary: 'no fault of nested guest pod on g1 was answered in its host',
  },
} satisfies Partial<Record<AlertName, Case>>;

const node = { job: JOBS.fleet, instance: 'n1' };
const refusedSet = of('hyperturtle_reconciler_set_phase', {
  ...{ ...node, set: 'npf', version: 'rollout', phase: 'Refused' },
});
const linkedSet = refusedSet.replace('Refused', 'Linked');
const converged = of('hyperturtle_reconciler_converged', node);
const watches = of('hyperturtle_reconciler_watches', { ...node, resource: 'hyperupcallsets' });

const FLEET = {
  HyperTurtleReconcilerDown: {
    firing: { [upOf(node)]: always(0) },
    silent: { [upOf(node)]: always(1) },
    labels: node,
    summary: 'the reconciler on n1 does not answer Prometheus',
  },
  HyperTurtleSetRefused: {
    firing: { [refusedSet]: always(1) },
    silent: { [linkedSet]: always(1) },
    labels: { ...node, set: 'npf', version: 'rollout', phase: 'Refused' },
    summary: 'set npf (rollout) is Refused on n1',
  },
  HyperTurtleSetsNotInForce: {
    firing: { [converged]: always(0), [linkedSet]: always(1) },
    // that is told by another alert
    silent: { [converged]: always(0), [refusedSet]: always(1) },
    labels: node,
    summary: 'n1 does not have all programs that its sets want, or the API lacks its status',
  },
  HyperTurtleClusterNotWatched: one(
    'hyperturtle_reconciler_watching',
    { ...node, resource: 'nodes' },
    { firing: 0, silent: 1 },
    'the API lets n1 watch no nodes: changes do not reach it',
  ),
  HyperTurtleWatchesBreak: {
    firing: { [watches]: growing(1) },
    // one each two minutes
    silent: { [watches]: `0+0.5x${HOUR}` },
    labels: { ...node, resource: 'hyperupcallsets' },
    summary: 'n1 began 60 watches of hyperupcallsets within an hour: they do not last',
  },
} satisfies Partial<Record<AlertName, Case>>;

/** An alert without a case does not compile. */
export const CASES: { [name in keyof typeof ALERTS]: Case } = { ...SCRAPES, ...HOST, ...GUEST, ...FLEET };
