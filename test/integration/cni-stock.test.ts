/**
 * The CNI plugin's own process with Debian's stock plugins: what they are given and what they answer, in all versions. No
 * agent and no host: veth pairs, and IPAM by `static`.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CNI_VERSIONS } from '../../src/cni/versions.ts';
import { compiledSources } from '../support/compiled.ts';
import { debTree } from '../support/deb-tree.ts';
import { whyNoNetwork } from '../support/network.ts';

const tree = whyNoNetwork() ?? debTree('cni-plugins', ['containernetworking-plugins']);
const why = typeof tree === 'string' ? tree : undefined;
const MAIN = (): string => path.join(compiledSources(), 'cli/cni-main.js');

interface Answer {
  status: number | null;
  json: Record<string, unknown>;
}

describe.skipIf(why !== undefined)(
  `hyperturtle-cni with stock plugins${why ? ` (skipped: ${why})` : ''}`,
  () => {
    const namespace = `ht-stock-${process.pid}`;
    const bridge = `hts${process.pid}`;
    let dir: string;

    beforeAll(() => {
      dir = mkdtempSync(path.join(os.tmpdir(), 'ht-cni-stock-'));
      execFileSync('ip', ['netns', 'add', namespace]);
    });
    afterAll(() => {
      execFileSync('ip', ['netns', 'del', namespace]);
      spawnSync('ip', ['link', 'del', bridge]);
      rmSync(dir, { recursive: true });
    });

    const call = (command: string, config: object, env: Record<string, string> = {}): Answer => {
      if (typeof tree === 'string') throw new Error(tree);
      const r = spawnSync(process.execPath, [MAIN()], {
        input: JSON.stringify(config),
        encoding: 'utf8',
        timeout: 60_000,
        env: {
          ...process.env,
          CNI_COMMAND: command,
          CNI_CONTAINERID: 'c1',
          CNI_IFNAME: 'eth0',
          CNI_NETNS: `/run/netns/${namespace}`,
          CNI_PATH: path.join(tree.root, 'usr/lib/cni'),
          ...env,
        },
      });
      return {
        status: r.status,
        json: r.stdout === '' ? {} : (JSON.parse(r.stdout) as Record<string, unknown>),
      };
    };
    const config = (cniVersion: string, more: object = {}): object => ({
      cniVersion,
      name: 'stock',
      type: 'hyperturtle-cni',
      mode: 'veth',
      stateDir: path.join(dir, 'state'),
      veth: { bridge },
      ipam: { type: 'static', addresses: [{ address: '192.0.2.5/24', gateway: '192.0.2.1' }] },
      ...more,
    });

    it.each(CNI_VERSIONS)(
      'CHECK of %s takes what ADD answered, and fails when the link is down',
      (version) => {
        const added = call('ADD', config(version));
        expect(added).toMatchObject({ status: 0, json: { cniVersion: version } });
        const withResult = config(version, { prevResult: added.json });
        expect(call('CHECK', withResult)).toEqual({ status: 0, json: {} });
        execFileSync('ip', ['-n', namespace, 'address', 'flush', 'dev', 'eth0']);
        expect(call('CHECK', withResult).status).toBe(1);
        expect(call('DEL', withResult).status).toBe(0);
        expect(spawnSync('ip', ['-n', namespace, 'link', 'show', 'eth0']).status).not.toBe(0);
      },
    );

    it('a veth pair has the MAC that is asked for by CNI_ARGS or args.cni', () => {
      for (const [more, env, mac] of [
        [{}, { CNI_ARGS: 'IgnoreUnknown=1;MAC=02:00:00:00:01:01' }, '02:00:00:00:01:01'],
        [{ args: { cni: { mac: '02:00:00:00:01:02' } } }, {}, '02:00:00:00:01:02'],
        [{ runtimeConfig: { mac: '02:00:00:00:01:03' } }, {}, '02:00:00:00:01:03'],
      ] as const) {
        const added = call('ADD', config('1.0.0', more), { ...env });
        expect(added.json['interfaces']).toContainEqual(expect.objectContaining({ name: 'eth0', mac }));
        expect(call('DEL', config('1.0.0', more), { ...env }).status).toBe(0);
      }
    });

    it('a state directory on a read-only or full file system is error 5, and nothing is made', () => {
      const mount = path.join(dir, 'small');
      mkdirSync(mount);
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=4k,nr_inodes=8', 'tmpfs', mount]);
      try {
        writeFileSync(path.join(mount, 'filler'), Buffer.alloc(4096));
        const stateDir = path.join(mount, 'state');
        expect(call('ADD', config('1.0.0', { stateDir })).json).toMatchObject({
          code: 5,
          msg: expect.stringMatching(new RegExp(`${stateDir}.*no space is left`)) as string,
        });
        execFileSync('mount', ['-o', 'remount,ro', mount]);
        expect(call('ADD', config('1.0.0', { stateDir })).json).toMatchObject({
          code: 5,
          msg: expect.stringMatching(/read-only/) as string,
        });
        expect(spawnSync('ip', ['-n', namespace, 'link', 'show', 'eth0']).status).not.toBe(0);
      } finally {
        execFileSync('umount', [mount]);
      }
    });
  },
);

describe('the plugin process', () => {
  it('waits for a configuration that comes late', async () => {
    const child = spawn(process.execPath, [MAIN()], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, CNI_COMMAND: 'VERSION' },
    });
    const out = text(child.stdout);
    const ended = once(child, 'exit');
    await new Promise((resolve) => setTimeout(resolve, 700));
    child.stdin.write('{"cniVersion"');
    await new Promise((resolve) => setTimeout(resolve, 100));
    child.stdin.end(':"0.4.0"}');
    expect(JSON.parse(await out)).toMatchObject({ cniVersion: '0.4.0' });
    expect(await ended).toEqual([0, null]);
  });

  it('answers with nothing on standard input, and where that is non-blocking and empty at first', () => {
    const answer = (script: string): unknown => {
      const r = spawnSync('bash', ['-c', script, 'sh', process.execPath, MAIN()], {
        encoding: 'utf8',
        timeout: 20_000,
        env: { ...process.env, CNI_COMMAND: 'VERSION' },
      });
      return JSON.parse(r.stdout);
    };
    const all = { cniVersion: '1.1.0', supportedVersions: [...CNI_VERSIONS] };
    expect(answer('"$1" "$2" </dev/null')).toEqual(all);
    const nonBlocking = `perl -MFcntl -e 'pipe(R,W); fcntl(R,F_SETFL,O_NONBLOCK);
      if (!fork) { close R; select undef,undef,undef,0.5; print W "{}"; exit }
      close W; open STDIN,"<&R"; exec @ARGV' "$1" "$2"`;
    expect(answer(nonBlocking)).toEqual(all);
  });

  it('tells an error in the version of the configuration, whatever is wrong, where that is known', () => {
    const answer = (input: string, env: Record<string, string>): Record<string, unknown> => {
      const r = spawnSync(process.execPath, [MAIN()], {
        input,
        encoding: 'utf8',
        timeout: 20_000,
        env: { PATH: process.env['PATH'], ...env },
      });
      expect(r.status).toBe(1);
      return JSON.parse(r.stdout) as Record<string, unknown>;
    };
    const config = (cniVersion: string, more = ''): string =>
      `{"cniVersion": "${cniVersion}", "name": "n", "type": "hyperturtle-cni"${more}}`;
    const add = { CNI_COMMAND: 'ADD', CNI_CONTAINERID: 'c', CNI_IFNAME: 'eth0', CNI_NETNS: '/n' };
    for (const cniVersion of CNI_VERSIONS) {
      expect(answer(config(cniVersion), {})).toMatchObject({ cniVersion, code: 4 });
      expect(answer(config(cniVersion), { ...add, CNI_CONTAINERID: '..' })).toMatchObject({
        cniVersion,
        code: 4,
      });
      expect(answer(config(cniVersion, ', "mode": "x"'), add)).toMatchObject({ cniVersion, code: 7 });
    }
    expect(answer(config('9.0.0'), add)).toMatchObject({ code: 1 });
    expect(answer('{', add)).toMatchObject({ code: 6 });
  });

  it('reads no configuration without an end', () => {
    const r = spawnSync('bash', ['-c', '"$1" "$2" </dev/zero', 'sh', process.execPath, MAIN()], {
      encoding: 'utf8',
      timeout: 20_000,
      env: { ...process.env, CNI_COMMAND: 'ADD' },
    });
    expect(JSON.parse(r.stdout)).toMatchObject({
      code: 5,
      details: expect.stringContaining('at most 4 MiB') as string,
    });
  });

  it('takes a directory for no plugin, and tells what cannot be run', () => {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'ht-cni-plugins-'));
    try {
      mkdirSync(path.join(dir, 'folder'));
      writeFileSync(path.join(dir, 'broken'), '#!/not/there\n', { mode: 0o755 });
      const status = (type: string): unknown => {
        const r = spawnSync(process.execPath, [MAIN()], {
          input: JSON.stringify({ cniVersion: '1.1.0', name: 'n', type: 't', mode: 'veth', ipam: { type } }),
          encoding: 'utf8',
          timeout: 20_000,
          env: { PATH: process.env['PATH'], CNI_COMMAND: 'STATUS', CNI_PATH: dir },
        });
        return JSON.parse(r.stdout);
      };
      expect(status('folder')).toMatchObject({
        code: 7,
        msg: expect.stringContaining("'folder' is in none") as string,
      });
      expect(status('broken')).toMatchObject({ code: 100, msg: expect.stringContaining('broken') as string });
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});
