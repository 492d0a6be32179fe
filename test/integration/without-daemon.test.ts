/**
 * Programs on NICs while no daemon runs: killed, stopped, gone for good. The daemon's process with the rights of its unit, a
 * stock QEMU, real taps, real programs; frames go all the time.
 */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import net from 'node:net';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { sleep, waitFor } from '../../src/core/wait.ts';
import type { LinkInfo } from '../../src/wire/schema.ts';
import { compileBpf, findClang, whyNoBpf } from '../support/bpf.ts';
import { packetSource } from '../support/bpf-sources.ts';
import { compiledSupport } from '../support/compiled-support.ts';
import { DaemonHarness } from '../support/daemon-harness.ts';
import type { L1 } from '../support/daemon-harness.ts';
import { whyNoNetwork } from '../support/network.ts';
import { PortRelay } from '../support/port-relay.ts';
import { RealQemu, findQemu } from '../support/real-qemu.ts';
import { TapFrames } from '../support/tap-frames.ts';

const qemu = findQemu();
const clang = findClang();
const why = qemu ? (whyNoBpf(clang) ?? whyNoNetwork()) : 'no QEMU: run the lab once';
const BOOT_A = '0d9c3a52-6e0b-4f0e-8d0f-4d1f6a2b7c33';
const BOOT_B = '1d9c3a52-6e0b-4f0e-8d0f-4d1f6a2b7c33';
const SECTIONS = { xdp: 'xdp', 'tc-ingress': 'tc/ingress', 'tc-egress': 'tc/egress' } as const;
type Hook = keyof typeof SECTIONS;
const DROP: Record<Hook, number> = { xdp: 1, 'tc-ingress': 2, 'tc-egress': 2 };
const NEXT: Record<Hook, number> = { xdp: 2, 'tc-ingress': -1, 'tc-egress': -1 };

