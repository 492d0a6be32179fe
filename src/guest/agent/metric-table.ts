/** Names, help and labels of the agent's measurements; metrics.ts takes the values. Alert rules refer to this. */
import { counter, gauge } from '../../core/metric-table.ts';
import type { MetricTable } from '../../core/metric-table.ts';

const L2 = ['l2', 'pid'] as const;

export const AGENT_METRICS = {
  hyperturtle_agent_connected: gauge('1 while there is a session with the host', []),
  hyperturtle_agent_start_time_seconds: gauge('When the agent started: its counters began at 0 then', []),
  hyperturtle_agent_sessions: counter('Sessions with the host since the agent started', []),
  hyperturtle_agent_desired_reached: gauge('1 while the host has what is wanted', []),
  hyperturtle_agent_desired_objects: gauge('Objects wanted', []),
  hyperturtle_agent_desired_links: gauge('Links wanted', []),
  hyperturtle_agent_problems: gauge('Problems with what is wanted, the module and nested guests', []),
  hyperturtle_agent_module_present: gauge('1 while the agent has hyperturtle_guest.ko', []),
  hyperturtle_agent_arena_bound: gauge('1 while the module has an arena', []),
  hyperturtle_agent_pool_frames: gauge('Zeroed frames in the pool', []),
  hyperturtle_agent_pool_node_frames: gauge('Zeroed frames in the pool of a NUMA node', ['node']),
  hyperturtle_agent_pool_low_frames: gauge('The pool is refilled below this', []),
  hyperturtle_agent_pool_high_frames: gauge('The pool is refilled up to this', []),
  hyperturtle_agent_pool_refills: counter('Refills of the pool', []),
  hyperturtle_agent_pool_shrunk_frames: counter('Frames given back under memory pressure', []),
  hyperturtle_agent_index_words: gauge('Words of the page index', []),
  hyperturtle_agent_index_used_words: gauge('Words that belong to files', []),
  hyperturtle_agent_faults: counter('Page faults of turtlefs in this machine', []),
  hyperturtle_agent_grace_periods: counter('Grace periods waited for', []),
  hyperturtle_agent_l2s: gauge('Registered nested guests', []),
  hyperturtle_agent_vms_elsewhere: gauge(
    'VMs of this machine whose memory is not on turtlefs, within the last minute: they are not accelerated',
    [],
  ),
  hyperturtle_l2_start_time_seconds: gauge(
    'When it was registered: all that is counted of it began at 0 then',
    L2,
  ),
  hyperturtle_l2_faults: gauge('Faults that its program saw since registration', L2),
  hyperturtle_l2_mapped_new: gauge('Faults answered with a frame of the pool since registration', L2),
  hyperturtle_l2_mapped_existing: gauge('Faults answered with a frame that was there since registration', L2),
  hyperturtle_l2_mapped_ahead: gauge(
    'Pages that got a frame of the pool ahead of their fault, besides those',
    L2,
  ),
  hyperturtle_l2_passes: gauge('Faults left to this machine since registration', L2),
  hyperturtle_l2_frames_taken: gauge('Frames taken from the pool', L2),
  hyperturtle_l2_frames_charged: gauge('Frames of turtlefs charged to its memory cgroup', L2),
  hyperturtle_l2_frames_credit: gauge('Of those, charged ahead of a program that takes them', L2),
  hyperturtle_l2_pages_held: gauge('Pages of its RAM that have a frame', L2),
  hyperturtle_l2_pages_unused: gauge(
    'Of those held, given ahead of their fault under `guest set --exact` and not seen to be used',
    L2,
  ),
  hyperturtle_l2_large_waiting: gauge(
    '2 MiB frames that it has, and that will be looked at for what of them is used',
    L2,
  ),
  hyperturtle_l2_large_seen: gauge('2 MiB frames that have been looked at since registration', L2),
  hyperturtle_l2_large_kept: gauge('Of these, left as they are, since most of each is used', L2),
  hyperturtle_l2_pages_vain: gauge('Pages of 2 MiB frames that were kept, and that nobody used then', L2),
  hyperturtle_l2_pages_given_back: gauge(
    'Pages of the other 2 MiB frames, given back as nobody used them',
    L2,
  ),
  hyperturtle_l2_small: gauge('1 while it gets no 2 MiB frames, as it used less than half of them', L2),
  hyperturtle_l2_pages: gauge('Pages of its RAM that programs know', L2),
  hyperturtle_l2_indexed: gauge(
    '0 while no page of its RAM has a place in the arena: no fault of it is answered',
    L2,
  ),
} as const satisfies MetricTable;
