/** What the dashboard's server tells its page, as JSON; types only, for both. */
import type { ADMIN_METHODS, VmReport } from '../host/daemon/admin-schema.ts';
import type { Figures } from '../wire/figures.ts';
import type { ResultOf } from '../wire/schema.ts';

/** A hook's counters in figures that mean one thing each (wire/figures.ts), as the page has no code of its own for that. */
export type HookRow = VmReport['stats'][number] & {
  there: number;
  toL1: number;
  /** Whether L1 runs where its program does not answer; false: it only looks. */
  answersForL1: boolean;
  /** Reasons for which L1 ran, most frequent first. */
  why: [name: string, count: number][];
};
/** `totals`: of all hooks of exits. */
export type Vm = Omit<VmReport, 'stats'> & { stats: HookRow[]; totals: Figures };
type Daemon = ResultOf<typeof ADMIN_METHODS, 'admin.status'>;
export type Finding = ResultOf<typeof ADMIN_METHODS, 'admin.doctor'>['findings'][number];
export type VmEvent = ResultOf<typeof ADMIN_METHODS, 'admin.events'>['events'][number];
export type L2 = NonNullable<Vm['l1']>['l2s'][number];

/** As tcptop's client reads it; `local` is the nested guest's side. Spelled out here: the page knows nothing of Node. */
interface Flow {
  protocol: 'tcp' | 'udp';
  local: string;
  localPort: number;
  remote: string;
  remotePort: number;
  outPackets: number;
  outBytes: number;
  inPackets: number;
  inBytes: number;
  firstNs: number;
}

/** What tcptop counted on one NIC. */
export interface Traffic {
  nic: string;
  object: string;
  /** Busiest first; not all of them when there are many. */
  flows: Flow[];
  count: number;
  /** Why there are none. */
  problem: string | null;
}

export interface ProfileBox {
  name: string;
  /** `kernel`, or the file; empty for all. */
  module: string;
  kernel: boolean;
  samples: number;
  /** What it called. */
  children: ProfileBox[];
}

/** What a program on the hook `sample` has counted of one L2 since it was linked. */
export interface Profile {
  object: string;
  since: string;
  /** Samples a second of each vCPU, as the link asked for. */
  hz: number | null;
  samples: number;
  /** Null without samples. */
  root: ProfileBox | null;
  /** Most samples of their own first. */
  hottest: { name: string; module: string; samples: number }[];
  /** Why there is nothing. */
  problem: string | null;
}

export type Detail = ResultOf<typeof ADMIN_METHODS, 'admin.vm.detail'> & {
  name: string;
  traffic: Traffic[];
  /** Profile of the L2 that was asked for; null while nobody samples. */
  profile: Profile | null;
};

export interface State {
  /** Server's clock, milliseconds, which only goes on: rates are computed with it. */
  atMs: number;
  host: { name: string; kernel: string };
  /** Null while it cannot be asked; `problem` says why. */
  daemon: Daemon | null;
  problem: string | null;
  findings: Finding[];
  vms: Vm[];
  /** Events of the VM that was asked for, or of all; newest first. */
  events: VmEvent[];
  /** Details of the VM that was asked for. */
  detail: Detail | null;
}
