/**
 * The CNI plugin as containerd drives it. Its client takes a container's network away when the namespace has gone: DEL
 * comes without one. L0 is played as in cni-podman.test.ts.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compiledSources } from '../support/compiled.ts';
import { compiledSupport } from '../support/compiled-support.ts';
import { Containerd, containerdTree } from '../support/containerd.ts';
import { whyNoNetwork } from '../support/network.ts';

const tree = whyNoNetwork() ?? containerdTree();
const why = typeof tree === 'string' ? tree : undefined;

describe.skipIf(why !== undefined)(
  `hyperturtle-cni under containerd${why ? ` (skipped: ${why})` : ''}`,
  () => {
    const namespace = `ht-cnid-${process.pid}`;
    let dir: string;
    let agent: ChildProcess;
    let containerd: Containerd;

    beforeAll(async () => {
      if (typeof tree === 'string') return;
      dir = mkdtempSync(path.join(os.tmpdir(), 'ht-cnid-'));
      const at = (name: string): string => path.join(dir, name);
      const main = compiledSupport('cni-agent-main.ts');
      agent = spawn(process.execPath, [main, at('agent.sock'), at('sys-root'), namespace], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      if (agent.stdout) await once(agent.stdout, 'data');
      containerd = await Containerd.start(tree, path.join(compiledSources(), 'cli/cni-main.js'), {
        HYPERTURTLE_SYSFS_ROOT: at('sys-root'),
      });
      containerd.network('direct', {
        agentSocket: at('agent.sock'),
        stateDir: at('state'),
        ipam: {
          type: 'host-local',
          dataDir: at('ipam'),
          ranges: [[{ subnet: '192.0.2.0/24', gateway: '192.0.2.1' }]],
          routes: [{ dst: '0.0.0.0/0' }],
        },
      });
    }, 180_000);
    afterAll(async () => {
      await containerd?.close();
      const ended = once(agent, 'exit');
      agent.kill('SIGTERM');
      await ended;
      rmSync(dir, { recursive: true });
    });

    const left = (): string[] => [
      ...readdirSync(path.join(dir, 'state')).filter((n) => n.endsWith('.json')),
      ...readdirSync(path.join(dir, 'ipam/direct')).filter((n) => /^\d/.test(n)),
      ...(execFileSync('ip', ['-n', namespace, '-o', 'link'], { encoding: 'utf8' }).match(/\bhtpeer\d+/g) ??
        []),
    ];

    it('gives containers a NIC, and takes it back after they and their namespace have ended', () => {
      // more of them than there are NICs: each must have given its own back
      for (let n = 0; n < 3; n++) {
        const r = containerd.run('ip -o addr show eth0; ip route; ping -c 2 -W 2 192.0.2.1');
        expect(r.text).toMatch(/inet 192\.0\.2\.\d+\/24/);
        expect(r.text).toMatch(/default via 192\.0\.2\.1 dev eth0/);
        expect(r.text).toMatch(/[12] packets received/);
        expect(r.status).toBe(0);
        expect(left()).toEqual([]);
      }
    });
  },
);
