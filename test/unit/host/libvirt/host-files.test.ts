/** What a host's libvirt gets, and that all of it can be taken out again to the byte. */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  hookScript,
  planDisable,
  planEnable,
  userOf,
  withBlock,
  withoutBlock,
} from '../../../../src/host/libvirt/host-files.ts';

const CONFIG = '/etc/hyperturtle/host.yaml';
const QEMU_CONF = '/etc/libvirt/qemu.conf';
const HOOK = '/etc/libvirt/hooks/qemu.d/hyperturtle';
const LOCAL = '/etc/apparmor.d/local/abstractions/libvirt-qemu';
const PROFILE = '/etc/apparmor.d/abstractions/libvirt-qemu';
const OPTIONS = {
  config: CONFIG,
  uri: 'qemu:///system',
  owner: 'libvirt-qemu',
  command: ['/usr/bin/hyperturtle'],
};

/** A machine as files, with what a plan does to it. */
class Machine {
  readonly files = new Map<string, string>();

  constructor(files: Record<string, string>) {
    for (const [file, text] of Object.entries(files)) this.files.set(file, text);
  }

  read = (file: string): string | undefined => this.files.get(file);

  do({ files }: ReturnType<typeof planEnable>): string[] {
    for (const f of files) {
      if (f.text === undefined) this.files.delete(f.path);
      else this.files.set(f.path, f.text);
    }
    return files.map((f) => f.path);
  }
}

const STOCK = {
  [QEMU_CONF]: `# comment\n#user = "libvirt-qemu"\n#cgroup_device_acl = [\n#    "/dev/null", "/dev/special"\n#]\n`,
  [PROFILE]: '  include if exists <local/abstractions/libvirt-qemu>\n',
  [CONFIG]: 'vms: {}\n# the end',
};

