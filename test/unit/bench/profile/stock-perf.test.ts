import { describe, expect, it } from 'vitest';
import { perfSamples } from '../../../../src/bench/profile/stock-perf.ts';

const RECORD_LOST = 2;
const RECORD_SAMPLE = 9;
const HOST_USER = 2;
const GUEST_KERNEL = 4;
const GUEST_USER = 5;
/** IP, TID, TIME, PERIOD: what `perf record -p` wrote. */
const SAMPLE_TYPE = 0x107n;

const words = (...values: (bigint | number)[]): Buffer => {
  const b = Buffer.alloc(8 * values.length);
  values.forEach((v, i) => b.writeBigUInt64LE(BigInt(v), 8 * i));
  return b;
};

const recordOf = (type: number, misc: number, ...values: number[]): Buffer => {
  const head = Buffer.alloc(8);
  head.writeUInt32LE(type, 0);
  head.writeUInt16LE(misc, 4);
  head.writeUInt16LE(8 + 8 * values.length, 6);
  return Buffer.concat([head, words(...values)]);
};

const sample = (misc: number, time: number): Buffer => recordOf(RECORD_SAMPLE, misc, 0x1000, 1, time, 1);

const fileOf = (sampleType: bigint, ...records: Buffer[]): Buffer => {
  const data = Buffer.concat(records);
  const attr = words(1, 0, 999, sampleType);
  const header = Buffer.concat([Buffer.from('PERFILE2'), words(104, attr.length, 104, attr.length)]);
  return Buffer.concat([header, words(104 + attr.length, data.length, 0, 0, 0, 0, 0, 0), attr, data]);
};

describe('the file of perf record', () => {
  it('gives the samples of a guest within a time, and what was lost', () => {
    const file = fileOf(
      SAMPLE_TYPE,
      ...[sample(GUEST_USER, 9), sample(GUEST_USER, 10), sample(GUEST_KERNEL, 15), sample(HOST_USER, 15)],
      ...[recordOf(RECORD_LOST, 0, 7, 3), sample(GUEST_USER, 20)],
    );
    expect(perfSamples(file, 10, 20)).toEqual({ guest: 2, others: 1, lost: 3 });
  });

  it('is refused when it is none, is cut off, or has no times', () => {
    const file = fileOf(SAMPLE_TYPE, sample(GUEST_USER, 10));
    expect(() => perfSamples(Buffer.from('text'), 0, 1)).toThrow(/no such file/);
    expect(() => perfSamples(file.subarray(0, -8), 0, 1)).toThrow(/cut off/);
    expect(() => perfSamples(fileOf(3n, sample(GUEST_USER, 10)), 0, 1)).toThrow(/no time/);
  });
});
