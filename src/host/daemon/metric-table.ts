/** Names, help and labels of the daemon's measurements; metrics.ts takes the values. Alert rules refer to this. */
import { counter, gauge } from '../../core/metric-table.ts';
import type { MetricTable } from '../../core/metric-table.ts';

const VM = ['vm'] as const;
const HOOK = ['vm', 'hook'] as const;
const NIC = ['vm', 'ifname', 'network', 'direction'] as const;
const ofNics = "Of the VM's NICs, by the direction as its guest sees it";
const sinceAttached = 'Since the VM was attached';

/** Labels are names from the configuration and from tables, never what a tenant chose. */
export const HOST_METRICS = {
  hyperturtle_host_module_loaded: gauge('1 while hyperturtle_host.ko is loaded', []),
  hyperturtle_host_ftrace_on: gauge('1 while ftrace is on: without it no hook of KVM is called', []),
  hyperturtle_host_requests: counter('Requests of VMs by outcome', ['vm', 'method', 'outcome']),
  hyperturtle_host_vm_attached: gauge('Whether the VM runs and is attached', VM),
  hyperturtle_host_vm_agent_connected: gauge('Whether its port is connected', VM),
  hyperturtle_host_vm_used: gauge('Of its quotas', ['vm', 'quota']),
  hyperturtle_host_vm_arena_bytes: gauge('Size of its arena', ['vm', 'state']),
  hyperturtle_host_vm_l2s: gauge('Nested guests that the agent of a connected VM has said it has', VM),
  hyperturtle_host_vm_l2s_not_indexed: gauge(
    'Of those, nested guests with no page in the arena: no fault of them is answered',
    VM,
  ),
  hyperturtle_host_vm_start_time_seconds: gauge(
    'When it was attached: counters of its hooks began at 0 then',
    VM,
  ),
  hyperturtle_host_nic_bytes: gauge(`${ofNics}: bytes`, NIC),
  hyperturtle_host_nic_packets: gauge(`${ofNics}: packets`, NIC),
  hyperturtle_host_nic_dropped: gauge(`${ofNics}: dropped`, NIC),
  hyperturtle_host_nic_errors: gauge(`${ofNics}: errors`, NIC),
  hyperturtle_host_nic_link_left_off: gauge(
    'Links to NICs that could not be taken over from an earlier daemon: off, or held as they were',
    HOOK,
  ),
  hyperturtle_host_hook_runs: gauge(`${sinceAttached}: faults, exits or frames that a program saw`, HOOK),
  hyperturtle_host_hook_handled: gauge(
    `${sinceAttached}: faults and exits answered in L0, samples taken, frames dropped`,
    HOOK,
  ),
  hyperturtle_host_hook_entries: gauge(`${sinceAttached}: entries written into L1's tables`, HOOK),
  hyperturtle_host_hook_learned: gauge(
    `${sinceAttached}: faults from which the flags of L1's entries were learned`,
    HOOK,
  ),
  hyperturtle_host_hook_there: gauge(
    `${sinceAttached}: faults whose entry was there already; L1 did not run`,
    HOOK,
  ),
  hyperturtle_host_hook_to_l1: gauge(`${sinceAttached}: events that reached L1`, HOOK),
  hyperturtle_host_hook_went_on: gauge(
    'Of hooks of NICs, since the links were made: frames that went on',
    HOOK,
  ),
  hyperturtle_host_hook_reasons: gauge('Why the program did not answer; L1 ran for all of them but PRESENT', [
    'vm',
    'hook',
    'reason',
  ]),
  hyperturtle_host_hook_overruns: gauge('Runs of programs that took longer than allowed', HOOK),
  hyperturtle_host_hook_longest_run_seconds: gauge('Longest run of the program that was linked last', HOOK),
  hyperturtle_host_hook_link_ended: gauge(
    'Links that were ended as runs took too long, and not made again',
    HOOK,
  ),
  hyperturtle_host_fills: gauge(
    'Further faults of a group, up to 8 pages each, in the exit of its first one',
    VM,
  ),
  hyperturtle_host_fills_left_out: gauge('Exits in which the rest of a group was left out; absent: pages', [
    'vm',
    'reason',
  ]),
  hyperturtle_host_fill_seconds: gauge('Time that fills took, together', VM),
  hyperturtle_host_fill_longest_seconds: gauge('Longest time from the hook to the last fill of an exit', VM),
  hyperturtle_host_fill_budget_seconds: gauge('No fill begins later in an exit; 0: fills are off', VM),
  hyperturtle_host_loader_workers: gauge('Worker processes', []),
  hyperturtle_host_loader_busy: gauge('Objects being loaded', []),
  hyperturtle_host_loader_waiting: gauge('Requests that wait for a worker', []),
  hyperturtle_host_loader_loads: gauge('Requests served since start', []),
  hyperturtle_host_loader_killed: gauge('Workers ended for their deadline since start', []),
  hyperturtle_host_loader_crashed: gauge('Workers that ended by themselves since start', []),
} as const satisfies MetricTable;
