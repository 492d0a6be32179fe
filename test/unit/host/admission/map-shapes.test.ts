/** What a host will make of a map's definition, said before it is loaded. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { checkObject } from '../../../../src/host/admission/check.ts';
import { explain } from '../../../../src/host/admission/explain.ts';
import { mapBytes } from '../../../../src/host/admission/map-bytes.ts';
import { asLoaded } from '../../../../src/host/admission/map-shape.ts';
import type { Verdict } from '../../../../src/host/admission/verdict.ts';

const RINGBUF = 27;
const ring = readFileSync(new URL('../../../support/cases/ringbuf.o', import.meta.url));
/** The ring buffer of 5,000 bytes with another size. */
function ringOf(bytes: number): Verdict {
  const elf = Buffer.from(ring);
  for (let at = 0; (at = elf.indexOf(Buffer.from([0x88, 0x13, 0, 0]), at)) >= 0; at++)
    elf.writeUInt32LE(bytes, at);
  return checkObject(elf, { policy: { cpus: 2 } });
}
const definition = (v: Verdict): string | undefined =>
  v.refusals.find((r) => r.rule === 'map-definition')?.message;

describe('a ring buffer', () => {
  it('of 5000 bytes is what libbpf will make: whole pages, a power of two', () => {
    const { maps, refusals } = ringOf(5000);
    expect(refusals).toEqual([]);
    expect(maps).toEqual([expect.objectContaining({ name: 'rb', maxEntries: 8192 })]);
    expect(explain('ringbuf.o', ringOf(5000))).toMatch(
      /^map rb: ringbuf, 8192 bytes of records, about \d+ bytes$/m,
    );
  });

  it.each([
    [1, 4096],
    [4096, 4096],
    [4097, 8192],
    [12_288, 16_384],
    [65_536, 65_536],
    [2 ** 31, 2 ** 31],
  ])('of %i bytes is one of %i', (asked, made) => {
    const shape = { type: RINGBUF, keyBytes: 0, valueBytes: 0, maxEntries: asked, flags: 0 };
    expect(asLoaded(shape).maxEntries).toBe(made);
    expect(Number.isInteger(mapBytes(asLoaded(shape), 3))).toBe(true);
  });

  it('of max_entries 0, or of more than there can be, is refused by check', () => {
    expect(definition(ringOf(0))).toBe("map 'rb': ringbuf: a ring buffer of max_entries 0");
    expect(definition(ringOf(2 ** 31 + 1))).toBe("map 'rb': ringbuf: a ring buffer of 2147483649 bytes");
  });
});
