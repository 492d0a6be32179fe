/** What a real machine has that disturbs `bench paper --accel kvm`, read from trees of /proc and /sys made here. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { machineFindings } from '../../../../src/bench/paper/machine.ts';

const made: string[] = [];
afterEach(() => {
  for (const dir of made.splice(0)) rmSync(dir, { recursive: true });
});

const CPU = 'sys/devices/system/cpu';
/** As quiet as one can be. */
const QUIET: Readonly<Record<string, string>> = {
  'proc/cpuinfo': 'processor : 0\nflags : fpu vmx ibt\n',
  'proc/cmdline': 'ro isolcpus=2-7',
  'proc/swaps': 'Filename Type Size Used Priority\n',
  'proc/sys/kernel/numa_balancing': '0\n',
  'sys/kernel/mm/ksm/run': '0\n',
  'sys/kernel/mm/transparent_hugepage/enabled': 'always [madvise] never\n',
  'sys/module/kvm_intel/parameters/nested': 'Y\n',
  [`${CPU}/isolated`]: '2-7\n',
  [`${CPU}/smt/active`]: '0\n',
  [`${CPU}/intel_pstate/no_turbo`]: '1\n',
  [`${CPU}/cpu0/cpufreq/scaling_governor`]: 'performance\n',
  [`${CPU}/cpu1/cpufreq/scaling_governor`]: 'performance\n',
};

function tree(files: Readonly<Record<string, string>>): string {
  const root = mkdtempSync(path.join(tmpdir(), 'ht-machine-'));
  made.push(root);
  for (const [file, text] of Object.entries(files)) {
    mkdirSync(path.dirname(path.join(root, file)), { recursive: true });
    writeFileSync(path.join(root, file), text);
  }
  return root;
}

const warned = (change: Readonly<Record<string, string>>): string[] =>
  machineFindings(tree({ ...QUIET, ...change })).flatMap((f) => (f.level === 'ok' ? [] : [f.what]));

describe('a machine', () => {
  it('that is quiet has nothing to warn of, and says what it is', () => {
    const found = machineFindings(tree(QUIET));
    expect(found.filter((f) => f.level !== 'ok')).toEqual([]);
    expect(found.map((f) => f.what)).toContain('Indirect Branch Tracking: on');
    expect(found.map((f) => f.what)).toContain('isolated CPUs: 2-7');
  });

  it.each([
    ['is a guest', { 'proc/cpuinfo': 'flags : fpu vmx hypervisor\n' }, 'itself a guest'],
    ['does not nest', { 'sys/module/kvm_intel/parameters/nested': 'N\n' }, 'nested virtualization: off'],
    ['has SMT', { [`${CPU}/smt/active`]: '1\n' }, 'SMT is on'],
    ['isolates none', { [`${CPU}/isolated`]: '\n' }, 'no CPU is isolated'],
    ['saves power', { [`${CPU}/cpu1/cpufreq/scaling_governor`]: 'powersave\n' }, 'governor: powersave'],
    ['boosts', { [`${CPU}/intel_pstate/no_turbo`]: '0\n' }, 'boosted'],
    ['boosts as AMD does', { [`${CPU}/cpufreq/boost`]: '1\n' }, 'boosted'],
    ['merges pages', { 'sys/kernel/mm/ksm/run': '1\n' }, 'KSM'],
    ['moves pages', { 'proc/sys/kernel/numa_balancing': '1\n' }, 'NUMA balancing'],
    ['swaps', { 'proc/swaps': 'Filename Type\n/swap file 1 0 -2\n' }, 'swap'],
    [
      'has small pages',
      { 'sys/kernel/mm/transparent_hugepage/enabled': 'always madvise [never]\n' },
      '4 KiB pages',
    ],
  ] as const)('that %s is told so, once, with a fix', (_, change, what) => {
    expect(warned(change)).toEqual([expect.stringContaining(what)]);
    expect(machineFindings(tree({ ...QUIET, ...change })).find((f) => f.level === 'warn')?.mend).toBeTruthy();
  });

  it('of which nothing can be read gets an answer all the same', () => {
    const found = machineFindings(tree({}));
    expect(found.find((f) => f.what.includes('neither kvm_intel nor kvm_amd'))?.level).toBe('warn');
    expect(found).toHaveLength(machineFindings(tree(QUIET)).length);
  });
});
