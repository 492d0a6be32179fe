/** Environment variables of our own that the programs read. docs/reference.md is made of this table. */
import { PLACES } from './default-paths.ts';

interface Variable {
  /** Without it. */
  default: string;
  means: string;
}

export const VARIABLES = {
  HYPERTURTLE_SOCKET: {
    default: `\`${PLACES.agentSocket.path}\``,
    means: "the agent's socket, for commands of L1; `--socket` goes before it",
  },
  HYPERTURTLE_HOST_SOCKET: {
    default: `\`${PLACES.adminSocket.path}\``,
    means: "the daemon's socket, for `host ...` commands; `--socket` goes before it",
  },
  HYPERTURTLE_BPF: {
    default: `\`${PLACES.programs.path}\`, then beside the program`,
    means: 'folder of the compiled eBPF programs, looked into first',
  },
  HYPERTURTLE_VM_NAME: {
    default: "the VMM's `-name`, or `pid-N`",
    means: "of a VMM: its guest's name in listings; `hyperturtle vmm --name` sets it",
  },
  HYPERTURTLE_PATIENCE: {
    default: '1',
    means: 'how many times as long deadlines are, 1 to 100: for machines that are slow for a known reason',
  },
  HYPERTURTLE_UNTYPED_KVM: {
    default: '0',
    means:
      '1: go on where the kernel shows no types (BTF) of KVM to compare with; only for a kernel built from the sources of one that was tried, as the lab does',
  },
  HYPERTURTLE_SYSFS_ROOT: { default: '`/`', means: 'below which /sys is, for NICs in L1; for tests' },
  HYPERTURTLE_VDPA_TOOL: { default: '`vdpa`', means: "iproute2's program; for tests" },
  HYPERTURTLE_VDPA_SYSFS: {
    default: '`/sys/bus/vdpa`',
    means: 'where the kernel has vDPA devices; for tests',
  },
  HYPERTURTLE_VDPA_DEV: { default: '`/dev`', means: 'where vhost-vdpa devices appear; for tests' },
} as const satisfies Record<string, Variable>;

/** Its value, or undefined without one. */
export function variable(name: keyof typeof VARIABLES): string | undefined {
  return process.env[name];
}
