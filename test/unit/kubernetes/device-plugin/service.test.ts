/** What the device plugin answers, with NICs of this test's own. */
import { describe, expect, it } from 'vitest';
import type { LocalNic } from '../../../../src/guest/nic/nic.ts';
import { Pool } from '../../../../src/kubernetes/device-plugin/pool.ts';
import type { NicMeans } from '../../../../src/kubernetes/device-plugin/pool.ts';
import { NicService } from '../../../../src/kubernetes/device-plugin/service.ts';
import { NIC } from '../../../support/wire.ts';

const signal = new AbortController().signal;

/** A host with room for `max` NICs, in slots from 16 on; odd ones are at NUMA node 1. */
class Host implements NicMeans {
  readonly there = new Map<string, number>();
  readonly prepared: string[] = [];
  readonly unbound = new Set<string>();
  away = false;
  never = false;
  numa = (slot: number): number | null => slot % 2;
  readonly #max: number;
  constructor(max: number) {
    this.#max = max;
  }
  list() {
    if (this.away) return Promise.reject(new Error('no agent'));
    const nics = [...this.there].map(([id, slot]) => ({ ...NIC, id, slot }));
    return Promise.resolve({ nics, free: this.#max - nics.length });
  }
  async prepare(id: string) {
    this.prepared.push(id);
    if (this.never) await new Promise(() => {});
    let slot = this.there.get(id);
    if (slot === undefined) {
      if (this.there.size >= this.#max) throw new Error('quota exceeded');
      for (slot = 16; [...this.there.values()].includes(slot); slot++);
      this.there.set(id, slot);
    }
    this.unbound.delete(id);
    return { ...NIC, id, slot };
  }
  look(nic: { id: string; slot: number }): LocalNic {
    const bound = this.there.get(nic.id) === nic.slot && !this.unbound.has(nic.id);
    return {
      nic: { ...NIC, ...nic },
      address: nic.slot < 0 ? null : `0000:${nic.slot}:00.0`,
      driver: bound ? 'vfio-pci' : null,
      iommuGroup: nic.slot,
      numaNode: this.numa(nic.slot),
      vfio: bound ? `/dev/vfio/${nic.slot}` : null,
      interface: null,
    };
  }
}

const said: string[] = [];
const log = { info: () => {}, warn: (_: object, text: string) => void said.push(text) };
const RESOURCE = 'hyperturtle.io/nic';

async function made(host: Host, count?: number, holders: (file: string) => number[] = () => []) {
  said.length = 0;
  const pool = new Pool({ prefix: 'k8s-nic-', count }, host, log);
  await pool.refresh(signal);
  await pool.repair(signal);
  await pool.refresh(signal);
  const service = new NicService({ pool, resource: RESOURCE, holders, leaveMs: 50, readyMs: 100 });
  return { pool, service };
}

const ids = (pool: Pool, health = 'Healthy'): string[] =>
  pool.devices.filter((d) => d.health === health).map((d) => d.ID);

describe('the pool of NICs for pods', () => {
  it('gets as many as are wanted, or as the host gives, and takes up those of an earlier plugin', async () => {
    const host = new Host(12);
    expect(ids((await made(host, 2)).pool)).toEqual(['k8s-nic-0', 'k8s-nic-1']);
    expect(ids((await made(host)).pool)).toEqual([...Array(12).keys()].map((n) => `k8s-nic-${n}`));
    expect(host.prepared).toHaveLength(12);
  });

  it('leaves NICs of others alone, and says once what it cannot have', async () => {
    const host = new Host(2);
    host.there.set('web', 16);
    host.there.set('k8s-nic-x', 17);
    const { pool } = await made(host, 3);
    await pool.repair(signal);
    expect(pool.devices).toEqual([]);
    expect(host.prepared).toEqual([]);
    expect(said).toEqual([]);
  });

  it('gives no pod a NIC that is not wanted any more, but lets the pod that has it go on', async () => {
    const host = new Host(4);
    await made(host, 3);
    const { pool, service } = await made(host, 1);
    expect([ids(pool), ids(pool, 'Unhealthy')]).toEqual([['k8s-nic-0'], ['k8s-nic-1', 'k8s-nic-2']]);
    expect(said[0]).toMatch(/not among the 1 that are wanted: 'hyperturtle nic del k8s-nic-1' gives it back/);
    await expect(service.allocate([{ devices_ids: ['k8s-nic-2'] }], signal)).rejects.toThrow(/not among/);
    await service.preStart(['k8s-nic-2'], signal);
  });

  it('knows what this machine knows while the host is away, and nothing before it has answered', async () => {
    const host = new Host(2);
    const { pool } = await made(host);
    host.away = true;
    expect(await pool.refresh(signal)).toBe(false);
    host.unbound.add('k8s-nic-1');
    expect(await pool.refresh(signal)).toBe(true);
    expect(ids(pool)).toEqual(['k8s-nic-0']);
    await expect(new Pool({ prefix: 'k8s-nic-', count: 1 }, host, log).refresh(signal)).rejects.toThrow(
      'no agent',
    );
  });

  it('takes a NIC that the host has no more for lost, even where its slot has another one now', async () => {
    const host = new Host(3);
    const { pool } = await made(host, 2);
    host.there.delete('k8s-nic-0');
    host.there.set('web', 16);
    await pool.refresh(signal);
    expect(ids(pool, 'Unhealthy')).toEqual(['k8s-nic-0']);
    await pool.repair(signal);
    await pool.refresh(signal);
    expect(ids(pool)).toEqual(['k8s-nic-0', 'k8s-nic-1']);
    expect(pool.usable('k8s-nic-0').vfio).toBe('/dev/vfio/18');
  });
});

describe('what kubelet asks', () => {
  it('prefers NICs of one NUMA node: one that is in use, then the smallest that has enough', async () => {
    const host = new Host(7);
    const { service } = await made(host);
    const all = service.devices.map((d) => d.ID);
    const prefer = (available: string[], must: string[], n: number): string[] =>
      service.preferred({ available_deviceIDs: available, must_include_deviceIDs: must, allocation_size: n });
    // 0, 2, 4, 6 at node 0; 1, 3, 5 at node 1
    expect(prefer(all, [], 2)).toEqual(['k8s-nic-1', 'k8s-nic-3']);
    expect(prefer(all, [], 4)).toEqual(['k8s-nic-0', 'k8s-nic-2', 'k8s-nic-4', 'k8s-nic-6']);
    expect(prefer(all, ['k8s-nic-4'], 2)).toEqual(['k8s-nic-4', 'k8s-nic-0']);
    expect(prefer(all, [], 5)).toHaveLength(5);
    expect(prefer(all.slice(0, 1), [], 3)).toEqual(['k8s-nic-0']);
    host.numa = () => null;
  });

  it('gives no NIC that a process still has, once it has waited for that to end', async () => {
    let users = [77];
    const { service } = await made(new Host(2), 2, (file) => (file === '/dev/vfio/16' ? users : []));
    const one = [{ devices_ids: ['k8s-nic-0'] }];
    await expect(service.allocate(one, signal)).rejects.toMatchObject({
      code: 'HT_IN_USE',
      message: "NIC 'k8s-nic-0' (/dev/vfio/16) is used by process 77",
    });
    // a container that starts again has it itself
    await service.preStart(['k8s-nic-0'], signal);
    users = [];
    const [given] = await service.allocate(one, signal);
    expect(given?.devices.map((d) => d.host_path)).toEqual(['/dev/vfio/vfio', '/dev/vfio/16']);
  });

  it('binds a NIC again before a container starts, and gives up in time', async () => {
    const host = new Host(1);
    const { service } = await made(host);
    host.unbound.add('k8s-nic-0');
    await service.preStart(['k8s-nic-0'], signal);
    expect(host.unbound.size).toBe(0);
    host.unbound.add('k8s-nic-0');
    host.never = true;
    await expect(service.preStart(['k8s-nic-0'], signal)).rejects.toMatchObject({ code: 'HT_TIMEOUT' });
    await expect(service.preStart(['k8s-nic-7'], signal)).rejects.toMatchObject({ code: 'HT_NOT_FOUND' });
  });
});
