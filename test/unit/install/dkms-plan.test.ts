/** Modules over an upgrade: what works stays until something else does, and dkms keeps nothing of what has gone. */
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { parseDkmsStatus } from '../../../src/install/dkms.ts';
import type { DkmsEntry } from '../../../src/install/dkms.ts';
import { filesOf } from '../../../src/install/files.ts';
import type { InstallFile } from '../../../src/install/files.ts';
import { planInstall, planUninstall } from '../../../src/install/plan.ts';
import { readRecord, sha256, writeRecord } from '../../../src/install/record.ts';
import { dkmsEntries, runPlan } from '../../../src/install/run.ts';
import type { Plan } from '../../../src/install/steps.ts';
import { FakeDkms } from '../../support/fake-dkms.ts';

const KERNEL = '6.1.0-50-amd64';
const OTHER = '6.1.0-5-amd64';

let dir: string;
let root: string;
let packageRoot: string;
let dkms: FakeDkms;
let warned: string[];
beforeEach(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'ht-install-'));
  [root, packageRoot] = [path.join(dir, 'root'), path.join(dir, 'package')];
  mkdirSync(packageRoot);
  symlinkSync(path.resolve('dist-files'), path.join(packageRoot, 'dist-files'));
  mkdirSync(path.join(packageRoot, 'c/host'), { recursive: true });
  dkms = new FakeDkms(path.join(dir, 'dkms'), root);
  for (const [name, value] of Object.entries(dkms.env)) vi.stubEnv(name, value);
  warned = [];
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(dir, { recursive: true });
});

const machine = async (kernel: string): Promise<Parameters<typeof planInstall>[1]> => ({
  ...{ root, systemd: false, udev: false, kernel },
  dkms: await dkmsEntries(),
});

const status = async (): Promise<string[]> =>
  ((await dkmsEntries()) ?? []).map((e) => `${e.version} ${e.kernel ?? '-'} ${e.state}`);

interface Options {
  kernel?: string;
  modules?: boolean;
  entries?: readonly DkmsEntry[];
}

/** `source`: what the module is made of. */
async function planOf(
  version: string,
  source: string,
  o: Options = {},
): Promise<{ plan: Plan; files: InstallFile[] }> {
  writeFileSync(path.join(packageRoot, 'c/host/main.c'), source);
  const files = await filesOf('host', {
    ...{ packageRoot, version, command: '/opt/ht', texts: new Map() },
    ...{ unitDir: '/etc/systemd/system', udevDir: '/etc/udev/rules.d' },
  });
  const spec = { role: 'host' as const, files, version, modules: o.modules ?? true, others: undefined };
  const before = await readRecord(root, 'host');
  const facts = await machine(o.kernel ?? KERNEL);
  return { files, plan: await planInstall({ ...spec, before }, { ...facts, dkms: o.entries ?? facts.dkms }) };
}

async function install(version: string, source: string, o: Options = {}): Promise<Plan> {
  const { plan, files } = await planOf(version, source, o);
  await runPlan(plan, root, { say: () => {}, warn: (line) => void warned.push(line) });
  const list = files.map((f) => ({ path: f.path, sha256: sha256(f.content), config: f.config }));
  writeRecord(root, 'host', { schema: 1, version, files: list });
  return plan;
}

const sources = (version: string): boolean =>
  existsSync(path.join(root, `usr/src/hyperturtle-${version}/dkms.conf`));

