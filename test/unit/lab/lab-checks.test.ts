import { describe, expect, it, vi } from 'vitest';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { consoleTail } from '../../../src/lab/boot.ts';
import { labUp } from '../../../src/lab/lab.ts';
import { checkKvm, checkShape, clockOf, needMemory } from '../../../src/lab/lab-checks.ts';
import { parsePlace } from '../../../src/lab/lab-copy.ts';

describe('needMemory', () => {
  it('says how much is needed, how much there is, and what to do', async () => {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'ht-mem-'));
    const meminfo = path.join(dir, 'meminfo');
    try {
      writeFileSync(meminfo, 'MemTotal: 4000000 kB\nMemAvailable:    1048576 kB\n');
      await expect(needMemory(3072, meminfo)).rejects.toMatchObject({
        code: 'HT_NO_MEMORY',
        message:
          '2748 MiB of memory needed for the lab, 1024 MiB available: end other programs or labs, or make L1 smaller with --l1-memory',
      });
      writeFileSync(meminfo, 'MemTotal: 4000000 kB\nMemAvailable:    3000000 kB\n');
      await needMemory(3072, meminfo);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});

describe('what cannot work on this machine', () => {
  it('is refused before anything is prepared or written', async () => {
    const state = mkdtempSync(path.join(os.tmpdir(), 'ht-state-'));
    vi.stubEnv('XDG_STATE_HOME', state);
    try {
      let prepared = 0;
      const prepare = (): never => {
        prepared++;
        throw new Error('prepared');
      };
      await expect(labUp({ kernel: '1.0-debug' }, prepare)).rejects.toMatchObject({ code: 'HT_UNSUPPORTED' });
      await expect(labUp({ kernel: '06.1' }, prepare)).rejects.toMatchObject({ code: 'HT_USAGE' });
      const hasKvm = await checkKvm().then(
        () => true,
        () => false,
      );
      if (!hasKvm)
        await expect(labUp({ accel: 'kvm' }, prepare)).rejects.toThrow(/^--accel kvm: .*; use --accel tcg$/);
      expect([prepared, readdirSync(state)]).toEqual([0, []]);
    } finally {
      vi.unstubAllEnvs();
      rmSync(state, { recursive: true });
    }
  });

  it('of KVM: its device, a driver behind it, and nesting', async () => {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'ht-kvm-'));
    const [device, parameters] = [path.join(dir, 'kvm'), path.join(dir, 'kvm_amd/parameters')];
    try {
      await expect(checkKvm(device, dir)).rejects.toThrow(`there is no ${device}; use --accel tcg`);
      mkdirSync(device);
      await expect(checkKvm(device, dir)).rejects.toThrow(`${device} can't be opened (EISDIR)`);
      rmSync(device, { recursive: true });
      writeFileSync(device, '');
      await expect(checkKvm(device, dir)).rejects.toThrow('neither kvm_amd nor kvm_intel');
      mkdirSync(parameters, { recursive: true });
      writeFileSync(path.join(parameters, 'nested'), '0\n');
      await expect(checkKvm(device, dir)).rejects.toThrow('load kvm_amd with nested=1');
      writeFileSync(path.join(parameters, 'nested'), '1\n');
      await checkKvm(device, dir);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});

describe('checkShape', () => {
  it('takes whole numbers within bounds only', () => {
    checkShape({ cpus: 1, memMib: 512 });
    expect(() => checkShape({ cpus: 0, memMib: 2048 })).toThrow(
      'L1 CPUs 0: a whole number from 1 to 8 expected',
    );
    expect(() => checkShape({ cpus: 1, memMib: 100 })).toThrow('L1 memory (MiB) 100');
    expect(() => checkShape({ cpus: 1.5, memMib: 2048 })).toThrow('L1 CPUs 1.5');
  });
});

describe('consoleTail', () => {
  it('is the last lines without control sequences', () => {
    expect(consoleTail('a\r\n\x1b[31mb\x1b[0m\r\nc\n', 2)).toBe('b\nc');
  });

  it('shows of a panic what came before it, not its call trace', () => {
    const log = [
      ...['1', '2', 'init: no disk', 'Kernel panic - not syncing', 'CPU: 0'],
      ...Array<string>(50).fill(' trace'),
    ].join('\n');
    expect(consoleTail(log, 5)).toBe('2\ninit: no disk\nKernel panic - not syncing\nCPU: 0\n trace');
  });
});

describe('parsePlace', () => {
  it('tells the host from the levels', () => {
    expect(parsePlace('./x:y')).toEqual({ level: undefined, path: './x:y' });
    expect(parsePlace('l0:/a b')).toEqual({ level: 0, path: '/a b' });
    expect(parsePlace('l1:/root/x')).toEqual({ level: 1, path: '/root/x' });
  });

  it('refuses relative paths in the lab and levels that have no files', () => {
    expect(() => parsePlace('l1:x')).toThrow("'l1:x': an absolute path expected after l1:");
    expect(() => parsePlace('l2:/x')).toThrow('l0: and l1: only');
  });
});

describe('clockOf', () => {
  it('is real unless asked, where an emulator has both', () => {
    expect([clockOf('tcg', undefined), clockOf('tcg', 'instructions')]).toEqual(['real', 'instructions']);
  });

  it('is the only one that Bochs and KVM have, and says so when another is asked for', () => {
    expect([clockOf('bochs', undefined), clockOf('kvm', 'real')]).toEqual(['instructions', 'real']);
    expect(() => clockOf('bochs', 'real')).toThrow(
      '--clock real: a lab on Bochs has instructions alone; leave it out',
    );
    expect(() => clockOf('kvm', 'instructions')).toThrow(
      '--clock instructions: a lab on KVM has real alone; leave it out',
    );
  });
});