describe('enabling a host', () => {
  it('writes the hook script, the devices, the rules of AppArmor and the configuration, once', () => {
    const machine = new Machine(STOCK);
    expect(machine.do(planEnable(machine.read, OPTIONS))).toEqual([HOOK, QEMU_CONF, LOCAL, CONFIG]);
    // what this libvirt allows by itself stays allowed
    expect(machine.read(QEMU_CONF)).toMatch(
      /\ncgroup_device_acl = \[\n {2}"\/dev\/null",\n {2}"\/dev\/special",\n {2}"\/dev\/hyperturtle-arena0",\n/,
    );
    expect(machine.read(LOCAL)).toContain('/dev/hyperturtle-arena[0-9]* rw,');
    expect(machine.read(CONFIG)).toContain("libvirt: {uri: 'qemu:///system', owner: 'libvirt-qemu'}");
    expect(planEnable(machine.read, OPTIONS)).toEqual({ files: [], notes: [] });
  });

  it('is undone to the byte', () => {
    const machine = new Machine(STOCK);
    machine.do(planEnable(machine.read, OPTIONS));
    machine.do(planDisable(machine.read, CONFIG));
    for (const [file, text] of Object.entries(STOCK)) expect(machine.read(file)).toBe(text);
    expect(machine.read(HOOK)).toBeUndefined();
    expect(machine.read(LOCAL)).toBe('');
    expect(planDisable(machine.read, CONFIG).files).toEqual([]);
  });

  it('leaves lists of devices and settings that somebody wrote', () => {
    const machine = new Machine({
      ...STOCK,
      [QEMU_CONF]: 'cgroup_device_acl = [ "/dev/null" ]\n',
      [CONFIG]: 'libvirt: {uri: "qemu:///session"}\n',
      [PROFILE]: 'nothing of it\n',
    });
    const plan = planEnable(machine.read, OPTIONS);
    expect(plan.files.map((f) => f.path)).toEqual([HOOK, LOCAL]);
    expect(plan.notes).toEqual([
      expect.stringMatching(/cgroup_device_acl of yours.*hyperturtle-arena0.*hyperturtle-arena255/),
      expect.stringMatching(/does not include/),
    ]);
  });

  it('has no rules for AppArmor where there is none', () => {
    const machine = new Machine({ [CONFIG]: '' });
    expect(machine.do(planEnable(machine.read, OPTIONS))).toEqual([HOOK, QEMU_CONF, CONFIG]);
    // as libvirt 9.0 has it
    expect(machine.read(QEMU_CONF)).toContain('"/dev/ptmx"');
  });

  it('refuses to guess in a configuration with braces', () => {
    const machine = new Machine({ [CONFIG]: '{"vms": {}}' });
    expect(() => planEnable(machine.read, OPTIONS)).toThrow(/written with braces: add "libvirt"/);
    const done = new Machine({ [CONFIG]: '{"libvirt": {}}' });
    expect(planEnable(done.read, OPTIONS).files.map((f) => f.path)).not.toContain(CONFIG);
  });

  it('knows the user of qemu.conf', () => {
    expect(userOf('#user = "a"\nuser = "qemu"\n')).toBe('qemu');
    expect(userOf('#user = "a"\n')).toBeUndefined();
  });
});

it('a block is put into any text once, and taken out of it to the byte', () => {
  const text = fc.stringMatching(/^(#? ?[a-z= ]{0,9}\n?){0,6}$/);
  fc.assert(
    fc.property(text, (before) => {
      const after = withBlock(before, 'a = 1\nb = 2');
      expect(withBlock(after, 'a = 1\nb = 2')).toBe(after);
      expect(withoutBlock(after)).toBe(before);
      expect(withoutBlock(`${after}more\n`)).toBe(`${before}more\n`);
    }),
  );
});

describe('the hook script', () => {
  const OURS = `<domain><metadata><v xmlns='urn:hyperturtle:vm:1'/></metadata></domain>`;
  /** Runs it with another program, which writes down how it was called. */
  const run = (
    args: string[],
    input: string,
    program = 'echo "$@"; cat; exit 7',
  ): [string, number | null, number] => {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'ht hook-'));
    const at = (name: string): string => path.join(dir, name);
    try {
      writeFileSync(at("it's"), `#!/bin/sh\n(${program}) >> '${at('called')}'\n`);
      chmodSync(at("it's"), 0o755);
      writeFileSync(at('hook'), hookScript([at("it's")]));
      const begun = performance.now();
      const r = spawnSync('sh', [at('hook'), ...args], { input, encoding: 'utf8', timeout: 20_000 });
      expect(r.stdout + r.stderr).toBe('');
      const called = spawnSync('cat', [at('called')], { encoding: 'utf8' }).stdout;
      return [called, r.status, performance.now() - begun];
    } finally {
      rmSync(dir, { recursive: true });
    }
  };

  it('tells of our domains, with their XML, and ends well whatever comes of it', () => {
    expect(run(['one', 'prepare', 'begin', '-'], OURS).slice(0, 2)).toEqual([
      `host libvirt hook prepare\n${OURS}\n`,
      0,
    ]);
  });

  it.each([
    ['domains of others', ['one', 'prepare', 'begin', '-'], '<domain/>'],
    ['a migration, whose XML is its answer', ['one', 'migrate', 'begin', '-'], OURS],
    ['a restore, likewise', ['one', 'restore', 'begin', '-'], OURS],
    ['an operation that is not known yet', ['one', '$(reboot)', 'begin', '-'], OURS],
  ])('starts nothing for %s', (_, args, xml) => {
    expect(run(args, xml).slice(0, 2)).toEqual(['', 0]);
  });

  it('does not wait where libvirt needs no answer', () => {
    const [, status, ms] = run(['one', 'started', 'begin', '-'], OURS, 'exec sleep 15');
    expect(status).toBe(0);
    expect(ms).toBeLessThan(3500);
  });

  it('waits four seconds before a start, not longer', () => {
    const [, status, ms] = run(['one', 'prepare', 'begin', '-'], OURS, 'exec sleep 15');
    expect(status).toBe(0);
    expect(ms).toBeGreaterThan(3500);
    expect(ms).toBeLessThan(12_000);
  });
});
