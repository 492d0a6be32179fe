/** LZ4's legacy frame, as the kernel's build writes it: a magic, then blocks of a length and that many bytes. */
import { HyperturtleError } from '../core/errors.ts';

const MAGIC = 0x184c2102;
/** What one block unpacks to at most. */
const BLOCK_BYTES = 8 << 20;

export function lz4LegacyDecompress(input: Buffer): Buffer {
  if (input.length < 4 || input.readUInt32LE(0) !== MAGIC) throw broken('its magic is missing');
  const blocks: Buffer[] = [];
  let at = 4;
  while (at + 4 <= input.length) {
    const size = input.readUInt32LE(at);
    if (size === MAGIC) {
      at += 4; // frames may be joined
      continue;
    }
    at += 4;
    if (size === 0 || at + size > input.length) throw broken(`a block of ${size} bytes at ${at}`);
    blocks.push(lz4Block(input.subarray(at, at + size)));
    at += size;
  }
  return Buffer.concat(blocks);
}

/** One block: tokens of a literal run and a copy from what was written before. */
export function lz4Block(input: Buffer): Buffer {
  const out = Buffer.allocUnsafe(BLOCK_BYTES);
  let i = 0;
  let o = 0;
  const length = (nibble: number): number => {
    let n = nibble;
    if (nibble === 15) {
      let b: number | undefined;
      do {
        b = input[i++];
        if (b === undefined) throw broken('it ends inside a length');
        n += b;
      } while (b === 255);
    }
    return n;
  };
  while (i < input.length) {
    const token = input[i++]!;
    const literals = length(token >> 4);
    if (i + literals > input.length || o + literals > BLOCK_BYTES) throw broken('literals out of range');
    input.copy(out, o, i, i + literals);
    i += literals;
    o += literals;
    if (i === input.length) break; // the last token has literals only
    if (i + 2 > input.length) throw broken('it ends inside an offset');
    const offset = input.readUInt16LE(i);
    i += 2;
    const copy = length(token & 15) + 4;
    if (offset === 0 || offset > o || o + copy > BLOCK_BYTES) throw broken('a copy out of range');
    // source and target may overlap: that is how runs are written
    for (let end = o + copy; o < end; o++) out[o] = out[o - offset]!;
  }
  return Buffer.from(out.subarray(0, o));
}

function broken(what: string): HyperturtleError {
  return new HyperturtleError('HT_UNSUPPORTED', `kernel image: broken LZ4 data: ${what}`);
}
