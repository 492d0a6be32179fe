/**
 * Cuts a stream of bytes into lines, in bounded memory: one buffer that grows to the longest line allowed, however
 * small the chunks are; what is longer is thrown away up to its end.
 */

const NEWLINE = 0x0a;
const BRACE = 0x7b;
const SMALL = 64 << 10;

/** A line without its newline, valid until the next call of `next()`; or the end of one that was too long. */
export type Line = Buffer | 'too-long';

/**
 * Whether it cannot be a message, by its first byte: what a program wrote that takes the port for something else. Told
 * before anything is parsed.
 */
export function isNoise(line: Line): boolean {
  if (line === 'too-long') return false;
  const first = line[0];
  return first !== BRACE && first !== 0x20 && first !== 0x09 && first !== 0x0d;
}

export class LineReader {
  readonly #maxBytes: number;
  #chunk: Buffer | undefined;
  #offset = 0;
  /** Beginning of a line whose end is in a later chunk. */
  #partial: Buffer = Buffer.alloc(0);
  #length = 0;
  #tooLong = false;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Takes the next bytes, after `next()` has returned undefined. */
  push(chunk: Buffer): void {
    this.#chunk = chunk;
    this.#offset = 0;
  }

  /** The next line; undefined: more bytes are needed. */
  next(): Line | undefined {
    if (this.#chunk === undefined) return undefined;
    const end = this.#chunk.indexOf(NEWLINE, this.#offset);
    const piece = this.#chunk.subarray(this.#offset, end < 0 ? undefined : end);
    if (end < 0) {
      this.#chunk = undefined;
      this.#keep(piece);
      return undefined;
    }
    this.#offset = end + 1;
    if (this.#length === 0 && !this.#tooLong) return piece.length > this.#maxBytes ? 'too-long' : piece;
    this.#keep(piece);
    const line = this.#tooLong ? 'too-long' : this.#partial.subarray(0, this.#length);
    if (this.#partial.length > SMALL) this.#partial = Buffer.alloc(0);
    this.#length = 0;
    this.#tooLong = false;
    return line;
  }

  #keep(piece: Buffer): void {
    const length = this.#length + piece.length;
    if (this.#tooLong || length > this.#maxBytes) {
      this.#tooLong = true;
      this.#length = 0;
      this.#partial = Buffer.alloc(0);
      return;
    }
    if (length > this.#partial.length) {
      const size = Math.min(this.#maxBytes, Math.max(length, this.#partial.length * 2, 4096));
      const grown = Buffer.allocUnsafeSlow(size);
      this.#partial.copy(grown, 0, 0, this.#length);
      this.#partial = grown;
    }
    piece.copy(this.#partial, this.#length);
    this.#length = length;
  }
}
