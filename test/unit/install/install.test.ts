/** Installing into a directory: what is written, that it is done once, and that exactly it is removed again. */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { filesOf } from '../../../src/install/files.ts';
import type { InstallFile, Role } from '../../../src/install/files.ts';
import type { DkmsEntry } from '../../../src/install/dkms.ts';
import { planInstall, planUninstall } from '../../../src/install/plan.ts';
import type { MachineFacts } from '../../../src/install/plan.ts';
import type { InstallRecord } from '../../../src/install/record.ts';
import { sleep } from '../../../src/core/wait.ts';
import { stepText } from '../../../src/install/steps.ts';
import type { Plan } from '../../../src/install/steps.ts';
import { readRecord, sha256, underWay, writeRecord } from '../../../src/install/record.ts';
import { alone, runPlan } from '../../../src/install/run.ts';
import { readAgentConfig } from '../../../src/guest/agent/config.ts';
import { readConfig } from '../../../src/host/config.ts';

const ADDED: DkmsEntry = { version: '1.0.0', state: 'added' };
const BUILT: DkmsEntry = { version: '1.0.0', kernel: '6.1.0-50-amd64', state: 'installed' };
const OTHER: Readonly<Record<Role, Role>> = { host: 'guest', guest: 'host' };

let root: string;
let packageRoot: string;
beforeEach(() => {
  root = mkdtempSync(path.join(os.tmpdir(), 'ht-root-'));
  packageRoot = mkdtempSync(path.join(os.tmpdir(), 'ht-package-'));
  for (const d of ['c', 'dist-files']) symlinkSync(path.resolve(d), path.join(packageRoot, d));
  mkdirSync(path.join(packageRoot, 'dist/bpf'), { recursive: true });
  writeFileSync(path.join(packageRoot, 'dist/bpf/npf.bpf.o'), 'program');
});
afterEach(() => {
  for (const d of [root, packageRoot]) rmSync(d, { recursive: true });
});

const at = (p: string): string => path.join(root, p);
const all = (): string[] =>
  readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((e) => e.isFile())
    .map((e) => path.join(e.parentPath, e.name).slice(root.length))
    .sort();

const machine = (over: Partial<MachineFacts> = {}): MachineFacts => ({
  root,
  systemd: false,
  udev: false,
  dkms: undefined,
  kernel: '6.1.0-50-amd64',
  ...over,
});

/** The package's own files, and a stand-in for the compiled programs. */
function files(role: Role, version: string): Promise<InstallFile[]> {
  return filesOf(role, {
    packageRoot,
    version,
    command: '/opt/node /opt/ht/main.js',
    unitDir: '/etc/systemd/system',
    udevDir: '/etc/udev/rules.d',
    texts: new Map([['/usr/local/share/man/man1/hyperturtle.1', `of ${version}`]]),
  });
}

async function plan(role: Role, version = '1.0.0', facts = machine()): Promise<Plan> {
  const spec = { role, files: await files(role, version), version, modules: true };
  const [before, others] = [await readRecord(root, role), await readRecord(root, OTHER[role])];
  return planInstall({ ...spec, before, others }, facts);
}

async function install(role: Role, version = '1.0.0'): Promise<string[]> {
  const p = await plan(role, version);
  await runPlan(p, root, { say: () => {} });
  const list = (await files(role, version)).map((f) => ({
    path: f.path,
    sha256: sha256(f.content),
    config: f.config,
  }));
  writeRecord(root, role, { schema: 1, version, files: list });
  return p.steps.map(stepText);
}

async function uninstall(role: Role): Promise<Plan> {
  const record = await readRecord(root, role);
  const p = await planUninstall(role, record!, await readRecord(root, OTHER[role]), machine());
  await runPlan(p, root, { say: () => {} });
  rmSync(at(`var/lib/hyperturtle/installed-${role}.json`));
  return p;
}

