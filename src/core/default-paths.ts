/** Where things are when no configuration says otherwise. docs/reference.md is made of these tables. */

interface Place {
  path: string;
  /** L0: the host; L1: the guest hypervisor. */
  level: 'L0' | 'L1' | 'both';
  means: string;
}

export const PLACES = {
  hostConfig: { path: '/etc/hyperturtle/host.yaml', level: 'L0', means: 'configuration of the daemon' },
  guestConfig: { path: '/etc/hyperturtle/guest.yaml', level: 'L1', means: 'configuration of the agent' },
  adminSocket: {
    path: '/run/hyperturtle/host.sock',
    level: 'L0',
    means: 'socket of the daemon for its operator, mode 0600',
  },
  agentSocket: {
    path: '/run/hyperturtle/agent.sock',
    level: 'L1',
    means: 'socket of the agent for commands of L1, mode 0600',
  },
  agentPort: {
    path: '/dev/virtio-ports/org.hyperturtle.v1',
    level: 'L1',
    means: 'channel to the host, a virtio-serial port; in L0 it is a unix socket for each VM',
  },
  state: { path: '/var/lib/hyperturtle', level: 'both', means: 'what is kept over restarts' },
  cniState: { path: '/var/lib/hyperturtle/cni', level: 'L1', means: 'what the CNI plugin gave out' },
  run: {
    path: '/run/hyperturtle',
    level: 'L0',
    means: 'of each VM `vms/NAME`: a link to its arena, the record of kept programs',
  },
  bpffs: {
    path: '/sys/fs/bpf',
    level: 'L0',
    means: 'below it `hyperturtle/VM`: the pinned arena, and programs on NICs that outlive the daemon',
  },
  turtlefs: { path: '/run/hyperturtle/ram', level: 'L1', means: 'turtlefs: RAM of nested guests' },
  runs: { path: '/run/hyperturtle/run', level: 'L1', means: 'nested guests of `hyperturtle run`' },
  launchers: {
    path: '/usr/lib/hyperturtle/vmm',
    level: 'L1',
    means: 'programs that Kata starts in place of VMMs, by `hyperturtle kata install`',
  },
  programs: {
    path: '/usr/lib/hyperturtle',
    level: 'both',
    means: 'compiled eBPF programs; the packages: all',
  },
} as const satisfies Record<string, Place>;

/** TCP ports, on the loopback address where nothing else is said. */
export const PORTS = {
  dashboard: { port: 9466, means: '`hyperturtle host dashboard`; `--port` says another' },
  reconcilerMetrics: {
    port: 9468,
    means:
      'measurements of `hyperturtle kubernetes reconcile` in a pod, at its address: `reconcile.metricsPort`',
  },
} as const;

export const AGENT_SOCKET = PLACES.agentSocket.path;
export const ADMIN_SOCKET = PLACES.adminSocket.path;
export const AGENT_PORT = PLACES.agentPort.path;
