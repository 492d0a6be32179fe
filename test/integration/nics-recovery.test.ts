/** NICs and what goes wrong: a daemon that ends at any step, and a guest that does not let go. A stock QEMU, real taps. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { isHyperturtleError } from '../../src/core/errors.ts';
import { waitFor } from '../../src/core/wait.ts';
import { nicPorts, parseConfig } from '../../src/host/config.ts';
import { qemuArgs } from '../../src/host/daemon/qemu-args.ts';
import type { NicQmp } from '../../src/host/nics/plug.ts';
import { VmNics } from '../../src/host/nics/nics.ts';
import type { VmNicsOptions } from '../../src/host/nics/nics.ts';
import { readNics } from '../../src/host/nics/record.ts';
import { QmpClient } from '../../src/qmp/client.ts';
import { whyNoNetwork } from '../support/network.ts';
import { RealQemu, findQemu } from '../support/real-qemu.ts';

const qemu = findQemu();
const why = qemu ? whyNoNetwork() : 'no QEMU: run the lab once';
const never = new AbortController().signal;
const BOOT = '0d9c3a52-6e0b-4f0e-8d0f-4d1f6a2b7c33';

describe.skipIf(why !== undefined)(`NICs that fail half-way${why ? ` (skipped: ${why})` : ''}`, () => {
  const bridge = `htr${process.pid}`;
  let dir: string;
  let vm: RealQemu;
  let qmp: QmpClient;
  let told: string[];

  const start = async (args: readonly string[]): Promise<void> => {
    if (!qemu) return;
    const ports = [0, 1].flatMap((n) => [
      '-device',
      `pcie-root-port,id=p${n},chassis=${n + 1},slot=${n + 16}`,
    ]);
    vm = await RealQemu.start(qemu, [path.join(dir, 'qmp')], [...args, ...ports]);
    qmp = await QmpClient.connect(path.join(dir, 'qmp'));
  };
  /** An empty slot is without power then, and lets go without a guest. */
  const LETS_GO = ['-global', 'ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off'];

  /** What a daemon that starts has; `over`: the QMP connection as it sees it. */
  const daemon = (over: NicQmp = qmp, more: Partial<VmNicsOptions> = {}): VmNics => {
    const nics = new VmNics({
      vm: 'one',
      run: dir,
      process: { pid: vm.pid, startTicks: 1 },
      settings: () => ({
        networks: { lan: { bridge, vhost: false } },
        ports: ['p0', 'p1'],
        max: 2,
        hooks: undefined,
      }),
      qmp: () => over,
      onAdded: (nic) => told.push(`added ${nic.id}`),
      onGoing: (nic, reason) => void told.push(`removed ${nic.id}: ${reason}`),
      log: { info: () => {}, warn: () => {} },
      ...more,
    });
    nics.boot(BOOT);
    return nics;
  };

  beforeEach(() => {
    dir = mkdtempSync(path.join(os.tmpdir(), 'ht-nics-'));
    told = [];
    execFileSync('ip', ['link', 'add', bridge, 'type', 'bridge']);
  });
  afterEach(async () => {
    qmp.close();
    await vm.end();
    await waitFor('no taps', () => taps().length === 0 || undefined, { timeoutMs: 5000 });
    execFileSync('ip', ['link', 'del', bridge]);
    rmSync(dir, { recursive: true });
  });

  const taps = (): string[] => readdirSync(`/sys/class/net/${bridge}/brif`);
  /** By the NICs' names. */
  const devices = async (): Promise<string[]> =>
    ((await qmp.execute('qom-list', { path: '/machine/peripheral' })) as { name: string }[]).flatMap(
      (d) => /^hyperturtle-nic-(\w+)-[0-9a-f]{16}$/.exec(d.name)?.[1] ?? [],
    );

  /** A connection over which nothing more is said or heard once `step` comes: as for a daemon that is killed there. */
  const endsAt = (step: string, when: 'before' | 'after'): NicQmp => {
    let ended = false;
    const at = async <T>(name: string, work: () => Promise<T>): Promise<T> => {
      if (ended) throw new Error('killed');
      if (name !== step) return work();
      ended = true;
      if (when === 'after') await work();
      throw new Error('killed');
    };
    return {
      execute: (command, args, options) => at(command, () => qmp.execute(command, args, options)),
      giveFd: (name, send, options) => at('getfd', () => qmp.giveFd(name, send, options)),
      waitEvent: (...args) => qmp.waitEvent(...args),
    };
  };

  it('a daemon that ends at any step of nic.add leaves nothing that the next one does not clear away', async () => {
    await start(LETS_GO);
    const keep = daemon();
    const { nic: kept } = await keep.add({ id: 'keep' }, never);
    for (const step of ['getfd', 'netdev_add', 'device_add'])
      for (const when of ['before', 'after'] as const) {
        const at = `${when} ${step}`;
        const first = daemon(endsAt(step, when));
        await first.recover();
        await expect(first.add({ id: 'web' }, never), at).rejects.toThrow('killed');
        expect(
          readNics(dir, 'one')?.nics.map((n) => [n.info.id, n.complete]),
          at,
        ).toEqual([
          ['keep', true],
          ['web', false],
        ]);
        const next = daemon();
        await next.recover();
        expect((await next.list()).nics, at).toEqual([kept]);
        expect(await devices(), at).toEqual(['keep']);
        // neither its name nor its netdev is taken
        expect((await next.add({ id: 'web' }, never)).existed, at).toBe(false);
        await next.del('web');
        await waitFor(`one tap (${at})`, () => taps().length === 1 || undefined, { timeoutMs: 5000 });
      }
  });

  it('a daemon that ends at any step of nic.del leaves the NIC whole or gone', async () => {
    await start(LETS_GO);
    for (const step of ['device_del', 'netdev_del'])
      for (const when of ['before', 'after'] as const) {
        const at = `${when} ${step}`;
        const first = daemon();
        await first.recover();
        await first.add({ id: 'web' }, never);
        const killed = daemon(endsAt(step, when));
        await killed.recover();
        await expect(killed.del('web'), at).rejects.toThrow('killed');
        const next = daemon();
        await next.recover();
        const { nics } = await next.list();
        expect(nics.length, at).toBe((await devices()).length);
        expect(nics.length, at).toBe(at === 'before device_del' ? 1 : 0);
        await next.del('web');
        await waitFor(`no tap (${at})`, () => taps().length === 0 || undefined, { timeoutMs: 5000 });
      }
  });

  it('a connection that breaks during device_add leaves no NIC once there is a new one', async () => {
    await start(LETS_GO);
    const connections: NicQmp[] = [endsAt('device_add', 'after')];
    const nics = daemon(undefined, { qmp: () => connections[0] ?? qmp });
    await expect(nics.add({ id: 'web' }, never)).rejects.toThrow('killed');
    expect(await devices()).toEqual(['web']);
    // it counts as long as it may be there
    expect(nics.count).toBe(1);
    connections.pop();
    await nics.recover();
    expect([nics.count, await devices()]).toEqual([0, []]);
    // of what never was whole nobody has heard
    expect(told).toEqual([]);
  });

  it('a NIC that L1 does not let go is told as removed, stands in the way of its name, and goes with a reset', async () => {
    await start(['-device', 'intel-iommu,intremap=on']);
    const nics = daemon(qmp, { unplugMs: 300 });
    qmp.onEvent((e) => {
      if (e.event === 'DEVICE_DELETED') void nics.released(e.data['device']);
    });
    await nics.recover();
    expect(nics.machine).toEqual({ ports: 2, iommu: true });
    await nics.add({ id: 'web' }, never);
    const tooLate = (e: unknown): boolean => isHyperturtleError(e, 'HT_TIMEOUT');
    await expect(nics.del('web')).rejects.toSatisfy(tooLate);
    expect(told).toEqual(['added web', 'removed web: removed by command']);
    expect(nics.hooked()).toEqual([]);
    await expect(nics.add({ id: 'web' }, never)).rejects.toSatisfy(tooLate);
    expect((await nics.list()).nics).toHaveLength(1);
    await qmp.execute('system_reset');
    await waitFor('the NIC gone', () => nics.count === 0 || undefined, { timeoutMs: 10_000 });
    expect(taps()).toEqual([]);
    expect((await nics.add({ id: 'web' }, never)).existed).toBe(false);
    expect(told).toHaveLength(3);
  });

  it('two NICs with one address are not given in one network', async () => {
    await start(LETS_GO);
    const nics = daemon();
    const mac = '02:00:00:00:00:07';
    await nics.add({ id: 'a', mac }, never);
    await expect(nics.add({ id: 'b', mac }, never)).rejects.toSatisfy((e) =>
      isHyperturtleError(e, 'HT_EXISTS'),
    );
    expect(taps()).toHaveLength(1);
    expect((await nics.add({ id: 'b' }, never)).nic.mac).toMatch(/^02:(?!00:00:00:00:07)/);
  });

  it('what host args prints gives a stock QEMU an IOMMU and spare ports that take NICs', async () => {
    if (!qemu) return;
    const config = parseConfig(
      JSON.stringify({
        networks: { lan: { bridge } },
        vms: {
          one: {
            qmp: path.join(dir, 'own'),
            agent: { socket: path.join(dir, 'agent') },
            nics: { networks: ['lan'] },
          },
        },
      }),
      'host.yaml',
    );
    const spec = config.vms['one'];
    if (!spec) throw new Error('no VM in the configuration');
    mkdirSync(path.join(dir, 'vms/one'), { recursive: true });
    writeFileSync(path.join(dir, 'vms/one/arena'), '');
    truncateSync(path.join(dir, 'vms/one/arena'), spec.arenaMib << 20);
    vm = await RealQemu.start(qemu, [path.join(dir, 'qmp')], qemuArgs('one', spec, dir));
    qmp = await QmpClient.connect(path.join(dir, 'qmp'));
    const settings = { networks: config.networks, ports: nicPorts(spec), max: 4, hooks: undefined };
    const nics = daemon(qmp, { settings: () => settings });
    await nics.recover();
    expect(nics.machine).toEqual({ ports: 4, iommu: true });
    for (const slot of [64, 65, 66, 67]) expect((await nics.add({}, never)).nic.slot).toBe(slot);
    expect((await nics.list()).free).toBe(0);
    expect(vm.errors).toBe('');
  });

  it('a VM gets no more NICs in a network than that allows', async () => {
    await start(LETS_GO);
    const networks = { lan: { bridge, vhost: false, maxPerVm: 1 }, other: { bridge, vhost: false } };
    const nics = daemon(qmp, {
      settings: () => ({ networks, ports: ['p0', 'p1'], max: 2, hooks: undefined }),
    });
    await nics.add({ network: 'lan' }, never);
    await expect(nics.add({ network: 'lan' }, never)).rejects.toSatisfy((e) =>
      isHyperturtleError(e, 'HT_QUOTA'),
    );
    expect((await nics.add({ network: 'other' }, never)).nic.network).toBe('other');
  });
});
