/**
 * The kernel's type information, damaged: it is read, or refused by the reader's own error, and soon. The mutants are the same
 * each time; HT_MUTANTS says how many, HT_SEED where they begin.
 */
import { describe, expect, it } from 'vitest';
import { KernelBtf } from '../../../src/bpf/kernel-btf.ts';
import { isHyperturtleError } from '../../../src/core/errors.ts';
import { BtfBytes } from '../../support/kernel-btf.ts';
import { mutateIn } from '../../support/mutate.ts';

const MUTANTS = Number(process.env['HT_MUTANTS'] ?? 6000);
const SEED = Number(process.env['HT_SEED'] ?? 20_261_129);
const HEADER = 24;

const vmlinux = new BtfBytes().add({
  functions: { schedule: 'void (void)', wake: 'int (struct task *, u64, enum how)' },
  structs: { task: { size: 96, members: [['state', 0, 8]] } },
});
const kvm = new BtfBytes(vmlinux).add({
  functions: { fault: 'int (struct kvm_vcpu *, struct task *)' },
  tracepoints: { kvm_entry: 'void (struct kvm_vcpu *, bool)' },
  structs: {
    kvm_vcpu: {
      size: 64,
      members: [
        ['kvm', 0, 8],
        ['cpu', 8, 4],
      ],
    },
  },
});

/** All that is asked of them. */
function answers(base: Uint8Array, module: Uint8Array): unknown[] {
  const types = new KernelBtf(module, new KernelBtf(base));
  return [
    ...['schedule', 'wake', 'fault', 'nowhere'].map((f) => types.prototype(f)),
    types.tracepoint('kvm_entry'),
    ...['task.state', 'kvm_vcpu.kvm', 'kvm_vcpu.cpu', 'kvm_vcpu.no'].map((m) => {
      const [struct = '', member = ''] = m.split('.');
      return types.member(struct, member);
    }),
    types.size('task'),
    types.size('kvm_vcpu'),
  ];
}

const [BASE, MODULE] = [vmlinux.bytes(), kvm.bytes()];
const REFUSED = /^the kernel's type information \(BTF\) cannot be read: /;

/** A copy with one word of it changed. */
function changed(bytes: Uint8Array, at: number, word: number): Uint8Array {
  const copy = new Uint8Array(bytes);
  new DataView(copy.buffer).setUint32(at, word, true);
  return copy;
}

it('what is whole is read', () => {
  expect(answers(BASE, MODULE)).toEqual([
    'void (void)',
    'int (struct task *, u64, enum how)',
    'int (struct kvm_vcpu *, struct task *)',
    undefined,
    'void (struct kvm_vcpu *, bool)',
    ...['0+8', '0+8', '8+4', undefined],
    ...[96, 64],
  ]);
});

describe('damaged type information is refused with what is wrong with it:', () => {
  it('cut off anywhere', () => {
    for (let n = 0; n < MODULE.length; n++)
      expect(() => answers(BASE, MODULE.subarray(0, n)), `${n} bytes`).toThrow(REFUSED);
  });

  it.each<[string, Uint8Array, string]>([
    ['a type at the end of the file that is cut off', withTypesTo(MODULE.length - 4), 'a type is cut off'],
    ['types that have more members than bytes', changed(BASE, HEADER + 4, 0x0400_ffff), 'a type is cut off'],
    ['a kind that does not exist', changed(BASE, HEADER + 4, 31 << 24), 'kind 31 of a type is unknown'],
    ['another version', changed(BASE, 0, 0x0002_eb9f), 'its version is 2, expected 1'],
    ['a header of no bytes', changed(BASE, 4, 0), 'its header has 0 bytes'],
  ])('%s', (_, bytes, why) => {
    expect(() => new KernelBtf(bytes)).toThrow(why);
  });

  it('a name outside the strings', () => {
    const text = Buffer.from(BASE).toString('latin1');
    const strings = HEADER + new DataView(BASE.buffer, BASE.byteOffset).getUint32(16, true);
    const nameOfU64 = words(BASE).indexOf(text.indexOf('u64\0') - strings) * 4;
    const outside = new KernelBtf(changed(BASE, nameOfU64, 0xffff));
    expect(outside.prototype('schedule')).toBe('void (void)');
    expect(() => outside.prototype('wake')).toThrow('the name at 65535 has no end');
  });
});

const words = (bytes: Uint8Array): number[] => [
  ...new Uint32Array(new Uint8Array(bytes).buffer, 0, bytes.length >> 2),
];

/** Types that end at byte `end` and begin 12 bytes before, where a type's info says that it has more. */
function withTypesTo(end: number): Uint8Array {
  const at = end - 12;
  const moved = changed(changed(changed(MODULE, 8, at - HEADER), 12, 12), 16, 0);
  return changed(changed(moved, 20, 0), at + 4, 1 << 24);
}

it(`${MUTANTS} mutants give a result or the reader's own error, soon`, () => {
  const outcomes = { read: 0, refused: 0 };
  let slowestMs = 0;
  for (let n = 0; n < MUTANTS; n++) {
    const seed = SEED + n;
    const damaged = (b: Uint8Array): Uint8Array =>
      mutateIn(
        b,
        [
          [0, HEADER],
          [HEADER, b.length],
          [HEADER, b.length],
        ],
        seed,
      );
    const began = performance.now();
    try {
      if (n % 2 === 0) answers(BASE, damaged(MODULE));
      else answers(damaged(BASE), MODULE);
      outcomes.read++;
    } catch (e) {
      if (!isHyperturtleError(e, 'HT_UNSUPPORTED')) throw new Error(`seed ${seed}`, { cause: e });
      expect(e.message).toMatch(REFUSED);
      outcomes.refused++;
    }
    slowestMs = Math.max(slowestMs, performance.now() - began);
  }
  process.stdout.write(`  ${JSON.stringify(outcomes)}, slowest ${slowestMs.toFixed(1)} ms\n`);
  expect(outcomes.read).toBeGreaterThan(MUTANTS / 20);
  expect(outcomes.refused).toBeGreaterThan(MUTANTS / 20);
  expect(slowestMs).toBeLessThan(2000);
}, 60_000);
