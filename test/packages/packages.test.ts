/**
 * The Debian packages on a machine that has nothing of HyperTurtle: a minimal Debian with systemd as its first process. A command
 * of its own (npm run test:packages), because making that Debian takes minutes and most of a GiB the first time.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { waitFor } from '../../src/core/wait.ts';
import { CleanMachine, makeCleanRoot } from '../support/clean-root.ts';
import { whyNoRoot } from '../support/debian-root.ts';

const why = whyNoRoot();
const MAIN = path.resolve('dist/src/cli/main.js');

describe.skipIf(why !== undefined)(`Debian packages${why ? ` (skipped: ${why})` : ''}`, () => {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'ht-packages-'));
  const at = (name: string): string => path.join(dir, name);
  let machine: CleanMachine;

  const build = (to: string): string[] => {
    execFileSync(process.execPath, [MAIN, 'host', 'packages', to], {
      env: { ...process.env, SOURCE_DATE_EPOCH: '1790000000', DEBEMAIL: 'maintainers@debian.org' },
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    return readdirSync(to).filter((n) => n.endsWith('.deb'));
  };

  beforeAll(async () => {
    build(at('debs'));
    // Debian 12 has no Node.js that is new enough: this machine's stands in for one
    mkdirSync(at('nodejs/DEBIAN'), { recursive: true });
    const control = ['Package: nodejs', `Version: ${process.versions.node}`, 'Architecture: amd64'];
    const more = ['Maintainer: a <a@debian.org>', 'Description: of the machine that runs the test', ''];
    writeFileSync(at('nodejs/DEBIAN/control'), [...control, ...more].join('\n'));
    execFileSync('dpkg-deb', ['--root-owner-group', '--build', at('nodejs'), at('debs/nodejs.deb')]);
    mkdirSync(at('machine'));
    machine = await CleanMachine.boot(makeCleanRoot(), at('machine'), at('debs'));
    machine.must('cp /var/tmp/node /usr/bin/node && dpkg -i /var/tmp/nodejs.deb');
  }, 2_400_000);
  afterAll(async () => {
    await machine?.end();
    rmSync(dir, { recursive: true, force: true });
  });

  it('are the same bytes when they are built again', () => {
    for (const name of build(at('again')))
      expect(readFileSync(at(`again/${name}`)).equals(readFileSync(at(`debs/${name}`))), name).toBe(true);
  });

  it('have nothing that lintian complains about', () => {
    expect(machine.run('lintian --allow-root --tag-display-limit 0 /var/tmp/hyperturtle*.deb').text).toBe('');
  });

  it('install, with both modules built by dkms, programs, manual pages and completion', () => {
    machine.must('apt-get -y install --no-install-recommends /var/tmp/hyperturtle*.deb');
    expect(machine.must('dkms status hyperturtle')).toMatch(/^hyperturtle\/[\d.]+, 6\.1\..*: installed$/m);
    const modules = machine.must('find /lib/modules -name "hyperturtle_*.ko" -printf "%f\\n" | sort');
    expect(modules).toBe('hyperturtle_guest.ko\nhyperturtle_host.ko\n');
    expect(machine.must('hyperturtle --version')).toMatch(/^\d+\.\d+\.\d+\n$/);
    expect(machine.must('hyperturtle check /usr/lib/hyperturtle/npf.bpf.o')).toMatch(/npf/);
    expect(machine.must('man -P cat hyperturtle-map')).toMatch(/hyperturtle map watch/);
    machine.must('bash -n /usr/share/bash-completion/completions/hyperturtle');
    expect(machine.run('systemctl is-enabled hyperturtled hyperturtle-agent').text).toBe(
      'disabled\ndisabled\n',
    );
  });

  it('leave apt whole where a kernel comes for which the modules do not compile, or are not meant', () => {
    const kernel = (release: string, makefile: string): void => {
      const build = `/lib/modules/${release}/build`;
      machine.must(`mkdir -p ${build}/include && printf '${makefile}' > ${build}/Makefile`);
      machine.must(
        `printf 'CONFIG_KVM=m\\nCONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y\\nCONFIG_DEBUG_INFO_BTF=y\\n' > ${build}/.config`,
      );
    };
    kernel('6.11.0-broken', 'all modules clean:\\n\\t@echo "x.c:1: error: no such member"; false\\n');
    kernel('99.1.0-new', 'all:\\n');
    for (const [release, said] of [
      ['6.11.0-broken', /no modules for Linux 6\.11\.0-broken[^]*error: no such member/],
      ['99.1.0-new', /no modules for Linux 99\.1\.0-new[^]*they are for Linux 6\.1 to/],
    ] as const) {
      const hooks = machine.run(`run-parts --exit-on-error --arg=${release} /etc/kernel/postinst.d`);
      expect(hooks.status, hooks.text).toBe(0);
      expect(hooks.text).toMatch(said);
    }
    expect(machine.must('dpkg --audit')).toBe('');
    machine.must('rm -r /lib/modules/6.11.0-broken /lib/modules/99.1.0-new');
  });

  it('have services that start, are reloaded, come back after kill -9, and an upgrade restarts', async () => {
    const started = machine.run('systemctl enable --now hyperturtled hyperturtle-agent');
    expect(started.status, machine.run('journalctl -u hyperturtled -u hyperturtle-agent').text).toBe(0);
    expect(machine.must('systemctl is-active hyperturtled hyperturtle-agent')).toBe('active\nactive\n');
    const property = (name: string): string =>
      machine.must(`systemctl show -p ${name} --value hyperturtled`).trim();
    const until = (what: string, wanted: () => boolean): Promise<true> =>
      waitFor(what, () => (wanted() ? true : undefined), { timeoutMs: 30_000, intervalMs: 300 });
    expect(property('StatusText')).toBe('0 of 0 VMs attached');
    machine.must(
      'echo "vms: {one: {qmp: /run/one.qmp, agent: {hotplug: true}}}" > /etc/hyperturtle/host.yaml',
    );
    machine.must('systemctl reload hyperturtled hyperturtle-agent');
    await until('the VM that was added', () => property('StatusText') === '0 of 1 VMs attached');
    expect(machine.must('hyperturtle host vm list')).toMatch(/^one /m);
    // the agent waits for its port, and says so
    expect(machine.run('hyperturtle status')).toMatchObject({ status: 24 });
    const before = property('MainPID');
    machine.must(`kill -9 ${before}`);
    await until(
      'another daemon',
      () => property('MainPID') !== before && property('ActiveState') === 'active',
    );
    expect(property('NRestarts')).toBe('1');
    const again = property('MainPID');
    machine.must('dpkg -i /var/tmp/hyperturtle_*.deb');
    await until('a daemon of the new package', () => !['0', again].includes(property('MainPID')));
    expect(machine.must('cat /etc/hyperturtle/host.yaml')).toContain('one.qmp');
    expect(machine.run('systemctl --failed --no-legend').text).toBe('');
  });

  it('go without a trace', () => {
    machine.must('apt-get -y purge hyperturtle hyperturtle-dkms');
    expect(machine.run('systemctl is-active hyperturtled hyperturtle-agent').text).toBe(
      'inactive\ninactive\n',
    );
    const left =
      'find / -xdev -name "*hyperturtle*" -not -path "/proc/*" -not -path "/var/tmp/*" -not -path "/var/cache/*"';
    expect(machine.must(left)).toBe('');
    expect(machine.must('dkms status')).toBe('');
  });
});
