import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TokenBucket } from '../../../src/wire/bucket.ts';
import { LineReader } from '../../../src/wire/lines.ts';
import { pieces } from '../../support/wire-hostile.ts';

function read(reader: LineReader, chunks: readonly Buffer[]): string[] {
  const lines: string[] = [];
  for (const chunk of chunks) {
    reader.push(chunk);
    for (let line = reader.next(); line !== undefined; line = reader.next())
      lines.push(line === 'too-long' ? line : line.toString('latin1'));
  }
  return lines;
}

describe('a line', () => {
  it('is the same however its bytes are cut', () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 10 }),
        fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 20 }),
        (parts, at) => {
          const whole = Buffer.concat(parts.flatMap((p) => [Buffer.from(p), Buffer.from('\n')]));
          const expected = whole.toString('latin1').split('\n').slice(0, -1);
          const got = read(new LineReader(25), pieces(whole, at));
          expect(got).toEqual(expected.map((l) => (l.length > 25 ? 'too-long' : l)));
        },
      ),
      { numRuns: 2000, seed: 20261122 },
    );
  });

  it('of exactly the limit is taken, one byte more is not', () => {
    const bytes = Buffer.from(`${'a'.repeat(10)}\n${'b'.repeat(11)}\n`);
    for (const chunks of [[bytes], [...bytes].map((b) => Buffer.of(b))])
      expect(read(new LineReader(10), chunks)).toEqual(['a'.repeat(10), 'too-long']);
  });
});

describe('a token bucket', () => {
  it('gives its burst at once, then its rate, and waits for what was taken beyond', () => {
    const bucket = new TokenBucket(100, 10, 0);
    bucket.take(10);
    expect(bucket.waitMs(0)).toBe(10);
    expect(bucket.waitMs(10)).toBe(0);
    bucket.take(101);
    expect(bucket.waitMs(10)).toBe(1010);
    expect(bucket.waitMs(1020)).toBe(0);
  });

  it('without a rate never waits, and owes nothing when it gets one', () => {
    const bucket = new TokenBucket(0, 10, 0);
    bucket.take(1e9);
    expect(bucket.waitMs(0)).toBe(0);
    bucket.setRate(10, 10);
    expect(bucket.waitMs(0)).toBe(0);
  });
});
