/** NICs given at run time: the daemon's process, a stock QEMU, real taps on a real bridge, real programs on them. */
import { execFileSync } from 'node:child_process';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { isHyperturtleError } from '../../src/core/errors.ts';
import { waitFor } from '../../src/core/wait.ts';
import { QmpClient } from '../../src/qmp/client.ts';
import { compiledSources } from '../support/compiled.ts';
import { compileBpf, findClang, whyNoBpf } from '../support/bpf.ts';
import { packetSource } from '../support/bpf-sources.ts';
import { DaemonHarness } from '../support/daemon-harness.ts';
import type { L1 } from '../support/daemon-harness.ts';
import { whyNoNetwork } from '../support/network.ts';
import { PortRelay } from '../support/port-relay.ts';
import { RealQemu, findQemu } from '../support/real-qemu.ts';

const qemu = findQemu();
const clang = findClang();
const why = qemu ? (whyNoBpf(clang) ?? whyNoNetwork()) : 'no QEMU: run the lab once';

const BOOT_A = '0d9c3a52-6e0b-4f0e-8d0f-4d1f6a2b7c33';
const BOOT_B = '1d9c3a52-6e0b-4f0e-8d0f-4d1f6a2b7c33';
const kindOf = (e: unknown): unknown => (isHyperturtleError(e) ? e.detail['kind'] : e);
const refusal = (p: Promise<unknown>): Promise<unknown> => p.then(() => 'granted', kindOf);

