import { describe, expect, test } from 'vitest';
import { parseHashes, parseUris } from '../../../src/lab/debs.ts';
import { checkSeries } from '../../../src/lab/kernel-name.ts';
import { cloudKernels, isQemuVersion, noKernel, pickKernel } from '../../../src/lab/packages.ts';

const pair = (version: string): string[] => [`linux-image-${version}`, `linux-headers-${version}`];

describe('the kernel of a series', () => {
  const names = [
    ...pair('6.1.0-9-cloud-amd64'),
    ...pair('6.1.0-56-cloud-amd64'),
    ...pair('6.1.0-56-amd64'),
    ...pair('6.1.0-60-rt-amd64'),
    ...pair('6.12.100+deb12-cloud-amd64'),
    ...pair('6.12.99+deb12-cloud-amd64'),
    'linux-image-6.1.0-57-cloud-amd64-unsigned',
    'linux-image-6.1.0-58-cloud-amd64-dbg',
    'linux-image-6.1.0-59-cloud-amd64',
    'linux-image-6.12-cloud-amd64',
    'linux-headers-6.12-cloud-amd64',
  ];

  test('is the newest by its numbers, not by its letters', () => {
    expect(pickKernel(cloudKernels(names), '6.1')).toBe('6.1.0-56-cloud-amd64');
    expect(pickKernel(cloudKernels(names), '6.12')).toBe('6.12.100+deb12-cloud-amd64');
  });

  test('needs headers: an image alone is passed over', () => {
    const more = cloudKernels([...names, 'linux-headers-6.1.0-59-cloud-amd64']);
    expect(pickKernel(more, '6.1')).toBe('6.1.0-59-cloud-amd64');
  });

  test('that apt does not have is refused with those it has', () => {
    expect(pickKernel(cloudKernels(names), '6.6')).toBeUndefined();
    expect(() => noKernel('6.6', cloudKernels(names))).toThrow(/kernel 6\.6: .* there is: 6\.1, 6\.12$/);
    expect(() => noKernel('6.1', [])).toThrow(/no cloud kernel at all: add a Debian source/);
  });

  test('must be named by two numbers', () => {
    expect(() => checkSeries('6.1')).not.toThrow();
    for (const bad of ['6', '6.1.0', '06.1', '6.01', 'latest', '6.1; rm', ''])
      expect(() => checkSeries(bad)).toThrow(/expected a series/);
  });
});

describe("apt's answers", () => {
  test('a planned package keeps the escaped epoch in its file name, and has it in its version', () => {
    const text = [
      'Reading package lists...',
      "'http://deb.example/pool/q_1%3a7.2%2bb3_amd64.deb' qemu-system-x86_1%3a7.2+b3_amd64.deb 9281168 MD5Sum:00",
      "'http://deb.example/pool/s.deb' seabios_1.16.2-1_all.deb 162656 MD5Sum:11",
    ].join('\n');
    expect(parseUris(text)).toEqual([
      { name: 'qemu-system-x86', version: '1:7.2+b3', file: 'qemu-system-x86_1%3a7.2+b3_amd64.deb' },
      { name: 'seabios', version: '1.16.2-1', file: 'seabios_1.16.2-1_all.deb' },
    ]);
  });

  test('hashes are found by name and version; a stanza without one gives none', () => {
    const text = [
      'Package: a\nVersion: 1:2-3\nSize: 42\nSHA256: ab12\nDescription: x\n long',
      'Package: a\nVersion: 1:2-4\nSize: 43\nSHA256: cd34',
      'Package: b\nVersion: 1\nSize: 5',
    ].join('\n\n');
    expect([...parseHashes(text)]).toEqual([
      ['a=1:2-3', { bytes: 42, sha256: 'ab12' }],
      ['a=1:2-4', { bytes: 43, sha256: 'cd34' }],
    ]);
  });
});

test('a QEMU is asked for by the numbers that its version begins with', () => {
  expect(isQemuVersion('1:10.0.13+ds-0+deb13u1', '10')).toBe(true);
  expect(isQemuVersion('1:10.0.13+ds-0+deb13u1', '10.0')).toBe(true);
  expect(isQemuVersion('1:11.1.3+ds-1~bpo13+1', '11.1')).toBe(true);
  expect(isQemuVersion('1:10.0.13+ds-0+deb13u1', '1')).toBe(false);
  expect(isQemuVersion('1:10.0.13+ds-0+deb13u1', '10.1')).toBe(false);
  expect(isQemuVersion('', '10')).toBe(false);
});