describe.skipIf(why !== undefined)(
  `programs on NICs without a daemon${why ? ` (skipped: ${why})` : ''}`,
  () => {
    const bridge = `htw${process.pid}`;
    let h: DaemonHarness;
    let vm: RealQemu;
    let l1: L1;
    let relay: PortRelay;
    let frames: TapFrames | undefined;

    const startQemu = async (): Promise<void> => {
      if (!qemu) return;
      const sockets = [h.at('one.qmp')];
      for (const s of sockets) rmSync(s, { force: true });
      vm = await RealQemu.start(qemu, sockets, [
        // an empty slot is without power then, and lets go without a guest
        ...['-global', 'ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off'],
        ...['-device', 'pcie-root-port,id=hyperturtle-nic0,chassis=1,slot=16'],
      ]);
    };
    const configure = (withoutDaemon?: string): void =>
      h.writeConfig(
        { one: { nics: { networks: ['lan'], ...(withoutDaemon ? { withoutDaemon } : {}) } } },
        { networks: { lan: { bridge, vhost: false } }, metrics: { socket: h.at('metrics') } },
      );
    const attached = (): Promise<unknown> =>
      h.whenVm('one', (v) => v.phase === 'attached' && v.qmp.problem === null);

    beforeAll(() => {
      compiledSupport('daemon-main.ts', 'fake-kernel.ts');
    }, 120_000);
    beforeEach(async () => {
      execFileSync('ip', ['link', 'add', bridge, 'type', 'bridge']);
      execFileSync('sysctl', ['-qw', `net.ipv6.conf.${bridge}.disable_ipv6=1`]);
      h = new DaemonHarness();
      await startQemu();
      relay = await PortRelay.listen(h.at('one.port'), h.at('one.guest'));
    });
    afterEach(async () => {
      frames?.close();
      frames = undefined;
      await vm.end();
      await h.close();
      relay.close();
      execFileSync('ip', ['link', 'del', bridge]);
    });

    const load = async (hook: Hook, answer: number): Promise<void> => {
      if (!clang) return;
      const elf = compileBpf(clang, packetSource(SECTIONS[hook], answer)).toString('base64');
      await l1.peer.request('load', { name: hook, elf }, { timeoutMs: 20_000 });
    };
    const link = async (hook: Hook): Promise<LinkInfo> =>
      (await l1.peer.request('link', { object: hook, hook, target: 'web' })).link;
    const seen = async (hook: Hook): Promise<number> => {
      const key = Buffer.alloc(4).toString('base64');
      const { perCpu = [] } = await l1.peer.request('map.get', { object: hook, map: 'seen', key });
      return perCpu.reduce((n, v) => n + Number(Buffer.from(v, 'base64').readBigUInt64LE()), 0);
    };
    const runs = async (hook: Hook): Promise<number> =>
      (await l1.peer.request('stats', {})).hooks.find((s) => s.hook === hook)?.runs ?? 0;

    /** A daemon, an L1 with a NIC, and programs of these hooks on it that answer so; frames passed before. */
    const begin = async (mode: string | undefined, hooks: readonly Hook[], answers: Record<Hook, number>) => {
      configure(mode);
      await h.startDaemon();
      await attached();
      l1 = await h.agent('one', BOOT_A);
      await l1.peer.request('nic.add', { id: 'web' });
      frames = TapFrames.of(vm.pid, bridge);
      await frames.whenOpen();
      const { sent, ...passed } = await frames.passing();
      expect(sent).toBeGreaterThan(10);
      expect(passed).toEqual({ fromL2: sent, toL2: sent });
      const links: LinkInfo[] = [];
      for (const hook of hooks) {
        await load(hook, answers[hook]);
        links.push(await link(hook));
      }
      return { links, frames };
    };
    const killed = async (): Promise<void> => {
      l1.close();
      await h.endDaemon('SIGKILL');
    };
    /** By the next daemon. */
    const served = async (): Promise<void> => {
      await h.startDaemon();
      await attached();
    };
    /** The next daemon has found the VM; L1 has not spoken yet. */
    const restart = async (signal: NodeJS.Signals): Promise<void> => {
      l1.close();
      await h.endDaemon(signal);
      await sleep(200);
      await served();
      await h.whenVm('one', (v) => v.nics.length === 1);
    };
    /** Files in the daemon's bpffs, but for the arena. */
    const pins = (): string[] => filesIn(h.at('bpf/hyperturtle')).filter((f) => !f.endsWith('/arena'));
    const findings = async (): Promise<string[]> =>
      (await h.admin('admin.doctor', {})).findings
        .filter((f) => f.what.includes('of NIC web'))
        .map((f) => `${f.level} ${f.what}`);
    it.each([
      ['xdp', 'SIGKILL'],
      ['tc-ingress', 'SIGKILL'],
      ['xdp', 'SIGTERM'],
    ] as const)(
      'those of %s and tc-egress drop all frames from before a %s until the next daemon has them, and after',
      async (hook, signal) => {
        const { links, frames } = await begin(undefined, [hook, 'tc-egress'], DROP);
        const hooks = [hook, 'tc-egress'] as const;
        const before = await Promise.all(hooks.map(seen));
        const { sent, ...passed } = await frames.during(() => restart(signal));
        expect(sent).toBeGreaterThan(100);
        expect(passed).toEqual({ fromL2: 0, toL2: 0 });
        l1 = await h.agent('one', BOOT_A);
        expect((await l1.peer.request('list', {})).links).toEqual(links);
        // counters of maps and hooks have gone on, in the very same maps
        for (const [i, h] of hooks.entries()) {
          expect(await seen(h)).toBeGreaterThanOrEqual((before[i] ?? 0) + sent);
          expect(await runs(h)).toBe(await seen(h));
        }
        // what L1 wants is there already
        for (const [i, h] of hooks.entries()) {
          await load(h, DROP[h]);
          const again = { object: h, hook: h, target: 'web' };
          expect(await l1.peer.request('link', again)).toEqual({ link: links[i], existed: true });
        }
        expect(await frames.passing(100)).toMatchObject({ fromL2: 0, toL2: 0 });
        expect(await findings()).toEqual([]);
        // and goes when L1 says so
        for (const { id } of links) await l1.peer.request('unlink', { id });
        const after = await frames.passing(100);
        expect([after.fromL2, after.toL2]).toEqual([after.sent, after.sent]);
        expect(pins()).toEqual([]);
        expect(existsSync(h.at('run/vms/one/programs.json'))).toBe(false);
      },
      120_000,
    );

    it('with drop, programs that let pass are no way through from a kill -9 until the next daemon has them', async () => {
      const { links, frames } = await begin('drop', ['tc-ingress', 'tc-egress'], NEXT);
      expect((await frames.passing(100)).fromL2).toBeGreaterThan(0);
      await killed();
      expect(await frames.passing()).toMatchObject({ fromL2: 0, toL2: 0 });
      await served();
      const { sent, ...passed } = await frames.passing(100);
      expect(passed).toEqual({ fromL2: sent, toL2: sent });
      l1 = await h.agent('one', BOOT_A);
      expect((await l1.peer.request('list', {})).links).toEqual(links);
      // what was dropped in its place counts as its own
      expect(await runs('tc-egress')).toBeGreaterThan(await seen('tc-egress'));
    }, 120_000);

    it('with open, frames pass, and the log, an event, a measurement and doctor say so until L1 has linked it again', async () => {
      const { frames } = await begin('open', ['tc-ingress', 'tc-egress'], DROP);
      expect(pins()).toEqual([]);
      await killed();
      const { sent, ...passed } = await frames.passing();
      expect(passed).toEqual({ fromL2: sent, toL2: sent });
      await served();
      const off = 'is off since the host';
      await waitFor('findings', async () => (await findings()).length === 2 || undefined, {
        timeoutMs: 5000,
      });
      expect(await findings()).toEqual([
        expect.stringMatching(
          `^fail one: host: 'tc-ingress' on tc-ingress of NIC web ${off}.*withoutDaemon is open`,
        ),
        expect.stringMatching(`^fail one: host: 'tc-egress' on tc-egress of NIC web ${off}`),
      ]);
      expect(await h.measured()).toContain('hyperturtle_host_nic_link_left_off{vm="one",hook="tc-egress"} 1');
      await h.logged(/"target":"web","reason":"off since [^}]*"msg":"left off"/);
      // also by a daemon that starts after that one
      await h.endDaemon('SIGKILL');
      await served();
      l1 = await h.agent('one', BOOT_A);
      expect(await findings()).toHaveLength(2);
      for (const hook of ['tc-ingress', 'tc-egress'] as const) {
        await load(hook, DROP[hook]);
        await link(hook);
      }
      expect(await findings()).toEqual([]);
      expect(await frames.passing(100)).toMatchObject({ fromL2: 0, toL2: 0 });
    }, 120_000);

    it.each([
      ['keep', DROP, /'unknown' on tc-ingress of NIC web is held .*runs on until .*not there or not whole/],
      [
        'drop',
        NEXT,
        /'unknown' on tc-ingress of NIC web is off .*frames are dropped there.*not there or not whole/,
      ],
    ] as const)(
      'with %s, a record that is not whole opens nothing: it is told for each NIC and hook, until L1 has something there again',
      async (mode, answers, told) => {
        const { frames } = await begin(mode, ['tc-ingress'], answers);
        l1.close();
        const { fromL2 } = await frames.during(async () => {
          await h.endDaemon('SIGKILL');
          writeFileSync(h.at('run/vms/one/programs.json'), '{"pid":');
          await sleep(100);
        });
        // with drop a program had let frames pass until then
        if (mode === 'keep') expect(fromL2).toBe(0);
        const { fromL2: meanwhile, sent } = await frames.during(async () => {
          await served();
          await h.whenVm('one', (v) => v.nics.length === 1);
        });
        expect(sent).toBeGreaterThan(50);
        expect(meanwhile).toBe(0);
        expect(await findings()).toEqual([expect.stringMatching(told)]);
        await h.logged(/"object":"unknown"[^}]*"target":"web"[^}]*"msg":"left off"/);
        l1 = await h.agent('one', BOOT_A);
        expect((await l1.peer.request('list', {})).links).toEqual([]);
        await load('tc-ingress', NEXT['tc-ingress']);
        await link('tc-ingress');
        expect(await findings()).toEqual([]);
        const after = await frames.passing(100);
        expect(after.fromL2).toBe(after.sent);
        // and nothing of the earlier version is left
        await l1.peer.request('unload', { name: 'tc-ingress', force: true });
        expect(pins()).toEqual([]);
      },
      120_000,
    );

    it('an object that cannot be taken over keeps its hook held as it was, and a NIC that goes ends that', async () => {
      const { frames } = await begin(undefined, ['tc-ingress', 'tc-egress'], DROP);
      await killed();
      const object = readdirSync(h.at('bpf/hyperturtle/one/objects')).sort()[0] ?? '';
      rmSync(h.at(`bpf/hyperturtle/one/objects/${object}`), { recursive: true });
      const { fromL2 } = await frames.during(async () => {
        await served();
        await h.whenVm('one', (v) => v.nics.length === 1);
      });
      expect(fromL2).toBe(0);
      expect(await findings()).toEqual([
        expect.stringMatching(/'tc-ingress' on tc-ingress of NIC web is held as the earlier daemon left it/),
      ]);
      l1 = await h.agent('one', BOOT_A);
      expect((await l1.peer.request('list', {})).links.map((l) => l.hook)).toEqual(['tc-egress']);
      await l1.peer.request('nic.del', { id: 'web' });
      expect([await findings(), pins()]).toEqual([[], []]);
    }, 120_000);

    it('where the record of NICs is lost as well, that is told, and no frame passes before the NIC has gone', async () => {
      const { frames } = await begin(undefined, ['xdp', 'tc-egress'], DROP);
      await killed();
      for (const name of ['programs', 'nics']) writeFileSync(h.at(`run/vms/one/${name}.json`), '{');
      const { fromL2, toL2 } = await frames.during(async () => {
        await served();
      });
      expect([fromL2, toL2]).toEqual([0, 0]);
      expect(await findings()).toEqual([
        expect.stringMatching(/'unknown' on xdp of NIC web is .*its NIC 'web' is not there any more/),
        expect.stringMatching(/'unknown' on tc-egress of NIC web is .*its NIC 'web' is not there any more/),
      ]);
      l1 = await h.agent('one', BOOT_A);
      expect(await l1.peer.request('nic.del', { id: 'web' })).toEqual({ existed: false });
      expect([await findings(), pins()]).toEqual([[], []]);
    }, 120_000);

    it('what L1 has ended does not act again, though the record of it could not be written', async () => {
      const { frames } = await begin(undefined, ['tc-ingress'], NEXT);
      if (!clang) return;
      const before = await seen('tc-ingress');
      const elf = compileBpf(clang, packetSource(SECTIONS['tc-ingress'], DROP['tc-ingress']));
      await l1.peer.request('load', { name: 'dropper', elf: elf.toString('base64') }, { timeoutMs: 20_000 });
      const dropper = { object: 'dropper', hook: 'tc-ingress', target: 'web' };
      const { id } = (await l1.peer.request('link', dropper)).link;
      expect((await frames.passing(50)).fromL2).toBe(0);
      mkdirSync(h.at('run/vms/one/programs.json.new')); // in the way of every new record
      await l1.peer.request('unlink', { id });
      await l1.peer.request('unload', { name: 'dropper', force: false });
      // and a link that the next daemon could not find is not made, nor a new order kept
      await expect(
        l1.peer.request('link', { object: 'tc-ingress', hook: 'tc-ingress', target: 'web', order: 7 }),
      ).rejects.toThrow('the other side failed');
      const version = compileBpf(clang, packetSource(SECTIONS['tc-ingress'], 0)).toString('base64');
      await expect(l1.peer.request('replace', { name: 'tc-ingress', elf: version })).rejects.toThrow();
      await restart('SIGKILL');
      l1 = await h.agent('one', BOOT_A);
      expect(await seen('tc-ingress')).toBeGreaterThanOrEqual(before);
      const { objects, links } = await l1.peer.request('list', {});
      expect([objects.map((o) => o.name), links.map((l) => [l.object, l.order])]).toEqual([
        ['tc-ingress'],
        [['tc-ingress', 100]],
      ]);
      const { fromL2, sent } = await frames.passing(100);
      expect(fromL2).toBe(sent);
      expect(await findings()).toEqual([]);
    }, 120_000);

    it('a VM that the configuration has no more, and whose pins cannot be ended, does not keep the daemon from starting', async () => {
      await begin(undefined, ['xdp'], DROP);
      await killed();
      h.writeConfig({});
      // no directory of pins, but a file: neither to be read nor removed as one
      const nics = h.at('run/vms/gone');
      mkdirSync(nics, { recursive: true });
      writeFileSync(h.at('run/vms/gone/programs.json'), '{');
      mkdirSync(h.at('bpf/hyperturtle/gone'), { recursive: true });
      symlinkSync('/proc/self/mem', h.at('bpf/hyperturtle/gone/nics'));
      await h.startDaemon();
      await h.logged(/programs on NICs of a VM that the configuration has no more/);
      // it answers before it has started
      const started = (): true | undefined => h.log.split('"msg":"started"').length === 3 || undefined;
      await waitFor('the start', started, { timeoutMs: 10_000 });
      expect(pins()).toEqual([h.at('bpf/hyperturtle/gone/nics')]);
    }, 120_000);

    it('of two that were held on a hook the second is told to be off once the first is linked again', async () => {
      await begin(undefined, ['tc-ingress'], NEXT);
      if (!clang) return;
      const elf = compileBpf(clang, packetSource(SECTIONS['tc-ingress'], DROP['tc-ingress']));
      const other = { name: 'other', elf: elf.toString('base64') };
      await l1.peer.request('load', other, { timeoutMs: 20_000 });
      const there = { hook: 'tc-ingress', target: 'web' };
      await l1.peer.request('link', { object: 'other', ...there });
      await killed();
      writeFileSync(h.at('run/vms/one/programs.json'), '{');
      await served();
      const held = expect.stringMatching(/is held as the earlier daemon left it/) as string;
      expect(await findings()).toEqual([held, held]);
      l1 = await h.agent('one', BOOT_A);
      await load('tc-ingress', NEXT['tc-ingress']);
      await link('tc-ingress');
      expect(await findings()).toEqual([expect.stringMatching(/is off .*frames pass without it/)]);
      await l1.peer.request('load', other, { timeoutMs: 20_000 });
      await l1.peer.request('link', { object: 'other', ...there });
      expect(await findings()).toEqual([]);
    }, 120_000);

    it('a NIC that QEMU has not been asked for yet is not taken for none, and keeps its programs', async () => {
      const { frames } = await begin(undefined, ['xdp'], DROP);
      await killed();
      // QEMU serves one at a time
      const somebody = net.connect(h.at('one.qmp'));
      await once(somebody, 'data');
      await h.startDaemon();
      await h.whenVm('one', (v) => v.phase === 'attached');
      l1 = await h.agent('one', BOOT_A);
      await expect(l1.peer.request('nic.del', { id: 'web' })).rejects.toThrow('QEMU has not said yet');
      expect((await frames.passing(100)).fromL2).toBe(0);
      somebody.destroy();
      await h.whenVm('one', (v) => v.nics.length === 1);
      expect((await l1.peer.request('list', {})).links).toHaveLength(1);
      expect(await l1.peer.request('nic.del', { id: 'web' })).toEqual({ existed: true });
      expect(pins()).toEqual([]);
    }, 120_000);

    it('a setting that changes is in force from the next kill -9 on', async () => {
      const { frames } = await begin('open', ['xdp'], DROP);
      configure('keep');
      h.hangUp();
      await waitFor(
        'the new setting',
        () => readFileSync(h.at('run/vms/one/programs.json'), 'utf8').includes('"keep"') || undefined,
        { timeoutMs: 10_000 },
      );
      const { fromL2 } = await frames.during(() => restart('SIGKILL'));
      expect(fromL2).toBe(0);
      configure('open');
      h.hangUp();
      await waitFor('no pins', () => pins().length === 0 || undefined, { timeoutMs: 10_000 });
      await h.endDaemon('SIGKILL');
      expect((await frames.passing(100)).fromL2).toBeGreaterThan(0);
    }, 120_000);

    it('nothing is applied to another VM of the name, nor left of one that ended meanwhile', async () => {
      await begin(undefined, ['xdp', 'tc-egress'], DROP);
      await killed();
      frames?.close();
      frames = undefined;
      await vm.end();
      expect(pins().length).toBeGreaterThan(0);
      await startQemu();
      await served();
      expect(pins()).toEqual([]);
      l1 = await h.agent('one', BOOT_A);
      await l1.peer.request('nic.add', { id: 'web' });
      expect((await l1.peer.request('list', {})).links).toEqual([]);
      frames = TapFrames.of(vm.pid, bridge);
      // the bridge had no port for a while, and sends once the kernel has noticed the new one
      await frames.passing();
      const { sent, ...passed } = await frames.passing();
      expect(passed).toEqual({ fromL2: sent, toL2: sent });
    }, 120_000);

    it('another boot of L1 begins with none, and a VM that the configuration has no more loses them', async () => {
      const { frames } = await begin(undefined, ['tc-ingress', 'tc-egress'], DROP);
      await restart('SIGKILL');
      l1 = await h.agent('one', BOOT_B);
      await h.whenVm('one', (v) => v.nics.length === 0);
      expect([(await l1.peer.request('list', {})).links, pins()]).toEqual([[], []]);
      frames.close();
      await l1.peer.request('nic.add', { id: 'web' });
      await load('xdp', DROP.xdp);
      await link('xdp');
      await killed();
      h.writeConfig({});
      await h.startDaemon();
      expect(pins()).toEqual([]);
      const links = execFileSync('ip', ['-j', '-d', 'link', 'show', 'master', bridge], { encoding: 'utf8' });
      expect(links).not.toContain('"xdp"');
      await h.logged(/the configuration has this VM no more/);
    }, 120_000);

    it('a daemon that is killed at any moment of a change leaves what it has granted, and nothing else', async () => {
      await begin(undefined, ['xdp', 'tc-egress'], NEXT);
      if (!clang) return;
      const versions = [NEXT['tc-ingress'], 0].map((answer) =>
        compileBpf(clang, packetSource(SECTIONS['tc-ingress'], answer)).toString('base64'),
      );
      let version = 0;
      await load('tc-ingress', NEXT['tc-ingress']);
      for (let round = 0; round < 6; round++) {
        let granted: LinkInfo[] = [];
        const changes = (async () => {
          for (;;) {
            granted = (await l1.peer.request('list', {})).links;
            const { id } = await link('tc-ingress');
            await l1.peer.request('link', {
              object: 'tc-ingress',
              hook: 'tc-ingress',
              target: 'web',
              order: 7,
            });
            await l1.peer.request('replace', { name: 'tc-ingress', elf: versions[++version % 2] ?? '' });
            await l1.peer.request('unlink', { id });
          }
        })().catch(() => {});
        await sleep(250 + 87 * round);
        await h.endDaemon('SIGKILL');
        l1.close();
        await changes;
        await served();
        l1 = await h.agent('one', BOOT_A);
        const { links } = await l1.peer.request('list', {});
        // the two that nobody touched are there, and none was left off that L1 had not asked to end
        expect(links.filter((l) => l.hook !== 'tc-ingress')).toEqual(
          granted.filter((l) => l.hook !== 'tc-ingress'),
        );
        expect(links.length).toBeLessThanOrEqual(3);
        expect(await findings(), `round ${round}`).toEqual([]);
        for (const l of links.filter((x) => x.hook === 'tc-ingress'))
          await l1.peer.request('unlink', { id: l.id });
      }
      await l1.peer.request('nic.del', { id: 'web' });
      expect(pins()).toEqual([]);
      expect(readFileSync(h.at('run/vms/one/process.json'), 'utf8')).toContain(String(vm.pid));
    }, 120_000);
  },
);

function filesIn(dir: string): string[] {
  return readdirSync(dir, { withFileTypes: true, recursive: true })
    .filter((e) => !e.isDirectory())
    .map((e) => `${e.parentPath}/${e.name}`);
}