describe.skipIf(why !== undefined)(`NICs at run time${why ? ` (skipped: ${why})` : ''}`, () => {
  const bridge = `htb${process.pid}`;
  let h: DaemonHarness;
  let vm: RealQemu;
  let own: QmpClient;
  let l1: L1;
  let relay: PortRelay;

  beforeEach(async () => {
    if (!qemu) return;
    execFileSync('ip', ['link', 'add', bridge, 'mtu', '1400', 'type', 'bridge']);
    h = new DaemonHarness();
    vm = await RealQemu.start(
      qemu,
      [h.at('one.qmp'), h.at('test.qmp')],
      [
        // an empty slot is without power then, and lets go without a guest
        ...['-global', 'ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off'],
        ...[0, 1].flatMap((n) => [
          '-device',
          `pcie-root-port,id=hyperturtle-nic${n},chassis=${n + 1},slot=${n + 16}`,
        ]),
      ],
    );
    relay = await PortRelay.listen(h.at('one.port'), h.at('one.guest'));
    own = await QmpClient.connect(h.at('test.qmp'));
    h.writeConfig(
      { one: { nics: { networks: ['lan'] }, quotas: { nics: 3 } } },
      {
        networks: { lan: { bridge }, other: { bridge: 'ht-none' } },
        metrics: { socket: h.at('metrics') },
      },
    );
    await h.startDaemon();
    await h.whenVm('one', (v) => v.phase === 'attached' && v.qmp.problem === null);
  });
  afterEach(async () => {
    own.close();
    await vm.end();
    await h.close();
    relay.close();
    expect(ports()).toEqual([]);
    execFileSync('ip', ['link', 'del', bridge]);
  });

  const ports = (): string[] => readdirSync(`/sys/class/net/${bridge}/brif`);
  const devices = async (): Promise<string[]> =>
    ((await own.execute('qom-list', { path: '/machine/peripheral' })) as { name: string }[])
      .map((d) => d.name)
      .filter((name) => name.startsWith('hyperturtle-nic-'))
      .map((name) => name.replace(/-[0-9a-f]{16}$/, ''));
  const mac = (ifname: string): string => readFileSync(`/sys/class/net/${ifname}/address`, 'latin1').trim();

  it('are plugged into spare ports, on the bridge, up, until they are removed', async () => {
    l1 = await h.agent('one', BOOT_A);
    expect(await l1.peer.request('nic.list', {})).toEqual({
      nics: [],
      networks: [{ name: 'lan', kind: 'tap', mtu: 1400 }],
      free: 2,
    });
    const { nic, existed } = await l1.peer.request('nic.add', { id: 'web' });
    expect(existed).toBe(false);
    expect(nic).toMatchObject({
      id: 'web',
      network: 'lan',
      slot: 16,
      mtu: 1400,
      hooks: ['xdp', 'tc-ingress', 'tc-egress'],
    });
    expect(nic.mac).toMatch(/^02:/);
    expect(await devices()).toEqual(['hyperturtle-nic-web']);
    const [ifname = ''] = ports();
    expect(mac(ifname)).not.toBe(nic.mac);
    expect(readFileSync(`/sys/class/net/${ifname}/operstate`, 'latin1').trim()).not.toBe('down');
    // the same again is the same; another one under its name is not
    expect(await l1.peer.request('nic.add', { id: 'web' })).toEqual({ nic, existed: true });
    expect(await refusal(l1.peer.request('nic.add', { id: 'web', mac: '02:00:00:00:00:09' }))).toBe('EXISTS');
    const second = await l1.peer.request('nic.add', { mac: '02:00:00:00:00:07' });
    expect(second.nic).toMatchObject({ id: 'nic0', slot: 17, mac: '02:00:00:00:00:07' });
    expect(await refusal(l1.peer.request('nic.add', {}))).toBe('UNAVAILABLE'); // ports
    expect(await refusal(l1.peer.request('nic.add', { network: 'other' }))).toBe('NOT_FOUND');
    expect(ports()).toHaveLength(2);
    expect(await l1.peer.request('nic.del', { id: 'web' })).toEqual({ existed: true });
    expect(await l1.peer.request('nic.del', { id: 'web' })).toEqual({ existed: false });
    expect(await devices()).toEqual(['hyperturtle-nic-nic0']);
    await waitFor('one port of the bridge', () => ports().length === 1 || undefined, { timeoutMs: 5000 });
    expect((await l1.peer.request('nic.list', {})).free).toBe(1);
    expect((await l1.peer.request('limits', {})).used.nics).toBe(1);
  });

  it("are seen by the host's operator: device, frames, and what a VM or the host lacks for them", async () => {
    l1 = await h.agent('one', BOOT_A);
    const { nic } = await l1.peer.request('nic.add', { id: 'web' });
    const [ifname = ''] = ports();
    const listed = execFileSync(
      process.execPath,
      [path.join(compiledSources(), 'cli/main.js'), 'host', 'nics', '--socket', h.at('run/host.sock')],
      { encoding: 'utf8' },
    );
    expect(listed.split('\n')[1]?.trim().split(/ +/)).toEqual([
      'one',
      'web',
      ifname,
      'lan',
      nic.mac,
      '1400',
      '16',
      '-',
    ]);
    expect(await h.measured()).toMatch(
      new RegExp(
        `^hyperturtle_host_nic_packets\\{vm="one",ifname="${ifname}",network="lan",direction="sent"\\} 0$`,
        'm',
      ),
    );
    const { findings } = await h.admin('admin.doctor', {});
    const levels = Object.fromEntries(findings.map((f) => [f.what, f.level]));
    expect(levels).toMatchObject({
      [`host: network lan has its bridge ${bridge}`]: 'ok',
      'host: bridge ht-none of network other is missing': 'fail',
      'one: host: the VM has 2 PCIe root ports for NICs': 'ok',
      'one: host: the VM has no IOMMU: NICs of it cannot be handed to its guests': 'warn',
    });
    // a tenant does not learn what the host's bridges are called
    expect(JSON.stringify(await l1.peer.request('doctor', {}))).not.toContain(bridge);
  });

  const load = async (name: string, section: string, answer: number): Promise<void> => {
    if (!clang) return;
    const elf = compileBpf(clang, packetSource(section, answer)).toString('base64');
    await l1.peer.request('load', { name, elf }, { timeoutMs: 20_000 });
  };

  it('take programs of their own VM, which end with them', async () => {
    l1 = await h.agent('one', BOOT_A);
    await l1.peer.request('events', {});
    await l1.peer.request('nic.add', { id: 'web' });
    await load('drop', 'tc/ingress', 2);
    await load('count', 'tc/ingress', -1);
    expect(await refusal(l1.peer.request('link', { object: 'drop', hook: 'tc-ingress' }))).toBe(
      'INVALID_PARAMS',
    );
    const wrong = { object: 'drop', hook: 'tc-ingress', target: 'lo' };
    expect(await refusal(l1.peer.request('link', wrong))).toBe('NOT_FOUND');
    const { link } = await l1.peer.request('link', { ...wrong, target: 'web' });
    expect(link).toMatchObject({ target: 'web', order: 100 });
    const first = await l1.peer.request('link', {
      object: 'count',
      hook: 'tc-ingress',
      target: 'web',
      order: 5,
    });
    expect(first.link.order).toBe(5);
    expect(await l1.peer.request('link', { ...wrong, target: 'web', order: 7 })).toEqual({
      link: { ...link, order: 7 },
      existed: true,
    });
    const rows = (await l1.peer.request('stats', {})).hooks.filter((s) => s.hook === 'tc-ingress');
    expect(rows.map((s) => [s.object, s.target])).toEqual([
      ['drop', 'web'],
      ['count', 'web'],
    ]);
    await load('out', 'tc/egress', -1);
    await l1.peer.request('link', { object: 'out', hook: 'tc-egress', target: 'web' });
    // the host's own first words on the bridge go to all ports
    execFileSync('ip', ['link', 'set', bridge, 'up']);
    await waitFor(
      'frames on their way to L2',
      async () =>
        (await l1.peer.request('stats', {})).hooks.some((s) => s.object === 'out' && s.runs > 0) || undefined,
      { timeoutMs: 10_000 },
    );
    await l1.peer.request('nic.del', { id: 'web' });
    await waitFor(
      'the end of all links',
      () => l1.events.filter((e) => e.type === 'link.ended').length === 3 || undefined,
      {
        timeoutMs: 5000,
      },
    );
    expect(l1.events.map((e) => e.type)).toContain('nic.removed');
    expect((await l1.peer.request('list', {})).links).toEqual([]);
  });

  it('are known again to a daemon that starts after a kill -9, with what was linked to them', async () => {
    l1 = await h.agent('one', BOOT_A);
    const { nic } = await l1.peer.request('nic.add', { id: 'web' });
    await load('drop', 'xdp', 1);
    const { link } = await l1.peer.request('link', { object: 'drop', hook: 'xdp', target: 'web' });
    const before = ports();
    await h.endDaemon('SIGKILL');
    expect(vm.running).toBe(true);
    expect(ports()).toEqual(before);
    await h.startDaemon();
    await h.whenVm('one', (v) => v.nics.length === 1);
    l1.close();
    l1 = await h.agent('one', BOOT_A);
    expect(await l1.peer.request('nic.list', {})).toMatchObject({ nics: [nic], free: 1 });
    expect((await l1.peer.request('list', {})).links).toEqual([link]);
    expect(await l1.peer.request('nic.add', { id: 'web' })).toEqual({ nic, existed: true });
    expect(await l1.peer.request('nic.del', { id: 'web' })).toEqual({ existed: true });
  });

  it('are taken away when L1 boots again, and gone when its QEMU is', async () => {
    l1 = await h.agent('one', BOOT_A);
    await l1.peer.request('nic.add', { id: 'web' });
    l1.close();
    l1 = await h.agent('one', BOOT_B);
    await h.whenVm('one', (v) => v.nics.length === 0);
    expect(await devices()).toEqual([]);
    await l1.peer.request('nic.add', { id: 'web' });
    await vm.end();
    await h.whenVm('one', (v) => v.phase === 'waiting');
    await waitFor('no port of the bridge', () => ports().length === 0 || undefined, { timeoutMs: 5000 });
  });

  it('go into another port when one is taken; what is not possible leaves nothing behind', async () => {
    l1 = await h.agent('one', BOOT_A);
    // behind the daemon's back
    const rng = (n: number): Promise<unknown> =>
      own.execute('device_add', {
        driver: 'virtio-rng-pci',
        id: `rng${n}`,
        bus: `hyperturtle-nic${n}`,
        addr: '0x0',
      });
    await rng(0);
    expect((await l1.peer.request('nic.add', { id: 'web' })).nic.slot).toBe(17);
    await l1.peer.request('nic.del', { id: 'web' });
    await rng(1);
    expect(await refusal(l1.peer.request('nic.add', { id: 'web' }))).toBe('UNAVAILABLE');
    expect(await devices()).toEqual([]);
    await waitFor('no port of the bridge', () => ports().length === 0 || undefined, { timeoutMs: 5000 });
    expect((await l1.peer.request('limits', {})).used.nics).toBe(0);
  });

  it('have the addresses that the configuration gives the VM, and no others', async () => {
    const macs = ['02:00:00:00:aa:01', '02:00:00:00:aa:02'];
    h.writeConfig(
      { one: { nics: { networks: ['lan', 'more'], macs }, quotas: { nics: 3 } } },
      { networks: { lan: { bridge }, more: { bridge } } },
    );
    h.hangUp();
    l1 = await h.agent('one', BOOT_A);
    await waitFor(
      'the new configuration',
      async () => (await l1.peer.request('nic.list', {})).networks.length === 2 || undefined,
      { timeoutMs: 5000 },
    );
    expect(await refusal(l1.peer.request('nic.add', { mac: '02:00:00:00:00:07' }))).toBe('INVALID_PARAMS');
    expect((await l1.peer.request('nic.add', { mac: macs[0] })).nic.mac).toBe(macs[0]);
    expect((await l1.peer.request('nic.add', {})).nic.mac).toBe(macs[1]);
    expect(await refusal(l1.peer.request('nic.add', {}))).toBe('QUOTA');
  });

  it('a configuration without the network takes none away, and gives no more', async () => {
    l1 = await h.agent('one', BOOT_A);
    await l1.peer.request('nic.add', { id: 'web' });
    h.writeConfig({ one: {} });
    h.hangUp();
    await waitFor(
      'the new configuration',
      async () => {
        const { networks } = await l1.peer.request('nic.list', {});
        return networks.length === 0 || undefined;
      },
      { timeoutMs: 5000 },
    );
    expect(await refusal(l1.peer.request('nic.add', {}))).toBe('NOT_FOUND');
    expect((await l1.peer.request('nic.list', {})).nics).toHaveLength(1);
    writeFileSync(h.config, JSON.stringify({ vms: { one: { nics: { networks: ['lan'] } } } }));
  });
});
