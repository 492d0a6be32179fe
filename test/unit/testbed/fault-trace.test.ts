import { execFileSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import {
  SHORTEN,
  faultCosts,
  ownFaults,
  parseTrace,
  tracedFaults,
} from '../../../src/testbed/fault-trace.ts';

const line = (at: number, event: string): string => `    qemu-system-x86-412     [000] d..1. ${at}: ${event}`;
const ENTRY = 'kvm_entry: vcpu 0, rip 0xffffffff81000000';
const exit = (reason: string): string =>
  `kvm_exit: vcpu 0 reason ${reason} rip 0x401000 info1 0x0000000000000004 info2 0x0000000000000000 intr_info 0x00000000 error_code 0x00000000`;
const nested = (reason: string): string => exit(reason).replace('kvm_exit', 'kvm_nested_vmexit');
const inject = (reason: string): string =>
  `kvm_nested_vmexit_inject: reason: ${reason} ext_inf1: 0x0000000000000004 ext_inf2: 0x0000000003bfe000 ext_int: 0x00000000 ext_int_err: 0x00000000`;

/** A fault that L0 answers in 600 instructions. */
const answered = (at: number): string[] => [
  line(at, exit('npf')),
  line(at + 2, nested('npf')),
  line(at + 1200, ENTRY),
];
/** One that L1 is given: 1,000 instructions of L0, L1 for 250 until it enters L2, 500 of L0 for that. */
const given = (at: number): string[] => [
  line(at, exit('npf')),
  line(at + 2, nested('npf')),
  line(at + 8, inject('npf')),
  line(at + 2000, ENTRY),
  line(at + 2500, exit('vmrun')),
  line(at + 3500, ENTRY),
];
/** L2 leaves for another reason, which ends the fault before. */
const ends = (at: number): string[] => [line(at, exit('hlt')), line(at + 2, nested('hlt'))];

describe('faults in a trace of KVM', () => {
  const events = (...lines: string[][]) =>
    parseTrace(
      execFileSync('sh', ['-c', `sed -nE ${SHORTEN}`], {
        input: ['# tracer: nop', '#', ...lines.flat(), ''].join('\n'),
        encoding: 'utf8',
      }),
    );

  it('last from the exit of L2 until it runs again, and count each level by itself', () => {
    expect(tracedFaults(events(answered(10_000), given(20_000), ends(30_000)))).toEqual([
      { by: 'L0', l0: 600, l1: 0, switches: 2 },
      { by: 'L1', l0: 1500, l1: 250, switches: 4 },
    ]);
  });

  it('are none where L2 left for something else, or the trace ends before L2 runs again', () => {
    expect(tracedFaults(events(ends(1000), [line(2000, ENTRY)], answered(3000)))).toEqual([]);
  });

  it('are left out where a guest waited or L1 did something else meanwhile', () => {
    const waited = [...given(1000), line(4600, exit('hlt')), line(9_000_000, ENTRY)];
    const other = [...answered(9_100_000), line(9_101_500, exit('interrupt')), line(9_102_000, ENTRY)];
    expect(tracedFaults(events(waited, ends(9_050_000), other, ends(9_200_000)))).toEqual([]);
  });

  it('are those of a guest that is not nested, or exits of another kind, where these are looked for', () => {
    const own = [line(100, exit('CPUID')), line(2700, ENTRY), line(9000, exit('HLT')), line(9900, ENTRY)];
    const text = execFileSync('sh', ['-c', `sed -nE ${SHORTEN}`], {
      input: `${own.join('\n')}\n`,
      encoding: 'utf8',
    });
    const found = ownFaults(parseTrace(text, new Set(['CPUID'])), 1);
    expect(found).toEqual([{ by: 'L0', l0: 2600, l1: 0, switches: 2 }]);
    expect(ownFaults(parseTrace(text))).toEqual([]);
  });

  it('are none of a trace in which time goes back', () => {
    expect(() => events(answered(9000), answered(1000))).toThrow(
      'a trace in order of time expected, 1000 after 10200',
    );
  });

  it('are told apart by what Intel calls them, too', () => {
    const intel = answered(1000).map((l) => l.replaceAll('npf', 'EPT_VIOLATION'));
    expect(tracedFaults(events(intel, ends(9000)))).toHaveLength(1);
  });

  it('cost their median, which one that met a tick does not move, and all of them together', () => {
    const faults = [600, 604, 90_000].map((l0) => ({ by: 'L0' as const, l0, l1: 0, switches: 2 }));
    expect(faultCosts([...faults, { by: 'L1', l0: 1500, l1: 250, switches: 4 }])).toEqual([
      { by: 'L0', faults: 3, instructions: 91_204, switches: 2, l0Instructions: 604, l1Instructions: 0 },
      { by: 'L1', faults: 1, instructions: 1750, switches: 4, l0Instructions: 1500, l1Instructions: 250 },
    ]);
    expect(faultCosts([])).toEqual([]);
  });
});
