import { describe, expect, it } from 'vitest';
import { countsByWhat, exitsBetween, parseKeys } from '../../../src/testbed/l1-exits.ts';

const line = (keys: string, n: number): string => `{ ${keys} } hitcount: ${String(n).padStart(10)}`;

describe("histograms of L1's KVM", () => {
  it('have several keys to a line, of 64 bits each', () => {
    const text = ['# event histogram', '#', line('write:          1, ecx:       2059', 412), ''].join('\n');
    expect(parseKeys(text)).toEqual([{ values: [1n, 2059n], n: 412 }]);
    expect(parseKeys(line('gpa: 18446744073709551615', 1))[0]?.values).toEqual([2n ** 64n - 1n]);
    expect(parseKeys('')).toEqual([]);
  });

  it('say what was exited for: an MSR, a port, a leaf, an address, or the cause alone', () => {
    expect(
      countsByWhat(
        {
          kvm_exit: [0x400, 0x7c, 0x60, 0x7b, 0x72]
            .map((c, i) => line(`exit_reason: ${c}`, 10 + i))
            .join('\n'),
          kvm_msr: [line('write: 1, ecx: 2059', 7), line('write: 0, ecx: 139', 2)].join('\n'),
          kvm_pio: [line('rw: 1, port: 1016', 5), line('rw: 0, port: 1021', 4)].join('\n'),
          kvm_cpuid: line('function: 2147483648', 3),
          kvm_mmio: [
            line('type: 0, len: 4, gpa: 4273995776', 9), // asked of the VMM: counted when it is there
            line('type: 1, len: 4, gpa: 4273995776', 9),
            line('type: 2, len: 2, gpa: 4273999872', 6),
          ].join('\n'),
        },
        'amd',
      ),
    ).toEqual({
      npf: 10,
      interrupt: 12,
      'wrmsr 0x80b': 7,
      'rdmsr 0x8b': 2,
      'out 0x3f8': 5,
      'in 0x3fd': 4,
      'cpuid 0x80000000': 3,
      'mmio read of 4 at 0xfec00000': 9,
      'mmio write of 2 at 0xfec01000': 6,
    });
  });

  it('count an access to a device as that, and not as a page fault too', () => {
    const before = { npf: 10, 'mmio write of 2 at 0x1000': 4 };
    const after = { npf: 25, 'mmio write of 2 at 0x1000': 9, hlt: 2 };
    expect(exitsBetween(before, after)).toEqual({ npf: 10, 'mmio write of 2 at 0x1000': 5, hlt: 2 });
    // read a moment apart: never less than none
    expect(exitsBetween({}, { npf: 1, 'mmio read of 4 at 0x1000': 2 })).toEqual({
      'mmio read of 4 at 0x1000': 2,
    });
  });
});
