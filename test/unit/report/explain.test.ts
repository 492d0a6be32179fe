import { describe, expect, it } from 'vitest';
import { answerOf } from '../../../src/bench/shared/answers.ts';
import { explainTable } from '../../../src/report/explain.ts';

describe('what would answer an exit that entered L1', () => {
  it.each([
    ['cpuid 0x1', 'CPUID', 'exit-cache'],
    ['rdmsr 0x8b', 'MSRs that do not change', 'exit-cache'],
    ['npf', 'page faults', 'npf'],
    ['rdmsr 0x10', 'other MSRs read', undefined],
    ['wrmsr 0x8b', 'other MSRs written', undefined],
    ['wrmsr 0x80b', 'wrmsr 0x80b (end of interrupt)', undefined],
    ['out 0x3f8', 'ports: serial port', undefined],
    ['in 0xcfc', 'ports: PCI configuration', undefined],
    ['in 0x9999', 'ports: others', undefined],
    ['mmio write of 4 at 0xfec00010', 'I/O APIC', undefined],
    ['interrupt', 'interrupts of L1’s', undefined],
    ['exit-0x9c', 'exit-0x9c', undefined],
  ])('%s is of %s: shipped is %s', (what, group, shipped) => {
    expect(answerOf(what)).toMatchObject({ group, ...(shipped === undefined ? {} : { shipped }) });
    expect(answerOf(what).shipped).toBe(shipped);
  });

  it('is an eventfd for a doorbell of virtio alone, and nothing for its other registers', () => {
    const group = (what: string): string => answerOf(what).group;
    expect(group('mmio write of 2 at 0x100003000')).toBe('doorbells of virtio');
    expect(group('mmio write of 2 at 0x10000700c')).toBe('doorbells of virtio');
    expect(group('mmio write of 2 at 0x100004016')).toBe('registers of devices');
    expect(group('mmio read of 2 at 0x100003000')).toBe('registers of devices');
    expect(group('mmio write of 4 at 0x100003000')).toBe('registers of devices');
    expect(answerOf('mmio write of 2 at 0x100003000').by).toMatch(/^an eventfd/);
  });
});

describe('the table of them', () => {
  it('has a row for each group, what most of it is, and all together, for one start', () => {
    const cpuids = { 'cpuid 0x0': 2, 'cpuid 0x1': 40, 'cpuid 0x2': 6, 'cpuid 0x3': 8 };
    const t = explainTable('one start', [
      { name: 'vanilla', counts: { ...cpuids, npf: 4000 }, of: 2 },
      { name: 'accelerated', counts: { npf: 5, hlt: 300 }, of: 1 },
      { name: 'not counted', counts: {}, of: 0 },
    ]);
    expect(t.head).toEqual(['', 'vanilla', 'accelerated', 'most of it', 'would be answered by']);
    expect(t.rows).toEqual([
      ['page faults', '2,000', '5', '', 'npf (shipped): a page fault program'],
      ['L2 has nothing to do', '0', '300', '', 'nothing: L1 runs something else'],
      [
        ...['CPUID', '28', '0', 'cpuid 0x1 20, cpuid 0x3 4, cpuid 0x2 3'],
        'exit-cache (shipped): an exit program',
      ],
      ['all', '2,030', '305', '', ''],
    ]);
  });

  it('has no rows where nothing was counted', () => {
    expect(explainTable('one start', [{ name: 'vanilla', counts: {}, of: 0 }]).rows).toEqual([]);
  });
});