describe('installing', () => {
  it('writes unit, configuration, udev rule, sources for dkms; the second time there is nothing to do', async () => {
    await install('host');
    for (const f of [
      ...['etc/systemd/system/hyperturtled.service', 'etc/udev/rules.d/60-hyperturtle.rules'],
      ...['usr/src/hyperturtle-1.0.0/dkms.conf', 'usr/src/hyperturtle-1.0.0/host/main.c'],
      ...['usr/src/hyperturtle-1.0.0/include/kmod/compat.h', 'etc/hyperturtle/host.yaml'],
    ])
      expect(existsSync(at(f)), f).toBe(true);
    expect(readFileSync(at('etc/systemd/system/hyperturtled.service'), 'utf8')).toContain(
      'ExecStart=/opt/node /opt/ht/main.js host daemon --config /etc/hyperturtle/host.yaml',
    );
    expect(readFileSync(at('usr/src/hyperturtle-1.0.0/dkms.conf'), 'utf8')).toContain(
      'PACKAGE_VERSION="1.0.0"',
    );
    expect(await install('host')).toEqual([]);
  });

  it('repairs what was changed or given other rights, and leaves a configuration that was edited', async () => {
    await install('host');
    const unit = '/etc/systemd/system/hyperturtled.service';
    writeFileSync(at(unit), 'broken');
    chmodSync(at('/etc/udev/rules.d/60-hyperturtle.rules'), 0o666);
    writeFileSync(at('/etc/hyperturtle/host.yaml'), 'vms: {mine: {qmp: /q}}\n');
    const p = await plan('host');
    expect(p.steps.map(stepText)).toEqual([
      `replace ${unit}`,
      'replace /etc/udev/rules.d/60-hyperturtle.rules',
    ]);
    expect(p.left.map((l) => l.path)).toEqual(['/etc/hyperturtle/host.yaml']);
    await install('host');
    expect(statSync(at('/etc/udev/rules.d/60-hyperturtle.rules')).mode & 0o777).toBe(0o644);
    await uninstall('host');
    expect(all()).toEqual(['/etc/hyperturtle/host.yaml']);
  });

  it('leaves nothing when it is uninstalled, and what the other role needs as long as that is there', async () => {
    await install('host');
    await install('guest');
    expect(readFileSync(at('usr/lib/hyperturtle/npf.bpf.o'), 'utf8')).toBe('program');
    expect((await uninstall('host')).left.map((l) => l.path)).toContain(
      '/usr/src/hyperturtle-1.0.0/dkms.conf',
    );
    expect(all().some((f) => f.includes('hyperturtled.service'))).toBe(false);
    expect(existsSync(at('usr/src/hyperturtle-1.0.0/guest/main.c'))).toBe(true);
    await uninstall('guest');
    expect(all()).toEqual([]);
    expect(existsSync(at('usr/src/hyperturtle-1.0.0'))).toBe(false);
  });

  it('takes the place of an older version, whose sources go', async () => {
    await install('host', '1.0.0');
    await install('host', '1.1.0');
    expect(all().filter((f) => f.includes('hyperturtle-1.0.0'))).toEqual([]);
    expect(readFileSync(at('usr/local/share/man/man1/hyperturtle.1'), 'utf8')).toBe('of 1.1.0');
  });

  it('says how the programs are made when a package has none', async () => {
    rmSync(path.join(packageRoot, 'dist/bpf'), { recursive: true });
    await expect(files('guest', '1.0.0')).rejects.toThrow(/no compiled programs in .*npm run build:bpf/);
  });

  it('undoes what was done when a step fails', async () => {
    const p = await plan('host');
    p.steps.push({ kind: 'run', argv: ['false'] });
    await expect(runPlan(p, root, { say: () => {} })).rejects.toMatchObject({ code: 'HT_COMMAND_FAILED' });
    expect(all()).toEqual([]);
  });

  it('undoes removals with the rights that were there, and what was replaced', async () => {
    await install('host');
    const hook = '/etc/kernel/postinst.d/hyperturtle';
    const rule = '/etc/udev/rules.d/60-hyperturtle.rules';
    writeFileSync(at(rule), 'by hand');
    chmodSync(at(rule), 0o600);
    const steps: Plan['steps'] = [
      { kind: 'remove', path: hook },
      ...(await plan('host')).steps,
      { kind: 'run', argv: ['false'] },
    ];
    await expect(runPlan({ steps, left: [] }, root, { say: () => {} })).rejects.toThrow();
    const mode = (p: string): number => statSync(at(p)).mode & 0o777;
    expect([mode(hook), mode(rule), readFileSync(at(rule), 'utf8')]).toEqual([0o755, 0o600, 'by hand']);
  });

  it('killed at any step is gone on with, or uninstalled, the first one and an upgrade', async () => {
    const recordOf = async (version: string): Promise<InstallRecord> => ({
      ...{ schema: 1, version },
      files: (await files('host', version)).map((f) => ({
        ...{ path: f.path, sha256: sha256(f.content), config: f.config },
      })),
    });
    for (const version of ['1.0.0', '2.0.0']) {
      const steps = (await plan('host', version)).steps.length;
      for (const killed of [0, Math.floor(steps / 2), steps - 1]) {
        if (version === '2.0.0') await install('host', '1.0.0');
        const before = await readRecord(root, 'host');
        writeRecord(root, 'host', underWay(before, await recordOf(version)));
        const p = await plan('host', version);
        await runPlan({ ...p, steps: p.steps.slice(0, killed) }, root, { say: () => {} });
        if (killed > 0) {
          await install('host', version);
          expect(all().filter((f) => f.includes('/usr/src') && !f.includes(version))).toEqual([]);
        }
        await uninstall('host');
        expect(all()).toEqual([]);
      }
    }
  }, 60_000);

  it('has another wait for its turn, and takes that of one that was killed', async () => {
    const order: string[] = [];
    const turn = (name: string): Promise<void> =>
      alone(root, {}, async () => {
        order.push(`${name} begins`);
        await sleep(50);
        order.push(`${name} ends`);
      });
    const lock = at('var/lib/hyperturtle/install.lock');
    mkdirSync(path.dirname(lock), { recursive: true });
    writeFileSync(lock, JSON.stringify({ pid: 0, boot: '', pidNs: '', startTicks: '' }));
    await Promise.all([turn('one'), turn('two')]);
    const [first = ''] = order[0]!.split(' ');
    const second = first === 'one' ? 'two' : 'one';
    expect(order).toEqual([`${first} begins`, `${first} ends`, `${second} begins`, `${second} ends`]);
    expect(all()).toEqual([]);
  });

  it('has dkms build once, and again when the sources changed; the service manager reads changed units', async () => {
    const facts = (added: boolean, built: boolean): MachineFacts =>
      machine({ dkms: [...(added ? [ADDED] : []), ...(built ? [BUILT] : [])], systemd: true, udev: true });
    const runs = async (f: MachineFacts): Promise<string[]> =>
      (await plan('host', '1.0.0', f)).steps.map(stepText).filter((s) => s.startsWith('run'));
    const build = 'run     dkms install hyperturtle/1.0.0 -k 6.1.0-50-amd64';
    const reloads = ['run     udevadm control --reload', 'run     systemctl daemon-reload'];
    expect(await runs(facts(false, false))).toEqual([build, ...reloads]);
    await install('host');
    expect(await runs(facts(true, true))).toEqual([]);
    expect(await runs(facts(true, false))).toEqual([build]);
    // what is built for other kernels is not undone with it
    const undone = async (f: MachineFacts): Promise<(readonly string[])[]> =>
      (await plan('host', '1.0.0', f)).steps.flatMap((s) => (s.kind === 'run' ? (s.undo ?? []) : []));
    const remove = ['dkms', 'remove', 'hyperturtle/1.0.0'];
    expect(await undone(facts(true, false))).toEqual([[...remove, '-k', '6.1.0-50-amd64']]);
    expect(await undone(facts(false, false))).toEqual([[...remove, '--all']]);
    writeFileSync(at('usr/src/hyperturtle-1.0.0/host/main.c'), 'old');
    expect(await runs(facts(true, true))).toEqual(['run     dkms remove hyperturtle/1.0.0 --all', build]);
  });
});

it('the configuration that comes with it is one', () => {
  expect(readConfig('dist-files/etc/host.yaml').vms).toEqual({});
  expect(readAgentConfig('dist-files/etc/guest.yaml', true).links).toEqual([{ object: 'npf', hook: 'npf' }]);
});
