/** The daemon towards systemd and its operator: what it tells, what it refuses to start with, what it leaves behind. */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { waitFor } from '../../src/core/wait.ts';
import { whyNoMaps } from '../support/bpf.ts';
import { compiledSources } from '../support/compiled.ts';
import { DaemonHarness } from '../support/daemon-harness.ts';
import { DatagramSocket } from '../support/datagrams.ts';

const why = whyNoMaps();

describe.skipIf(why !== undefined)(`daemon as a service${why ? ` (skipped: ${why})` : ''}`, () => {
  let h: DaemonHarness;
  beforeEach(() => {
    h = new DaemonHarness();
  });
  afterEach(async () => {
    await h.close();
  });
  const cli = (...args: string[]): { status: number | null; stdout: string; stderr: string } =>
    spawnSync(process.execPath, [path.join(compiledSources(), 'cli/main.js'), ...args], {
      encoding: 'utf8',
      env: { ...process.env, HYPERTURTLE_HOST_SOCKET: h.at('run/host.sock') },
    });

  it('tells systemd when it is ready, alive, reloading and stopping', async () => {
    using socket = new DatagramSocket(h.at('notify'));
    const told: string[] = [];
    const whenTold = (text: string): Promise<true> =>
      waitFor(
        text,
        () => {
          told.push(...socket.read());
          return told.some((t) => t.split('\n').includes(text)) ? true : undefined;
        },
        { timeoutMs: 10_000 },
      );
    h.writeConfig({});
    await h.startDaemon({ NOTIFY_SOCKET: h.at('notify'), WATCHDOG_USEC: '200000' });
    await whenTold('READY=1');
    expect(told[0]).toBe('READY=1\nSTATUS=0 of 0 VMs attached');
    await whenTold('WATCHDOG=1');
    told.length = 0;
    h.hangUp();
    await whenTold('RELOADING=1');
    await whenTold('READY=1');
    expect(await h.endDaemon('SIGTERM')).toBe(0);
    await whenTold('STOPPING=1');
  });

  it('does not start with a wrong configuration, and says where it is wrong', async () => {
    writeFileSync(h.config, 'vms:\n  one:\n    qmp: relative.sock\n');
    await expect(h.startDaemon()).rejects.toThrow(/host\.yaml:3:5: vms\.one\.qmp: an absolute path expected/);
    expect(existsSync(h.at('run/host.sock'))).toBe(false);
  });

  it('does not start with a key that is none', async () => {
    writeFileSync(h.at('team.pub'), 'not a key');
    h.writeConfig({ one: { signature: 'required', keys: [h.at('team.pub')] } });
    await expect(h.startDaemon()).rejects.toThrow(/team\.pub: an Ed25519 public key in PEM expected/);
  });

  it('waits for what is not there yet: the bpffs, the VM', async () => {
    h.writeConfig({ one: {} }, { bpffs: h.at('elsewhere') });
    await h.startDaemon();
    await h.whenVm('one', (v) => v.phase === 'starting' && /is no bpffs/.test(v.problem ?? ''));
    expect(cli('host', 'health').status).toBe(0);
    expect(cli('host', 'status').stdout).toMatch(/one +starting/);
    const all = cli('host', 'status', '--all', '--json');
    expect([all.status, all.stderr, all.stdout.trim().split('\n').length]).toEqual([0, '', 1]);
    expect(JSON.parse(all.stdout)).toMatchObject({
      format: 1,
      host: { kernel: os.release() },
      daemon: { vms: 1, attached: 0 },
      health: { healthy: true },
      vms: [{ name: 'one', phase: 'starting', detail: { objects: [], signature: 'none' } }],
    });
    expect(JSON.stringify(JSON.parse(all.stdout))).toContain('is no bpffs');
    expect(cli('host', 'status', '--all')).toMatchObject({ status: 2 });
  });

  it('leaves no pin, socket, link or device of VMs that do not run', async () => {
    h.writeConfig({ one: {}, 'two.a': {} });
    await h.startDaemon();
    await h.whenVm('two.a', (v) => v.phase === 'waiting');
    await h.whenVm('one', (v) => v.phase === 'waiting');
    expect(readdirSync(path.join(h.bpffs, 'hyperturtle')).sort()).toEqual(['one', 'two,a']);
    expect(await h.endDaemon('SIGTERM')).toBe(0);
    expect(readdirSync(path.join(h.bpffs, 'hyperturtle'))).toEqual([]);
    expect(readdirSync(h.at('kernel'))).toEqual(['kernel.jsonl']);
    expect(existsSync(h.at('run/host.sock'))).toBe(false);
    expect(existsSync(h.at('run/vms/one/arena'))).toBe(false);
  });

  it('is driven from the command line', async () => {
    h.writeConfig({});
    expect(cli('host', 'status')).toMatchObject({ status: 24 });
    // what ails a host is asked most when the daemon does not start
    const doctor = cli('host', 'doctor', '--json');
    expect([doctor.status, doctor.stderr]).toEqual([1, '']);
    expect(doctor.stdout).toMatch(
      /the daemon does not answer: no daemon at .*hyperturtle_host\.ko|hyperturtle_host\.ko.*the daemon does not answer/,
    );
    await h.startDaemon();
    const { qmp, agent } = h.sockets('box');
    const added = cli('host', 'vm', 'add', 'box', '--qmp', qmp, '--agent', agent.socket, '--arena-mib', '1');
    expect(added).toMatchObject({ status: 0, stdout: 'box: added\n' });
    expect(cli('host', 'vm', 'add', 'box', '--qmp', qmp)).toMatchObject({ status: 22 });
    await h.startVm('box');
    await h.whenVm('box', (v) => v.phase === 'attached');
    expect(cli('host', 'vm', 'list').stdout).toMatch(/^box +attached/m);
    expect(cli('host', 'args', 'box').stdout).toContain('org.hyperturtle.v1');
    expect(cli('host', 'args', 'box', '--libvirt').stdout).toContain("<target type='virtio'");
    expect(cli('host', 'args', 'nobody')).toMatchObject({ status: 3 });
    expect(cli('host', 'reload').stdout).toBe('nothing differs\n');
    expect(cli('host', 'daemon', '--check', '--config', h.config).stdout).toContain('OK, 0 VMs');
    expect(cli('host', 'vm', 'remove', 'box')).toMatchObject({ status: 0 });
    expect(readdirSync(path.join(h.bpffs, 'hyperturtle'))).toEqual([]);
  });
});
