/** Which calls of a VMM the filter of `hyperturtle vmm` asks about: the program run by a small machine for classic BPF. */
import { describe, expect, it } from 'vitest';
import {
  ASKED,
  F_ADD_SEALS,
  F_GET_SEALS,
  MADV_DONTNEED,
  MADV_FREE,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_GROWSDOWN,
  MAP_HUGETLB,
  MAP_STACK,
  PROT_EXEC,
  PROT_WRITE,
  SECCOMP_RET_ALLOW,
  SECCOMP_RET_USER_NOTIF,
  launchFilter,
} from '../../../../src/kernel/seccomp.ts';

const MIB = 1n << 20n;
const X86_64 = 0xc000_003e;
const I386 = 0x4000_0003;
const filter = launchFilter(32 << 20);

/** What the kernel does with it; every jump goes forward and ends at a return. */
function answer(nr: number, args: readonly (bigint | number)[], arch = X86_64): 'asked' | 'allowed' {
  const data = new DataView(new ArrayBuffer(64));
  data.setUint32(0, nr, true);
  data.setUint32(4, arch, true);
  args.forEach((a, i) => data.setBigUint64(16 + 8 * i, BigInt.asUintN(64, BigInt(a)), true));
  const code = new DataView(filter.buffer);
  let a = 0;
  for (let pc = 0; pc < filter.length / 8; pc++) {
    const [yes, no, k] = [
      code.getUint8(8 * pc + 2),
      code.getUint8(8 * pc + 3),
      code.getUint32(8 * pc + 4, true),
    ];
    const jump = (is: boolean): void => void (pc += is ? yes : no);
    switch (code.getUint16(8 * pc, true)) {
      case 0x20:
        a = data.getUint32(k, true);
        break;
      case 0x15:
        jump(a === k);
        break;
      case 0x25:
        jump(a > k);
        break;
      case 0x35:
        jump(a >= k);
        break;
      case 0x45:
        jump((a & k) !== 0);
        break;
      case 0x06:
        if (k === SECCOMP_RET_USER_NOTIF) return 'asked';
        expect(k).toBe(SECCOMP_RET_ALLOW);
        return 'allowed';
      default:
        throw new Error(`code at ${pc}`);
    }
  }
  throw new Error('no return');
}

const mmap = (length: bigint, prot: number, flags: number): string =>
  answer(ASKED.mmap, [0, length, prot, flags, -1, 0]);
const READ = 1;
const PRIVATE = 2 | MAP_ANONYMOUS;
const SHARED = 1 | MAP_ANONYMOUS;

describe('the filter', () => {
  it.each([
    ['private', 32n * MIB, PRIVATE],
    ['shared', 33n * MIB, SHARED],
    ['at a place', 256n * MIB, PRIVATE | MAP_FIXED],
    ['without swap', 1024n * MIB, PRIVATE | 0x4000],
    ['of 4 GiB, whose lower half is 0', 4096n * MIB, PRIVATE],
    ['of 1 TiB and a MiB', (1n << 40n) + MIB, PRIVATE],
  ])('asks about anonymous memory: %s', (_, length, flags) => {
    expect(mmap(length, READ | PROT_WRITE, flags)).toBe('asked');
  });

  it.each([
    ['of a file', 256n * MIB, READ | PROT_WRITE, 2],
    ['smaller', 31n * MIB, READ | PROT_WRITE, PRIVATE],
    ['a block of malloc()', 256n * MIB + 4096n, READ | PROT_WRITE, PRIVATE],
    ['reserved', 256n * MIB, 0, PRIVATE],
    ['to be read', 256n * MIB, READ, PRIVATE],
    ['code', 256n * MIB, READ | PROT_WRITE | PROT_EXEC, PRIVATE],
    ['a stack', 256n * MIB, READ | PROT_WRITE, PRIVATE | MAP_STACK],
    ['one that grows', 256n * MIB, READ | PROT_WRITE, PRIVATE | MAP_GROWSDOWN],
    ['huge pages', 256n * MIB, READ | PROT_WRITE, PRIVATE | MAP_HUGETLB],
  ])('lets other mappings through: %s', (_, length, prot, flags) => {
    expect(mmap(length, prot, flags)).toBe('allowed');
  });

  it('asks about files made large, seals, memory given back and userfaultfd, and nothing like these', () => {
    expect(answer(ASKED.ftruncate, [3, 32n * MIB])).toBe('asked');
    expect(answer(ASKED.ftruncate, [3, 1n << 33n])).toBe('asked');
    expect(answer(ASKED.ftruncate, [3, 32n * MIB - 1n])).toBe('allowed');
    expect(answer(ASKED.ftruncate, [3, -1])).toBe('allowed');
    expect([F_ADD_SEALS, F_GET_SEALS, 1, 3].map((c) => answer(ASKED.fcntl, [3, c, 0]))).toEqual([
      ...['asked', 'asked'],
      ...['allowed', 'allowed'],
    ]);
    expect([MADV_DONTNEED, MADV_FREE, 9, 14].map((m) => answer(ASKED.madvise, [0, 4096, m]))).toEqual([
      ...['asked', 'asked'],
      ...['allowed', 'allowed'],
    ]);
    expect(answer(ASKED.userfaultfd, [0])).toBe('asked');
  });

  it('lets every other call through, and every call of another ABI', () => {
    const asked = new Set<number>(Object.values(ASKED));
    for (let nr = 0; nr < 512; nr++)
      if (!asked.has(nr)) expect([nr, answer(nr, [0, 1n << 40n, 3, PRIVATE])]).toEqual([nr, 'allowed']);
    const x32 = 0x4000_0000;
    expect(answer(ASKED.mmap + x32, [0, 256n * MIB, 3, PRIVATE])).toBe('allowed');
    expect(answer(ASKED.mmap, [0, 256n * MIB, 3, PRIVATE], I386)).toBe('allowed');
  });
});
