import { describe, expect, it } from 'vitest';
import { fromEnvironment } from '../../../src/core/patience.ts';
import { debugConfig, missingOptions } from '../../../src/lab/debug-config.ts';
import { RELEASES } from '../../../src/lab/debian.ts';
import { kernelArgs } from '../../../src/lab/init-scripts.ts';
import { checkKernel, parseKernelName, patienceFor } from '../../../src/lab/kernel-name.ts';

describe('the name of a kernel', () => {
  it('is a series, with or without sanitizers', () => {
    expect(parseKernelName('6.12')).toEqual({ series: '6.12' });
    expect(parseKernelName('6.1-debug')).toEqual({ series: '6.1', flavor: 'debug' });
    expect(parseKernelName('6.1-kcsan')).toEqual({ series: '6.1', flavor: 'kcsan' });
    for (const bad of [
      '6',
      '6.1.0',
      '06.1',
      '6.01',
      '06.1-debug',
      'debug',
      '6.1-',
      '6.1-kasan',
      '6.1-debug-debug',
      '6.1; rm',
      '',
    ])
      expect(() => parseKernelName(bad)).toThrow(/expected a series/);
  });

  it('with sanitizers is one of a source that the machine has, or refused with those', () => {
    const [bookworm, trixie] = RELEASES.map((r) => () => r);
    expect(checkKernel('6.12-debug', bookworm)).toEqual({ series: '6.12', flavor: 'debug' });
    expect(checkKernel('7.3-debug', trixie)).toEqual({ series: '7.3', flavor: 'debug' });
    expect(() => checkKernel('7.3-debug', bookworm)).toThrow(
      /^kernel 7\.3-debug: .* Debian, which is 12: 6\.1-debug or 6\.12-debug expected$/,
    );
    expect(() => checkKernel('6.1-kcsan', trixie)).toThrow(/6\.12-kcsan or 7\.3-kcsan expected$/);
    expect(checkKernel('5.10', bookworm)).toEqual({ series: '5.10' }); // apt's lists say
  });

  it('says how long one has to wait', () => {
    expect(patienceFor('6.12')).toBe(1);
    expect(patienceFor('6.12-debug')).toBeGreaterThan(1);
  });
});

describe('the configuration of a kernel with sanitizers', () => {
  it.each(['debug', 'kcsan'] as const)('%s names each option once', (flavor) => {
    const names = debugConfig(flavor).map((l) => l.slice(0, l.indexOf('=')));
    expect(names.filter((n, i) => names.indexOf(n) !== i)).toEqual([]);
    for (const n of names) expect(n).toMatch(/^CONFIG_[A-Z0-9_]+$/);
  });

  it('has KASAN, or KCSAN: no kernel has both', () => {
    expect(debugConfig('debug')).toContain('CONFIG_KASAN=y');
    expect(debugConfig('debug')).toContain('CONFIG_PROVE_LOCKING=y');
    expect(debugConfig('debug').join()).not.toContain('KCSAN');
    expect(debugConfig('kcsan')).toContain('CONFIG_KCSAN=y');
    expect(debugConfig('kcsan').join()).not.toContain('KASAN');
  });

  it('is compared with what came out', () => {
    const wanted = ['CONFIG_KASAN=y', 'CONFIG_KVM=m', 'CONFIG_NR_CPUS=64'];
    expect(missingOptions('CONFIG_KASAN=y\nCONFIG_KVM=m\nCONFIG_NR_CPUS=64\n', wanted)).toEqual([]);
    expect(missingOptions('# CONFIG_KASAN is not set\nCONFIG_KVM=y\nCONFIG_NR_CPUS=640\n', wanted)).toEqual(
      wanted,
    );
  });

  it('has every KASAN report in the log, not only the first', () => {
    expect(kernelArgs(1, 'debug')).toContain('kasan_multi_shot');
    expect(kernelArgs(1, 'debug')).not.toContain('quiet');
    expect(kernelArgs(1)).not.toContain('kasan');
    expect(kernelArgs(1)).toContain('quiet');
  });
});

describe('HYPERTURTLE_PATIENCE', () => {
  it.each([
    ['6', 6],
    ['1', 1],
    ['0', 1],
    ['-3', 1],
    ['1000', 1],
    ['soon', 1],
    [undefined, 1],
  ])('%s is %d', (text, factor) => {
    expect(fromEnvironment(text)).toBe(factor);
  });
});
