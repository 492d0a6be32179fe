/** What `hyperturtle config` prints, before those who read it: containerd, libvirt's schema, a stock QEMU, CNI clients. */
// cspell:ignore flie
import { spawn, spawnSync } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, it, test } from 'vitest';
import { parseRequest } from '../../src/cni/config.ts';
import { CONSUMERS, CONSUMER_DEFAULTS } from '../../src/guest/consumers.ts';
import type { Consumer } from '../../src/guest/consumers.ts';
import { compiledSources } from '../support/compiled.ts';
import { containerdTree } from '../support/containerd.ts';
import { libvirtSchemas } from '../support/libvirt-schemas.ts';

const of = (kind: Consumer): string => CONSUMERS[kind].text(CONSUMER_DEFAULTS);

const containerd = containerdTree();
describe.skipIf(typeof containerd === 'string')('for containerd', () => {
  const dump = (text: string): { status: number | null; out: string } => {
    if (typeof containerd === 'string') throw new Error(containerd);
    const dir = mkdtempSync(path.join(os.tmpdir(), 'ht-consumers-'));
    try {
      writeFileSync(path.join(dir, 'config.toml'), text);
      const r = spawnSync(
        path.join(containerd.root, 'usr/bin/containerd'),
        ['-c', path.join(dir, 'config.toml'), 'config', 'dump'],
        { env: containerd.env, encoding: 'utf8', timeout: 60_000 },
      );
      return { status: r.status, out: r.stdout + r.stderr };
    } finally {
      rmSync(dir, { recursive: true });
    }
  };
  it('is read by it as the runtime that is meant', () => {
    const { status, out } = dump(of('containerd'));
    expect(status).toBe(0);
    const section = out.slice(out.indexOf('runtimes.hyperturtle]'), out.indexOf('runtimes.runc]'));
    expect(section).toContain('runtime_type = "io.containerd.kata.v2"');
    expect(section).toContain('ConfigPath = "/etc/kata-containers/hyperturtle-qemu/configuration.toml"');
    expect(dump(of('containerd').replace('version = 2', 'version = two')).status).not.toBe(0);
  });
});

const schemas = libvirtSchemas();
describe.skipIf(typeof schemas === 'string')('for libvirt', () => {
  const valid = (xml: string): boolean => {
    if (typeof schemas === 'string') throw new Error(schemas);
    const schema = path.join(schemas.root, 'usr/share/libvirt/schemas/domain.rng');
    const r = spawnSync(
      path.join(schemas.root, 'usr/bin/xmllint'),
      ['--nonet', '--noout', '--relaxng', schema, '-'],
      { input: xml, env: schemas.env, encoding: 'utf8', timeout: 20_000 },
    );
    return r.status === 0;
  };
  it("is a domain by libvirt's schema", () => {
    expect(valid(of('libvirt'))).toBe(true);
    expect(valid(of('libvirt').replace("type='file'", "type='flie'"))).toBe(false);
  });
});

test('the CNI network list is what the plugin takes', () => {
  const list = JSON.parse(of('cni')) as { cniVersion: string; name: string; plugins: object[] };
  const given = JSON.stringify({ ...list.plugins[0], cniVersion: list.cniVersion, name: list.name });
  const env = {
    CNI_COMMAND: 'DEL',
    CNI_CONTAINERID: 'c1',
    CNI_IFNAME: 'eth0',
    CNI_NETNS: '',
    CNI_PATH: '/x',
  };
  expect(parseRequest(env, given).config).toMatchObject({ mode: 'direct', device: 'netdev' });
});

