/**
 * From the network policy in a CNI configuration to a dropped frame, with all parts as they are run: podman, the plugin, the
 * agent, the daemon, stock QEMU's tap, the firewall in this kernel. Made up are only L1's hardware and driver
 * (nic-hardware-main.ts), and the kernel module.
 */
import { execFileSync, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { exec } from '../../src/core/exec.ts';
import { waitFor } from '../../src/core/wait.ts';
import { compileBpfFile, findClang, whyNoBpf } from '../support/bpf.ts';
import { compiledSupport } from '../support/compiled-support.ts';
import { compiledSources } from '../support/compiled.ts';
import { DaemonHarness } from '../support/daemon-harness.ts';
import { busyboxOf } from '../support/deb-tree.ts';
import { whyNoNetwork } from '../support/network.ts';
import { Podman, podmanTree } from '../support/podman.ts';
import { RealQemu, findQemu } from '../support/real-qemu.ts';

const qemu = findQemu();
const clang = findClang();
const tree = whyNoNetwork() ?? podmanTree();
const why = qemu
  ? (whyNoBpf(clang) ?? (typeof tree === 'string' ? tree : undefined))
  : 'no QEMU: run the lab once';
const SLOT = 16;
const HOST = '198.51.100.1';

interface CniAnswer {
  status: number;
  code?: number;
}

describe.skipIf(why !== undefined)(`network policy of a container${why ? ` (skipped: ${why})` : ''}`, () => {
  const bridge = `htp${process.pid}`;
  const ns = `ht-policy-${process.pid}`;
  let h: DaemonHarness;
  let vm: RealQemu;
  let podman: Podman;
  let main: string;
  let config: Record<string, unknown>;
  let said = '';
  const children: ChildProcess[] = [];

  /** Until it says `word`. */
  const start = async (args: string[], word: RegExp, env: NodeJS.ProcessEnv = {}): Promise<void> => {
    const child = spawn(process.execPath, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
    });
    children.push(child);
    let out = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (part: Buffer) => {
        out += part.toString();
        said += part.toString();
      });
    await waitFor(`${args.at(-1)} started`, () => word.test(out) || undefined, { timeoutMs: 20_000 });
  };
  const startProgram = async (file: string, args: string[], ready: () => boolean): Promise<void> => {
    const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    children.push(child);
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (part: Buffer) => (said += part.toString()));
    await waitFor(`${path.basename(file)} ${args[0] ?? ''}`, () => ready() || undefined, {
      timeoutMs: 20_000,
    });
  };
  /** The host (L0) as the container's neighbour. */
  const ip = (...args: string[]): string => execFileSync('ip', args, { encoding: 'utf8' });

  beforeAll(async () => {
    if (!qemu || !clang || typeof tree === 'string') return;
    ip('link', 'add', bridge, 'type', 'bridge');
    ip('address', 'add', `${HOST}/24`, 'dev', bridge);
    ip('link', 'set', bridge, 'up');
    h = new DaemonHarness();
    for (const n of ['firewall', 'rate_limiter'])
      writeFileSync(h.at(`${n}.bpf.o`), compileBpfFile(clang, path.resolve(`c/bpf/net/${n}.bpf.c`)));
    vm = await RealQemu.start(
      qemu,
      [h.at('one.qmp')],
      [
        // an empty slot is without power then, and lets go without a guest
        ...['-global', 'ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off'],
        ...['-device', `pcie-root-port,id=hyperturtle-nic0,chassis=1,slot=${SLOT}`],
      ],
    );
    h.writeConfig({ one: { nics: { networks: ['lan'] } } }, { networks: { lan: { bridge } } });
    // a process of its own: podman is waited for without letting this one go on
    const hardware = compiledSupport('nic-hardware-main.ts', 'port-relay.ts');
    const sockets = [h.at('run/host.sock'), String(SLOT), h.at('one.port'), h.at('one.guest')];
    await start([hardware, bridge, String(vm.pid), h.at('l1-root'), ...sockets], /ready/);
    await h.startDaemon();
    await h.whenVm('one', (v) => v.phase === 'attached' && v.qmp.problem === null);
    main = path.join(compiledSources(), 'cli/main.js');
    writeFileSync(h.at('guest.yaml'), 'pingEveryS: 1\n');
    const agent = ['guest', 'agent', '--config', h.at('guest.yaml'), '--port', h.at('one.guest')];
    await start(
      [main, ...agent, '--socket', h.at('agent.sock'), '--state', h.at('l1'), '--no-module'],
      /agent started/,
    );
    podman = new Podman(tree, path.join(compiledSources(), 'cli/cni-main.js'), {
      HYPERTURTLE_SYSFS_ROOT: h.at('l1-root'),
      HYPERTURTLE_BPF: h.dir,
    });
    config = {
      agentSocket: h.at('agent.sock'),
      stateDir: h.at('cni'),
      ipam: {
        type: 'host-local',
        dataDir: h.at('ipam'),
        ranges: [[{ subnet: '198.51.100.0/24', rangeStart: '198.51.100.16', gateway: HOST }]],
      },
      policy: {
        firewall: {
          default: 'deny',
          rules: ['allow both icmp', 'allow in tcp to any port 80', 'allow out tcp from any port 80 to any'],
        },
        rateLimit: { out: { packetsPerSecond: 1000 } },
      },
    };
    podman.network('web', config);
  }, 120_000);

  afterEach((context) => {
    if (context.task.result?.state === 'fail') console.error(said.slice(-3000), h.log.slice(-3000));
  });

  afterAll(async () => {
    podman?.close();
    for (const child of children) {
      const ended = once(child, 'exit');
      child.kill('SIGKILL');
      await ended;
    }
    await vm?.end();
    await h?.close();
    ip('link', 'del', bridge);
  });

  /** Packets by rule, and by what else was decided. */
  const hits = async (): Promise<Map<string, number>> => {
    const [nic] = (await h.vm('one')).nics;
    const r = await exec(
      process.execPath,
      [main, 'firewall', 'hits', '--nic', nic?.id ?? '', '--json', '--socket', h.at('agent.sock')],
      { timeoutMs: 30_000 },
    );
    const { rules, others } = JSON.parse(r.stdout.toString()) as {
      rules: { rule: string; direction: string; packets: number }[];
      others: { what: string; direction: string; packets: number }[];
    };
    return new Map([
      ...rules.map((x) => [`${x.direction}: ${x.rule}`, x.packets] as const),
      ...others.map((x) => [`${x.direction}: ${x.what}`, x.packets] as const),
    ]);
  };
  /** The host asks the container. */
  const connects = (address: string, port: number): Promise<boolean> =>
    new Promise((resolve) => {
      const socket = net.connect({ host: address, port, timeout: 1500 });
      const end = (answered: boolean) => () => {
        socket.destroy();
        resolve(answered);
      };
      socket.on('connect', end(true)).on('timeout', end(false)).on('error', end(false));
    });

  it('is kept by the firewall in L0 on frames both ways, until the container has gone', async () => {
    const id = podman.start('web');
    const address = /inet (198\.51\.100\.\d+)/.exec(podman.inside(id, 'ip -o addr show eth0').text)?.[1];
    if (address === undefined) throw new Error('the container has no address');
    const listen = [80, 81].map((p) => `nc -l -p ${p} </dev/null >/dev/null 2>&1 &`).join(' ');
    podman.inside(id, listen);

    expect(podman.inside(id, `ping -c 3 -W 2 ${HOST}`).text).toMatch(/[23] packets received/);
    expect(await connects(address, 80)).toBe(true);
    const before = await hits();
    expect(await connects(address, 81)).toBe(false);
    const asked = net.createServer(() => {}).listen(8000, HOST);
    await once(asked, 'listening');
    expect(podman.inside(id, `nc -w 2 ${HOST} 8000 </dev/null`).status).not.toBe(0);
    asked.close();
    const after = await hits();
    const more = (what: string): number => (after.get(what) ?? NaN) - (before.get(what) ?? NaN);
    // each the first segment of a connection, and again
    expect([more('in: default'), more('out: default')].map((n) => n >= 1 && n < 10)).toEqual([true, true]);
    expect(more('in: allow in tcp from any to any port 80')).toBe(0);

    podman.stop(id);
    expect(readdirSync(`/sys/class/net/${bridge}/brif`)).toEqual([]);
    expect((await h.vm('one')).links).toEqual([]);
  });

  /** What a client of CNI 1.1 runs, of which Debian 12 has none. */
  const cni = async (command: string, more: object = {}, ifname = 'eth0'): Promise<CniAnswer> => {
    if (typeof tree === 'string') throw new Error(tree);
    const r = await exec(path.join(podman.dir, 'bin/hyperturtle-cni'), [], {
      env: {
        ...process.env,
        HYPERTURTLE_SYSFS_ROOT: h.at('l1-root'),
        HYPERTURTLE_BPF: h.dir,
        CNI_COMMAND: command,
        CNI_CONTAINERID: 'c1',
        CNI_IFNAME: ifname,
        CNI_NETNS: `/run/netns/${ns}`,
        CNI_PATH: path.join(tree.root, 'usr/lib/cni'),
      },
      input: JSON.stringify({
        cniVersion: '1.1.0',
        name: 'web',
        type: 'hyperturtle-cni',
        ...config,
        ...more,
      }),
      timeoutMs: 60_000,
      okStatus: [0, 1],
    });
    const text = r.stdout.toString();
    return { status: r.status, ...(text === '' ? {} : (JSON.parse(text) as object)) };
  };

  it('is checked, collected and told of to a client of CNI 1.1', async () => {
    ip('netns', 'add', ns);
    try {
      expect(await cni('VERSION')).toMatchObject({ supportedVersions: ['0.4.0', '1.0.0', '1.1.0'] });
      expect((await cni('STATUS')).status).toBe(0);
      const prevResult = await cni('ADD');
      expect(prevResult).toMatchObject({
        status: 0,
        cniVersion: '1.1.0',
        interfaces: [{ name: 'eth0', mtu: 1500 }],
      });
      expect((await cni('CHECK', { prevResult })).status).toBe(0);
      expect((await cni('ADD')).code).toBe(100); // it is there
      expect((await cni('ADD', {}, 'eth1')).code).toBe(101); // the only one
      expect((await cni('STATUS')).code).toBe(50);
      ip('-n', ns, 'link', 'set', 'eth0', 'address', '02:00:00:00:00:77');
      expect((await cni('CHECK', { prevResult })).code).toBe(103);

      const attachment = { containerID: 'c1', ifname: 'eth0' };
      expect((await cni('GC', { 'cni.dev/valid-attachments': [attachment] })).status).toBe(0);
      expect((await h.vm('one')).nics).toHaveLength(1);
      expect((await cni('GC', { 'cni.dev/valid-attachments': [] })).status).toBe(0);
      expect((await h.vm('one')).nics).toEqual([]);
      expect((await h.vm('one')).links).toEqual([]);
      expect((await cni('CHECK', { prevResult })).code).toBe(3);
      expect((await cni('DEL')).status).toBe(0);
    } finally {
      ip('netns', 'del', ns);
    }
  });

  it("gives the container what the host's network answers to the stock plugin `dhcp`", async () => {
    if (typeof tree === 'string') throw new Error(tree);
    const socket = h.at('dhcp.sock');
    writeFileSync(
      h.at('udhcpd.conf'),
      `start 198.51.100.200\nend 198.51.100.203\ninterface ${bridge}\nlease_file ${h.at('leases')}\nopt subnet 255.255.255.0\nopt router ${HOST}\n`,
    );
    writeFileSync(h.at('leases'), '');
    const plugin = path.join(tree.root, 'usr/lib/cni/dhcp');
    await startProgram(plugin, ['daemon', '-socketpath', socket], () => existsSync(socket));
    await startProgram(busyboxOf(tree), ['udhcpd', '-f', h.at('udhcpd.conf')], () => /started/.test(said));
    const own = {
      ipam: { type: 'dhcp', daemonSocketPath: socket },
      policy: { firewall: { default: 'deny', rules: ['allow both icmp', 'allow both udp port 67-68'] } },
    };
    ip('netns', 'add', ns);
    try {
      const added = await cni('ADD', own);
      expect(added).toMatchObject({
        status: 0,
        ips: [{ address: expect.stringMatching(/^198\.51\.100\.20[0-3]\/24$/) as string, gateway: HOST }],
      });
      expect((await cni('CHECK', { ...own, prevResult: added })).status).toBe(0);
      expect(ip('netns', 'exec', ns, busyboxOf(tree), 'ping', '-c', '2', '-W', '2', HOST)).toContain(
        '2 packets received',
      );
      expect((await cni('DEL', own)).status).toBe(0);
      expect(readdirSync(`/sys/class/net/${bridge}/brif`)).toEqual([]);
    } finally {
      ip('netns', 'del', ns);
    }
  });
});
