/**
 * Debian's real libvirtd and QEMU (TCG), the daemon beside it with a stand-in for the kernel: domains come and go by virsh,
 * and the daemon attaches, plugs and detaches by itself.
 */
import { chmodSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { waitFor } from '../../src/core/wait.ts';
import type { VmReport } from '../../src/host/daemon/admin-schema.ts';
import { whyNoMaps } from '../support/bpf.ts';
import { compiledSources } from '../support/compiled.ts';
import { DaemonHarness } from '../support/daemon-harness.ts';
import { makeDevices } from '../support/fake-kernel.ts';
import { LibvirtHost, libvirtTree, writeGuest } from '../support/libvirt-host.ts';

const tree = libvirtTree();
const why = typeof tree === 'string' ? tree : whyNoMaps();

/** `disk`: its boot sector. A description of its owner's, and what is in ours only by chance. */
const domain = (name: string, disk: string, more = ''): string => `<domain type='qemu'>
  <name>${name}</name>
  <description>of &lt;somebody&gt; &amp; others</description>
  <metadata><app:x xmlns:app='urn:other' app:a='1'><!-- theirs --><app:y/></app:x></metadata>
  <memory unit='MiB'>32</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='${disk}'/><target dev='sda' bus='sata'/>
    </disk>
    <graphics type='vnc' passwd='secret'/>${more}
  </devices>
</domain>
`;

describe.skipIf(why !== undefined)(`libvirt${why ? ` (skipped: ${why})` : ''}`, () => {
  let h: DaemonHarness;
  let host: LibvirtHost;

  beforeAll(async () => {
    if (typeof tree === 'string') return;
    compiledSources();
    h = new DaemonHarness();
    h.writeConfig({}, { libvirt: {} });
    makeDevices(h.at('kernel'));
    writeGuest(h.at('guest.img'));
    host = await LibvirtHost.make(tree, h, '11111111-2222-3333-4444-555555555501');
    await host.startLibvirtd();
  });
  afterAll(async () => {
    await h?.endDaemon('SIGKILL');
    await host?.end();
    await h?.close();
  });

  const define = (name: string, xml = domain(name, h.at('guest.img'))): string => {
    host.write('/run/domain.xml', xml);
    host.virsh('define', '/run/domain.xml');
    return host.virsh('dumpxml', '--inactive', '--security-info', name);
  };
  const ours = (...args: string[]): string => {
    const r = host.cli('host', 'libvirt', ...args);
    expect(`${r.status} ${r.stderr}`, args.join(' ')).toBe('0 ');
    return r.stdout;
  };
  const startDaemon = (): Promise<void> => h.startDaemon();
  const vms = async (): Promise<VmReport[]> => (await h.admin('admin.vm.list', {})).vms;
  const whole = (v: VmReport): boolean => v.arena.state === 'plugged' && v.agent.connected;
  /** It is not served any more, and nothing of it is left. */
  const whenGone = (name: string): Promise<true> =>
    waitFor(`VM ${name} gone`, async () => ((await vms()).some((v) => v.name === name) ? undefined : true), {
      timeoutMs: 15_000,
    }).then(() => {
      const pins = path.join(h.bpffs, 'hyperturtle');
      expect(existsSync(pins) ? readdirSync(pins) : []).not.toContain(name);
      return true;
    });

  it('enables the host: a hook script, and devices that QEMU may open; undone, all is as before', () => {
    const before = host.read('/etc/libvirt/qemu.conf');
    const first = ours('enable', '--config', h.config);
    expect(first).toMatch(
      /write \/etc\/libvirt\/hooks\/qemu\.d\/hyperturtle\nwrite \/etc\/libvirt\/qemu\.conf/,
    );
    expect(ours('enable', '--config', h.config)).toBe('nothing to do\n');
    ours('disable', '--config', h.config);
    expect(host.read('/etc/libvirt/qemu.conf')).toBe(before);
    expect(host.run('test', '-e', '/etc/libvirt/hooks/qemu.d/hyperturtle').status).toBe(1);
    ours('enable', '--config', h.config);
  });

  it('libvirtd reads both when it is started again', async () => {
    await host.endLibvirtd('SIGTERM');
    await host.startLibvirtd();
  });

  it('enables a domain, and disabling gives back its definition to the byte', () => {
    const before = define('two');
    expect(before).toContain("passwd='secret'");
    expect(ours('enable', 'two', '--arena-mib', '1', '--quota', 'objects=3')).toBe('two: enabled\n');
    const enabled = host.virsh('dumpxml', '--inactive', '--security-info', 'two');
    expect(enabled).toContain('org.hyperturtle.v1');
    expect(enabled).toContain("passwd='secret'");
    expect(ours('enable', 'two')).toBe('two: nothing to do\n');
    expect(ours('enable', 'two', '--quota', 'objects=3')).toBe('two: nothing to do\n');
    expect(host.virsh('dumpxml', '--inactive', '--security-info', 'two')).toBe(enabled);
    ours('enable', 'two', '--quota', 'objects=4');
    expect(ours('disable', 'two')).toBe('two: disabled\n');
    expect(host.virsh('dumpxml', '--inactive', '--security-info', 'two')).toBe(before);
    expect(ours('disable', 'two')).toBe('two: nothing to do\n');
  });

  it('keeps what was changed after enabling', () => {
    ours('enable', 'two');
    host.virsh('setvcpus', 'two', '3', '--config', '--maximum');
    host.virsh('desc', 'two', '--config', 'another');
    ours('disable', 'two');
    const left = host.virsh('dumpxml', '--inactive', '--security-info', 'two');
    expect(left).toContain('>3</vcpu>');
    expect(left).toContain('another');
    expect(left).not.toMatch(/hyperturtle|xmlns:qemu/);
    host.virsh('undefine', 'two');
  });

  it('serves a domain that is started: attached, its arena plugged, its port connected', async () => {
    define('one');
    ours('enable', 'one', '--arena-mib', '1');
    await startDaemon();
    host.virsh('start', 'one');
    const vm = await h.whenVm('one', whole);
    expect(vm).toMatchObject({ from: 'libvirt', problem: null, pid: host.qemu('one') });
    // the device is in QEMU's own /dev: the daemon had made it before libvirt made that
    expect(host.run('ls', `/proc/${vm.pid}/root/dev/${vm.arena.device}`).status).toBe(0);
    expect(host.virsh('dominfo', 'one')).toMatch(/tainted: custom configuration parameters/);
    expect(ours('status', '--config', h.config)).toMatch(/^one +running +yes +one +yes +plugged$/m);
  });

  it('unlinks and unloads when the domain is reset', async () => {
    host.virsh('reset', 'one');
    await h.logged(/VM reset/);
    await h.whenVm('one', whole);
  });

  it('serves on while libvirtd is killed and started, and the daemon too', async () => {
    const { pid } = await h.vm('one');
    await host.endLibvirtd('SIGKILL');
    await h.endDaemon('SIGKILL');
    await startDaemon();
    expect((await h.whenVm('one', whole)).pid).toBe(pid);
    await host.startLibvirtd();
    await waitFor(
      'libvirt asked again',
      async () => (await h.admin('admin.libvirt.status', {})).libvirt?.problem === null || undefined,
      { timeoutMs: 20_000 },
    );
    expect((await h.whenVm('one', whole)).pid).toBe(pid);
    await h.endDaemon('SIGTERM');
    await startDaemon();
    await h.whenVm('one', whole);
  });

  it('is in the way of a managed save until it is released; what was saved is served again', async () => {
    expect(host.run('virsh', 'managedsave', 'one').stderr).toMatch(/cannot migrate domain.*ivshmem/);
    const r = host.cli('host', 'libvirt', 'release', 'one', '--', 'virsh', '-q', 'managedsave', 'one');
    expect(r.stderr).toBe('');
    expect(r.status).toBe(0);
    await whenGone('one');
    host.virsh('start', 'one');
    const vm = await h.whenVm('one', whole);
    expect(vm.pid).toBe(host.qemu('one'));
  });

  it('is served again when what it was released for has failed', async () => {
    const { pid } = await h.vm('one');
    const r = host.cli('host', 'libvirt', 'release', 'one', '--', 'virsh', '-q', 'managedsave', 'nobody');
    expect(r.status).toBe(1);
    expect((await h.whenVm('one', whole)).pid).toBe(pid);
  });

  it('follows reboot and shutdown by the guest, and destroy', async () => {
    const resets = (): number => (h.log.match(/VM reset/g) ?? []).length;
    const before = resets();
    // its guest must have booted to see the button
    const press = (what: string): void => void host.run('virsh', '-q', what, 'one', '--mode', 'acpi');
    await waitFor('reboot', () => (press('reboot'), resets() > before || undefined), {
      timeoutMs: 60_000,
      intervalMs: 2000,
    });
    await h.whenVm('one', whole);
    await waitFor('shutdown', () => (press('shutdown'), host.qemu('one') === undefined || undefined), {
      timeoutMs: 60_000,
      intervalMs: 2000,
    });
    await whenGone('one');
    host.virsh('start', 'one');
    await h.whenVm('one', whole);
    host.virsh('destroy', 'one');
    await whenGone('one');
  });

  it('is served on another host when it has been migrated there', async () => {
    if (typeof tree === 'string') return;
    const other = new DaemonHarness();
    let there: LibvirtHost | undefined;
    try {
      other.writeConfig({}, { libvirt: {} });
      makeDevices(other.at('kernel'));
      there = await LibvirtHost.make(tree, other, '11111111-2222-3333-4444-555555555502');
      expect(there.cli('host', 'libvirt', 'enable', '--config', other.config).status).toBe(0);
      await there.startLibvirtd();
      await other.startDaemon();
      host.virsh('start', 'one');
      await h.whenVm('one', whole);
      // QEMU makes the socket by which the state goes
      mkdirSync(other.at('state-of'));
      chmodSync(other.at('state-of'), 0o777);
      const to = `qemu+unix:///system?socket=${other.at('run-libvirt/libvirt-sock')}`;
      const by = ['--migrateuri', `unix://${other.at('state-of/one')}`, '--unsafe', '--persistent'];
      const migrate = ['virsh', '-q', 'migrate', '--live', ...by, 'one', to];
      expect(host.run(...(migrate as [string])).stderr).toMatch(/ivshmem/);
      const r = host.cli('host', 'libvirt', 'release', 'one', '--', ...migrate);
      expect([r.status, r.stderr]).toEqual([0, '']);
      expect((await other.whenVm('one', whole)).pid).toBe(there.qemu('one'));
      await whenGone('one');
      // it came as a whole: its guest lets the arena go
      const back = there.cli('host', 'libvirt', 'release', 'one');
      expect([back.status, back.stderr]).toEqual([0, '']);
      expect(there.cli('host', 'libvirt', 'take', 'one').stdout).toBe('one: served again\n');
      await other.whenVm('one', whole);
    } finally {
      await other.endDaemon('SIGKILL');
      await there?.end();
      await other.close();
    }
  });

  it('starts where the daemon hangs or is not there, and is served when it is again', async () => {
    process.kill(h.daemonPid, 'SIGSTOP');
    const begun = performance.now();
    host.virsh('start', 'one');
    expect(performance.now() - begun).toBeLessThan(60_000);
    process.kill(h.daemonPid, 'SIGCONT');
    await waitFor(
      'VM one attached',
      async () => (await vms()).some((v) => v.name === 'one' && v.phase === 'attached') || undefined,
      { timeoutMs: 30_000 },
    );
    await h.endDaemon('SIGTERM');
    host.virsh('destroy', 'one');
    host.virsh('start', 'one');
    host.virsh('destroy', 'one');
    await startDaemon();
    await whenGone('one');
  });
});