describe.each(['dash', 'bash'])('the script for cloud-hypervisor, run by %s', (shell) => {
  let dir: string;
  let started: ChildProcess | undefined;
  beforeEach(() => {
    dir = mkdtempSync(path.join(os.tmpdir(), 'ht-consumers-'));
    mkdirSync(path.join(dir, 'ram'));
  });
  afterEach(() => {
    if (started?.exitCode === null && started.signalCode === null) started.kill('SIGKILL');
    rmSync(dir, { recursive: true });
  });

  /** With a stand-in for the program that says how large the file is that it was given, and then does as told. */
  function start(then: string): ChildProcess {
    writeFileSync(
      path.join(dir, 'cloud-hypervisor'),
      `#!/bin/sh\nfor a; do case $a in id=ram,*) f=\${a#*file=}; f=\${f%%,*};; esac; done\nstat -Lc %s "$f"\n${then}\n`,
      { mode: 0o755 },
    );
    const spec = { ...CONSUMER_DEFAULTS, ramDir: path.join(dir, 'ram'), name: 'vm1' };
    const script = path.join(dir, 'script');
    writeFileSync(script, CONSUMERS['cloud-hypervisor'].text(spec));
    started = spawn(shell, [script], {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true, // a process group of its own, as a terminal's foreground one
      env: { ...process.env, PATH: `${dir}:${process.env['PATH'] ?? ''}` },
    });
    return started;
  }

  const left = (): string[] => readdirSync(path.join(dir, 'ram'));

  it('gives it RAM of the size, and keeps its status', async () => {
    const child = start('exit 7');
    const closed = once(child, 'close') as Promise<[number]>;
    const [said, [status]] = await Promise.all([text(child.stdout!), closed]);
    expect([status, said]).toEqual([7, '2147483648\n']);
    expect(left()).toEqual([]);
  });

  it.each([
    ['SIGINT', 'its process'],
    ['SIGTERM', 'its process'],
    ['SIGHUP', 'its process'],
    ['SIGKILL', 'its process'],
    ['SIGINT', 'the foreground group, as by Ctrl-C'],
    ['SIGHUP', 'the foreground group, as by a terminal that is closed'],
  ] as const)('leaves nothing after %s to %s', async (signal, to) => {
    const child = start('exec sleep 60');
    await once(child.stdout!, 'data'); // it runs
    process.kill(to === 'its process' ? child.pid! : -child.pid!, signal);
    const [, ended] = (await once(child, 'close')) as [null, string];
    expect([ended, left()]).toEqual([signal, []]);
  });

  it('can be running more than once under one name', async () => {
    const one = start('exec sleep 60');
    await once(one.stdout!, 'data');
    const two = start('exec sleep 60');
    await once(two.stdout!, 'data');
    const ram = (pid: number): number => statSync(`/proc/${pid}/fd/3`).ino;
    expect(ram(one.pid!)).not.toBe(ram(two.pid!));
    one.kill();
    await once(one, 'close');
  });
});

test('a network of IPv6 has a default route of IPv6', () => {
  expect(CONSUMERS.cni.text({ ...CONSUMER_DEFAULTS, subnet: '2001:db8::/64' })).toContain('"::/0"');
});

test('every kind is printed by the command, and nothing that would mean something else in a file is taken', () => {
  const run = (...args: string[]) =>
    spawnSync(process.execPath, [path.join(compiledSources(), 'cli/main.js'), 'config', ...args], {
      encoding: 'utf8',
    });
  expect(run('qemu', '--mem-mib', '512', '--ram-dir', '/ram').stdout).toContain(
    'memory-backend-file,id=ram,size=512M,mem-path=/ram,share=on',
  );
  expect(run('qemu').stdout).toContain('-machine q35,hpet=off,');
  expect(run('libvirt').stdout).toContain("<timer name='hpet' present='no'/>");
  const bad = run('libvirt', '--name', "a'/><x");
  expect([bad.status, bad.stderr]).toEqual([2, expect.stringContaining('lower-case letters')]);
  for (const [option, value] of [
    ...[...['10.1.0.5/24', '10.1.0.0/31', '224.0.0.0/24', '::ffff:10.0.0.0/120']].map((s) => ['--subnet', s]),
    ...['a-', '-a', '1a'].map((s) => ['--name', s]),
  ] as [string, string][]) {
    const r = run('cni', `${option}=${value}`);
    expect([r.status, r.stdout, r.stderr], value).toEqual([
      2,
      '',
      expect.stringContaining(`${option} '${value}'`),
    ]);
  }
  for (const kind of Object.keys(CONSUMERS) as Consumer[])
    expect(of(kind), kind).not.toMatch(/undefined|\[object/);
});
