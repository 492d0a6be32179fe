/**
 * The CNI plugin as podman drives it, with real containers. L0 is played by the test: it answers nic.add with a veth pair
 * whose one end looks in a made-up sysfs like the NIC's network device; all else is real.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compiledSources } from '../support/compiled.ts';
import { compiledSupport } from '../support/compiled-support.ts';
import { whyNoNetwork } from '../support/network.ts';
import { Podman, podmanTree } from '../support/podman.ts';
import type { ChildProcess } from 'node:child_process';

const tree = whyNoNetwork() ?? podmanTree();
const why = typeof tree === 'string' ? tree : undefined;

describe.skipIf(why !== undefined)(`hyperturtle-cni under podman${why ? ` (skipped: ${why})` : ''}`, () => {
  const namespace = `ht-cni-${process.pid}`;
  let dir: string;
  let podman: Podman;
  let agent: ChildProcess;

  beforeAll(async () => {
    if (typeof tree === 'string') return;
    dir = mkdtempSync(path.join(os.tmpdir(), 'ht-cni-'));
    // a process of its own: podman is waited for without letting this one go on
    const main = compiledSupport('cni-agent-main.ts');
    agent = spawn(
      process.execPath,
      [main, path.join(dir, 'agent.sock'), path.join(dir, 'sys-root'), namespace],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    );
    if (agent.stdout) await once(agent.stdout, 'data');
    podman = new Podman(tree, path.join(compiledSources(), 'cli/cni-main.js'), {
      HYPERTURTLE_SYSFS_ROOT: path.join(dir, 'sys-root'),
    });
    const common = { agentSocket: path.join(dir, 'agent.sock'), stateDir: path.join(dir, 'state') };
    const ipam = {
      type: 'host-local',
      dataDir: path.join(dir, 'ipam'),
      ranges: [
        [{ subnet: '192.0.2.0/24', gateway: '192.0.2.1' }],
        [{ subnet: '2001:db8::/64', gateway: '2001:db8::1' }],
      ],
      routes: [{ dst: '0.0.0.0/0' }],
    };
    podman.network('direct', { ...common, ipam });
    podman.network('older', { ...common, ipam }, '0.4.0');
    podman.network('fallback', { ...common, ipam, fallback: 'veth', veth: { bridge: `htc${process.pid}` } });
  });
  afterAll(async () => {
    podman.close();
    const ended = once(agent, 'exit');
    agent.kill('SIGTERM');
    await ended;
    spawnSync('ip', ['link', 'del', `htc${process.pid}`]);
    rmSync(dir, { recursive: true });
  });

  const left = (): string[] => readdirSync(path.join(dir, 'state')).filter((n) => n.endsWith('.json'));
  const hostEnds = (): string[] =>
    execFileSync('ip', ['-n', namespace, '-o', 'link'], { encoding: 'utf8' }).match(/\bhtpeer\d+/g) ?? [];
  const leases = (network: string): string[] =>
    readdirSync(path.join(dir, 'ipam', network)).filter((n) => /^\d/.test(n));

  it.each(['direct', 'older'])(
    'gives a container the NIC with addresses of IPAM, and takes all back (%s)',
    (network) => {
      const id = podman.start(network);
      const r = podman.inside(id, 'ip -o addr show eth0; ip route; ping -c 3 -W 2 192.0.2.1');
      expect(r.text).toMatch(/inet 192\.0\.2\.\d+\/24/);
      expect(r.text).toMatch(/inet6 2001:db8::\w+\/64/);
      expect(r.text).toMatch(/default via 192\.0\.2\.1 dev eth0/);
      expect(r.text).toMatch(/[1-3] packets received/);
      podman.stop(id);
      expect(left()).toEqual([]);
      expect(hostEnds()).toEqual([]);
      expect(leases(network)).toEqual([]);
    },
  );

  it('two containers have two NICs; when the host has no more the third fails clearly, or gets a veth pair', () => {
    const [one, two] = [podman.start('direct'), podman.start('direct')];
    expect(hostEnds()).toHaveLength(2);
    expect(() => podman.start('direct')).toThrow(/quota exceeded: nics \(2 of 2 used\)/);
    const veth = podman.start('fallback');
    expect(podman.inside(veth, 'ip -o addr show eth0').text).toMatch(/inet 192\.0\.2\.\d+\/24/);
    expect(left()).toHaveLength(3);
    for (const id of [one, two, veth]) podman.stop(id);
    expect(left()).toEqual([]);
    expect(hostEnds()).toEqual([]);
  });
});