describe('an upgrade', () => {
  it('builds the new version before the earlier one goes, from dkms and then its sources', async () => {
    await install('0.2.0', 'two');
    dkms.asked();
    await install('0.3.0', 'three');
    expect(dkms.asked()).toEqual([
      `install hyperturtle/0.3.0 -k ${KERNEL} --force`,
      'remove hyperturtle/0.2.0 --all',
    ]);
    expect([dkms.installed(KERNEL), await status()]).toEqual(['three', [`0.3.0 ${KERNEL} installed`]]);
    expect([sources('0.2.0'), sources('0.3.0')]).toEqual([false, true]);
    await install('0.3.0', 'three');
    expect(dkms.asked()).toEqual([]);
  });

  it('whose modules do not compile leaves the earlier ones where they were', async () => {
    await install('0.2.0', 'two');
    await expect(install('0.3.0', 'BROKEN')).rejects.toThrow(
      /^dkms did not build the modules for Linux 6\.1\.0-50-amd64; .*\nError! Bad return status$/,
    );
    expect([dkms.installed(KERNEL), await status()]).toEqual(['two', [`0.2.0 ${KERNEL} installed`]]);
    expect([sources('0.2.0'), sources('0.3.0')]).toEqual([true, false]);
    await install('0.3.0', 'three');
    expect(dkms.installed(KERNEL)).toBe('three');
  });

  it('that fails after its modules were built puts the earlier ones back', async () => {
    await install('0.2.0', 'two');
    const record = path.join(root, 'var/lib/hyperturtle/installed-host.json');
    const { plan } = await planOf('0.3.0', 'three');
    const at = plan.steps.findIndex((s) => s.kind === 'run') + 1;
    plan.steps.splice(at, 0, { kind: 'run', argv: ['false'] });
    await expect(runPlan(plan, root, { say: () => {} })).rejects.toThrow(/^false: status 1$/);
    expect([dkms.installed(KERNEL), await status()]).toEqual(['two', [`0.2.0 ${KERNEL} installed`]]);
    expect(existsSync(record)).toBe(true);
  });

  it('with the same modules is one too', async () => {
    await install('0.2.0', 'same');
    await install('0.2.01', 'same');
    expect([dkms.installed(KERNEL), await status()]).toEqual(['same', [`0.2.01 ${KERNEL} installed`]]);
  });

  it('gives the new modules to other kernels that had them, and tells where that fails', async () => {
    await install('0.2.0', 'two', { kernel: OTHER });
    await install('0.2.0', 'two');
    expect(await status()).toEqual([`0.2.0 ${OTHER} installed`, `0.2.0 ${KERNEL} installed`]);
    await install('0.3.0', 'three');
    expect([dkms.installed(OTHER), dkms.installed(KERNEL)]).toEqual(['three', 'three']);
    dkms.failFor(OTHER);
    await install('0.4.0', 'four');
    expect(warned).toHaveLength(1);
    expect(warned[0]).toContain(
      `no modules for Linux ${OTHER}; to try again: dkms install hyperturtle/0.4.0 -k ${OTHER} --force: `,
    );
    expect(await status()).toEqual([`0.4.0 ${KERNEL} installed`]);
  });

  it('without modules leaves those that dkms has, with their sources, and says so', async () => {
    await install('0.2.0', 'two');
    const { left } = await install('0.3.0', 'three', { modules: false });
    expect(left).toEqual([{ path: '/usr/src/hyperturtle-0.2.0', why: 'dkms has modules of it' }]);
    expect([await status(), sources('0.2.0')]).toEqual([[`0.2.0 ${KERNEL} installed`], true]);
  });
});

describe('changed sources of one version', () => {
  it('are built for all kernels that had them', async () => {
    await install('0.2.0', 'two', { kernel: OTHER });
    await install('0.2.0', 'two');
    await install('0.2.0', 'other');
    expect([dkms.installed(OTHER), dkms.installed(KERNEL)]).toEqual(['other', 'other']);
  });

  it('that do not compile leave the modules that worked', async () => {
    await install('0.2.0', 'two');
    await expect(install('0.2.0', 'BROKEN')).rejects.toThrow(/dkms did not build the modules/);
    expect([dkms.installed(KERNEL), await status()]).toEqual(['two', [`0.2.0 ${KERNEL} installed`]]);
    await install('0.2.0', 'two');
    expect(warned).toEqual([]);
  });

  it('where the earlier ones cannot be built again either, tell what is not undone', async () => {
    await install('0.2.0', 'two');
    dkms.failFor(KERNEL);
    await expect(install('0.2.0', 'other')).rejects.toThrow(
      /not all was undone: .*'dkms install hyperturtle\/0\.2\.0 -k 6\.1\.0-50-amd64 --force'/,
    );
    expect(dkms.installed(KERNEL)).toBeUndefined();
  });
});

it('uninstalling takes the version that is recorded out of dkms', async () => {
  await install('0.2.0', 'two');
  const record = await readRecord(root, 'host');
  await runPlan(await planUninstall('host', record!, undefined, await machine(KERNEL)), root, {
    say: () => {},
  });
  expect([await status(), dkms.installed(KERNEL)]).toEqual([[], undefined]);
});

describe('what dkms says of its modules', () => {
  it('is read exactly, as dkms 2 and 3 write it', () => {
    const text = [
      'hyperturtle/0.2.01, 6.12.5, x86_64: installed (Differences between built and installed modules)',
      'hyperturtle, 0.2.0, 6.1.0-5-amd64, x86_64: built',
      'hyperturtle/0.3.0: added',
      'hyperturtle/0.1.0: broken',
      'hyperturtle-other/0.2.0, 6.1, x86_64: installed',
      'hyperturtle/../x: broken',
      '',
    ].join('\n');
    expect(parseDkmsStatus(text)).toEqual([
      { version: '0.2.01', kernel: '6.12.5', state: 'installed' },
      { version: '0.2.0', kernel: '6.1.0-5-amd64', state: 'built' },
      { version: '0.3.0', state: 'added' },
      { version: '0.1.0', state: 'broken' },
    ]);
  });

  it.each([
    ['a kernel whose name begins the same', { version: '0.2.0', kernel: '6.1.0-500-amd64' }],
    ['a version that begins the same', { version: '0.2.01', kernel: KERNEL }],
  ])('of %s is not of this one', async (_, entry) => {
    await install('0.2.0', 'two', { modules: false });
    const { plan } = await planOf('0.2.0', 'two', { entries: [{ ...entry, state: 'installed' }] });
    expect(plan.steps.map((s) => s.kind === 'run' && s.argv.slice(0, 5).join(' '))).toEqual([
      `dkms install hyperturtle/0.2.0 -k ${KERNEL}`,
    ]);
  });
});
