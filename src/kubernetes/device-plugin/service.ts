/** What kubelet asks of the device plugin, answered from the pool. Pure but for the wait for a VMM that is ending. */
import { HyperturtleError, isHyperturtleError } from '../../core/errors.ts';
import { ChildAbort } from '../../core/lifecycle.ts';
import { waitFor, withDeadline } from '../../core/wait.ts';
import type { LocalNic } from '../../guest/nic/nic.ts';
import type {
  ContainerAllocateResponse,
  ContainerRequest,
  Device,
  DevicePluginOptions,
  PreferredAllocationRequest,
} from './api.ts';
import { naturally } from './pool.ts';
import type { Pool } from './pool.ts';

export interface ServiceSpec {
  pool: Pool;
  /** `hyperturtle.io/nic` */
  resource: string;
  /** Processes that have a file open. */
  holders: (file: string) => number[];
  /** Kubelet starts nothing else meanwhile. */
  leaveMs?: number;
  readyMs?: number;
}

const LEAVE_MS = 5_000;
/** Kubelet gives up after 30 s (KubeletPreStartContainerRPCTimeoutInSecs). */
const READY_MS = 25_000;
const VFIO = '/dev/vfio/vfio';

export const OPTIONS: DevicePluginOptions = {
  pre_start_required: true,
  get_preferred_allocation_available: true,
};

export class NicService {
  readonly #spec: ServiceSpec;

  constructor(spec: ServiceSpec) {
    this.#spec = spec;
  }

  get devices(): readonly Device[] {
    return this.#spec.pool.devices;
  }

  /**
   * What each container gets: its NICs' groups, the VFIO device, and their PCI addresses in a variable, of the name that
   * Kata's agent translates into addresses in the guest. Throws HT_USAGE, HT_NOT_FOUND, HT_UNAVAILABLE, and HT_IN_USE when a
   * process has a NIC open: kubelet thinks that it is free, and somebody is wrong.
   */
  async allocate(
    containers: readonly ContainerRequest[],
    signal: AbortSignal,
  ): Promise<ContainerAllocateResponse[]> {
    const all = containers.flatMap((c) => c.devices_ids);
    const twice = all.find((id, at) => all.indexOf(id) !== at);
    if (twice !== undefined)
      throw new HyperturtleError('HT_USAGE', `each NIC once expected, '${twice}' found twice`);
    const nics = new Map(all.map((id) => [id, this.#spec.pool.usable(id)]));
    for (const nic of nics.values()) await this.#left(nic, signal);
    return containers.map((c) => this.#response(c.devices_ids.flatMap((id) => nics.get(id) ?? [])));
  }

  /** A container is about to start, perhaps again: its VMM may have its NICs already. Throws as Pool.ready does, HT_TIMEOUT. */
  async preStart(ids: readonly string[], signal: AbortSignal): Promise<void> {
    using late = new ChildAbort(signal);
    const all = Promise.all(ids.map((id) => this.#spec.pool.ready(id, late.signal)));
    try {
      await withDeadline(`NICs ${ids.join(', ')}`, all, this.#spec.readyMs ?? READY_MS, signal);
    } finally {
      late.abort();
    }
  }

  /** NICs at as few NUMA nodes as can be, beginning with those that are given already. */
  preferred(r: PreferredAllocationRequest): string[] {
    const nodeOf = new Map(this.devices.map((d) => [d.ID, d.topology?.nodes[0]?.ID]));
    const chosen = [...r.must_include_deviceIDs];
    const free = r.available_deviceIDs.filter((id) => !chosen.includes(id)).sort(naturally);
    while (chosen.length < r.allocation_size && free.length > 0) {
      const lacking = r.allocation_size - chosen.length;
      const used = new Set(chosen.map((id) => nodeOf.get(id)));
      const at = (node: number | undefined): number => free.filter((id) => nodeOf.get(id) === node).length;
      // a node that is in use, then the smallest that has enough, then the largest
      const rank = (node: number | undefined): number =>
        used.has(node) ? -1e9 : at(node) >= lacking ? at(node) : 1e9 - at(node);
      const nodes = [...new Set(free.map((id) => nodeOf.get(id)))];
      const [best] = nodes.sort((a, b) => rank(a) - rank(b));
      const next = free.findIndex((id) => nodeOf.get(id) === best);
      chosen.push(...free.splice(next, 1));
    }
    return chosen;
  }

  async #left({ nic, vfio }: LocalNic, signal: AbortSignal): Promise<void> {
    if (vfio === null) return;
    let users: number[] = [];
    try {
      await waitFor(
        'free NIC',
        () => {
          users = this.#spec.holders(vfio);
          return users.length === 0 ? true : undefined;
        },
        { timeoutMs: this.#spec.leaveMs ?? LEAVE_MS, intervalMs: 100, signal },
      );
    } catch (e) {
      if (!isHyperturtleError(e, 'HT_TIMEOUT')) throw e;
      throw new HyperturtleError(
        'HT_IN_USE',
        `NIC '${nic.id}' (${vfio}) is used by process ${users.join(', ')}`,
      );
    }
  }

  #response(nics: readonly LocalNic[]): ContainerAllocateResponse {
    const files = [VFIO, ...nics.flatMap((n) => n.vfio ?? [])];
    const name = `PCIDEVICE_${this.#spec.resource.toUpperCase().replaceAll(/[^A-Z0-9]/g, '_')}`;
    return {
      envs: {
        [name]: nics.map((n) => n.address).join(','),
        HYPERTURTLE_NICS: nics.map((n) => n.nic.id).join(','),
      },
      devices: files.map((file) => ({ container_path: file, host_path: file, permissions: 'mrw' })),
    };
  }
}
