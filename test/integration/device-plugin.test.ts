/**
 * The device plugin as kubelet drives it: `hyperturtle kubernetes device-plugin` as a process, at both ends of real sockets
 * with gRPC. Kubelet is played by a client made of the published API, the agent and its NICs by the test.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { sleep, waitFor } from '../../src/core/wait.ts';
import { compiledSources } from '../support/compiled.ts';
import { Checkpoint, FakeKubelet } from '../support/kubelet.ts';
import type { Given } from '../support/kubelet.ts';
import { NicAgent } from '../support/nic-agent.ts';
import { soak } from '../support/scale.ts';

/** Of either side. */
const RESTARTS = soak(8, 100);
const NICS = 4;

describe('the device plugin', () => {
  let main: string;
  let dir: string;
  let agent: NicAgent;
  let kubelet: FakeKubelet;
  let checkpoint: Checkpoint;
  let plugin: ChildProcess | undefined;
  /** All that were started, of which a test that fails may leave some. */
  let started: ChildProcess[] = [];
  let said = '';

  beforeAll(() => {
    main = path.join(compiledSources(), 'cli/main.js');
  }, 300_000);
  beforeEach(async () => {
    dir = mkdtempSync(path.join(os.tmpdir(), 'ht-dp-'));
    agent = new NicAgent(path.join(dir, 'root'), NICS);
    await agent.listen(path.join(dir, 'agent.sock'));
    checkpoint = new Checkpoint();
    kubelet = new FakeKubelet(path.join(dir, 'kubelet'), checkpoint);
    said = '';
  });
  afterEach(async () => {
    plugin = undefined;
    for (const p of started) if (p.exitCode === null) p.kill('SIGKILL');
    started = [];
    kubelet.stop();
    await agent.close();
    rmSync(dir, { recursive: true });
  });

  function start(...more: string[]): void {
    const args = ['--kubelet-dir', path.join(dir, 'kubelet'), '--socket', path.join(dir, 'agent.sock')];
    const now = spawn(
      process.execPath,
      [main, 'kubernetes', 'device-plugin', '--every-s', '1', ...args, ...more],
      {
        env: { ...process.env, HYPERTURTLE_SYSFS_ROOT: path.join(dir, 'root') },
        stdio: ['ignore', 'pipe', 'pipe'],
      },
    );
    for (const out of [now.stdout, now.stderr])
      out.setEncoding('utf8').on('data', (text: string) => (said += text));
    plugin = now;
    started.push(now);
  }
  async function end(signal: NodeJS.Signals): Promise<number | null> {
    const ending = plugin;
    plugin = undefined;
    if (!ending || ending.exitCode !== null) return ending?.exitCode ?? null;
    const ended = once(ending, 'exit') as Promise<[number | null]>;
    ending.kill(signal);
    return (await ended)[0];
  }
  const groups = (given: Given): string[] =>
    given.devices.map((d) => d.host_path).filter((f) => /^\/dev\/vfio\/\d+$/.test(f));
  const until = (what: string, wanted: () => boolean): Promise<true> =>
    waitFor(what, () => (wanted() ? true : undefined), { timeoutMs: 20_000, intervalMs: 20 });
  /** No two pods have the same VFIO group. */
  const allDifferent = (): void => {
    const all = [...checkpoint.has.values()].flatMap((h) => groups(h.given));
    expect(new Set(all).size).toBe(all.length);
  };

  it('registers, lists the NICs with their NUMA nodes, and gives a container their VFIO devices', async () => {
    await kubelet.start();
    start();
    await kubelet.untilHealthy(NICS);
    expect(kubelet.registered[0]).toEqual({
      version: 'v1beta1',
      endpoint: 'hyperturtle-nic.sock',
      resource_name: 'hyperturtle.io/nic',
      options: { pre_start_required: true, get_preferred_allocation_available: true },
    });
    expect(kubelet.devices[1]).toEqual({
      ID: 'k8s-nic-1',
      health: 'Healthy',
      topology: { nodes: [{ ID: 1 }] },
    });
    // both at one node
    const given = await kubelet.admit('pod', 2);
    expect(given).toMatchObject({
      envs: {
        PCIDEVICE_HYPERTURTLE_IO_NIC: '0000:10:00.0,0000:12:00.0',
        HYPERTURTLE_NICS: 'k8s-nic-0,k8s-nic-2',
      },
      devices: ['/dev/vfio/vfio', '/dev/vfio/16', '/dev/vfio/18'].map((file) => ({
        container_path: file,
        host_path: file,
        permissions: 'mrw',
      })),
    });
    await kubelet.admit('other', 2);
    allDifferent();
    await expect(kubelet.admit('third', 1)).rejects.toThrow(/insufficient/);
    await expect(kubelet.call('Allocate', { container_requests: [{ devices_ids: ['no'] }] })).rejects.toThrow(
      "5 NOT_FOUND: there is no NIC 'no'",
    );
    await expect(
      kubelet.call('Allocate', {
        container_requests: [{ devices_ids: ['k8s-nic-0'] }, { devices_ids: ['k8s-nic-0'] }],
      }),
    ).rejects.toThrow(/3 INVALID_ARGUMENT: each NIC once expected/);
    expect(await end('SIGTERM')).toBe(0);
    expect(existsSync(path.join(dir, 'kubelet/hyperturtle-nic.sock'))).toBe(false);
  });

  it('tells kubelet at once what it cannot give any more, and when it can again', async () => {
    await kubelet.start();
    start('--nics', '2');
    await kubelet.untilHealthy(2);
    await kubelet.admit('pod', 1);
    agent.lose('k8s-nic-0', 'machine');
    await kubelet.untilHealthy(1);
    agent.plug(16);
    await kubelet.untilHealthy(2);
    await kubelet.startContainer('pod');
    // the host takes one: it is asked for it again, under its name
    agent.lose('k8s-nic-1', 'host');
    await until('another NIC of that name', () => agent.nics.has('k8s-nic-1'));
    await kubelet.untilHealthy(2);
    expect(kubelet.devices.map((d) => d.ID)).toEqual(['k8s-nic-0', 'k8s-nic-1']);
  }, 90_000);

  it('waits for kubelet and for the agent, and keeps NICs healthy while the agent is away', async () => {
    await agent.close();
    start();
    await until('a complaint', () => said.includes('the host cannot be asked'));
    expect(existsSync(path.join(dir, 'kubelet'))).toBe(false);
    await agent.listen(path.join(dir, 'agent.sock'));
    await until('all NICs', () => agent.nics.size === NICS);
    await kubelet.start();
    await kubelet.untilHealthy(NICS);
    const { lists } = kubelet;
    await agent.close();
    await sleep(2_500);
    expect(kubelet.healthy()).toHaveLength(NICS);
    expect(kubelet.lists).toBe(lists);
    await kubelet.admit('pod', 1);
  }, 90_000);

  it('registers again when kubelet refused it, lost it, or took another in its place', async () => {
    await kubelet.start('not now');
    start();
    await until('the refusal', () => said.includes('not now'));
    kubelet.stop();
    kubelet = new FakeKubelet(path.join(dir, 'kubelet'), checkpoint);
    await kubelet.start();
    await kubelet.untilHealthy(NICS);
    kubelet.hangUp();
    await until('another registration', () => kubelet.registered.length === 2);
    await kubelet.untilHealthy(NICS);
    // a second plugin of the same name keeps off
    const first = plugin;
    const before = said.length;
    start();
    const [status] = (await once(plugin!, 'exit')) as [number];
    expect(status, said.slice(before)).toBe(6);
    expect(said.slice(before)).toMatch(/another device plugin listens there/);
    plugin = first;
    await kubelet.admit('pod', 1);
  }, 90_000);

  it(
    `loses no device and gives none twice over ${RESTARTS} restarts of each side`,
    async () => {
      await kubelet.start();
      start();
      await kubelet.untilHealthy(NICS);
      const all = kubelet.devices.map((d) => d.ID);
      await kubelet.admit('stays', 1);
      const stays = groups(checkpoint.has.get('stays')!.given);
      for (let n = 0; n < RESTARTS; n++) {
        // killed in the midst of whatever it does, every third time gently
        await end(n % 3 === 2 ? 'SIGTERM' : 'SIGKILL');
        await until('kubelet sees it', () => kubelet.healthy().length === 0);
        start();
        await kubelet.untilHealthy(NICS);
        await kubelet.admit(`p${n}`, 1 + (n % 2));
        allDifferent();
        kubelet.stop();
        kubelet = new FakeKubelet(path.join(dir, 'kubelet'), checkpoint);
        await kubelet.start();
        await kubelet.untilHealthy(NICS);
        expect(kubelet.devices.map((d) => d.ID)).toEqual(all);
        await kubelet.startContainer(`p${n}`);
        await kubelet.startContainer('stays');
        await kubelet.admit(`q${n}`, 1);
        allDifferent();
        kubelet.remove(`p${n}`);
        kubelet.remove(`q${n}`);
      }
      expect(groups(checkpoint.has.get('stays')!.given)).toEqual(stays);
      // the host was asked for each NIC once
      expect(agent.added).toBe(NICS);
    },
    RESTARTS * 30_000,
  );
});
