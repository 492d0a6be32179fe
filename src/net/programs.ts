/** The network programs that come with this package. */
import type { Direction } from './firewall-rules.ts';

export interface NetworkProgram {
  /** For people: `packet-counter`. */
  name: string;
  /** Compiled from c/bpf/net. */
  file: string;
  purpose: string;
}

export const NETWORK_PROGRAMS: readonly NetworkProgram[] = [
  {
    name: 'firewall',
    file: 'firewall.bpf.o',
    purpose: 'rules on addresses, protocols and ports, both directions',
  },
  {
    name: 'rate-limiter',
    file: 'rate_limiter.bpf.o',
    purpose: 'bytes and packets per second, each direction',
  },
  { name: 'tcptop', file: 'tcptop.bpf.o', purpose: 'bytes and packets of each TCP and UDP flow' },
  { name: 'packet-counter', file: 'packet_counter.bpf.o', purpose: 'packets and bytes in both directions' },
  { name: 'pass', file: 'pass.bpf.o', purpose: 'lets everything through: what a hook costs by itself' },
];

export const NETWORK_HOOKS = ['xdp', 'tc-ingress', 'tc-egress'] as const;
export type NetworkHook = (typeof NETWORK_HOOKS)[number];

/** The hook that sees a direction unless another one is asked for: the tap's ingress is what the nested guest sends. */
export const HOOK_OF_DIRECTION: Readonly<Record<Direction, NetworkHook>> = {
  out: 'tc-ingress',
  in: 'tc-egress',
};

/** What the object of a program for one NIC is called where it is loaded: its maps are this NIC's. */
export function networkObject(program: string, nic: string): string {
  return `${program}.${nic}`;
}
