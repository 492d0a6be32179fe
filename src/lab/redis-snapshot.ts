/**
 * A Redis snapshot (RDB version 9) of string values that do not compress, the same for the same size: what a server
 * loads when it starts. Written as Redis itself writes it, its checksum included.
 */
import { createWriteStream } from 'node:fs';
import { once } from 'node:events';
import { finished } from 'node:stream/promises';

export const REDIS_VALUE_BYTES = 4096;
const OPCODE = { selectDb: 0xfe, resizeDb: 0xfb, eof: 0xff } as const;
const TYPE_STRING = 0;

/** CRC-64 of Redis (Jones): reflected polynomial 0x95ac9329ac4bc9b5, as two halves, which are much faster than BigInt. */
export class Crc64 {
  static readonly #high = new Uint32Array(256);
  static readonly #low = new Uint32Array(256);
  #h = 0;
  #l = 0;

  static {
    for (let i = 0; i < 256; i++) {
      let [h, l] = [0, i];
      for (let bit = 0; bit < 8; bit++) {
        const out = l & 1;
        l = ((l >>> 1) | (h << 31)) >>> 0;
        h >>>= 1;
        if (out) {
          h = (h ^ 0x95ac9329) >>> 0;
          l = (l ^ 0xac4bc9b5) >>> 0;
        }
      }
      Crc64.#high[i] = h;
      Crc64.#low[i] = l;
    }
  }

  update(bytes: Uint8Array): this {
    let [h, l] = [this.#h, this.#l];
    const [high, low] = [Crc64.#high, Crc64.#low];
    for (const b of bytes) {
      const i = (l ^ b) & 0xff;
      l = (((l >>> 8) | (h << 24)) ^ low[i]!) >>> 0;
      h = ((h >>> 8) ^ high[i]!) >>> 0;
    }
    this.#h = h;
    this.#l = l;
    return this;
  }

  get value(): bigint {
    return (BigInt(this.#h) << 32n) | BigInt(this.#l);
  }
}

/** RDB's length encoding. */
function length(n: number): Buffer {
  if (n < 64) return Buffer.from([n]);
  if (n < 16_384) return Buffer.from([0x40 | (n >> 8), n & 0xff]);
  const b = Buffer.alloc(5);
  b[0] = 0x80;
  b.writeUInt32BE(n, 1);
  return b;
}

function text(value: Buffer): Buffer {
  return Buffer.concat([length(value.length), value]);
}

/** Keys are `key:N`. */
export async function writeRedisSnapshot(file: string, valuesMib: number): Promise<void> {
  const keys = (valuesMib << 20) / REDIS_VALUE_BYTES;
  const out = createWriteStream(file, { highWaterMark: 8 << 20 });
  const crc = new Crc64();
  const put = async (bytes: Buffer): Promise<void> => {
    crc.update(bytes);
    if (!out.write(bytes)) await once(out, 'drain');
  };
  await put(
    Buffer.concat([
      Buffer.from('REDIS0009'),
      Buffer.from([OPCODE.selectDb, 0, OPCODE.resizeDb]),
      length(keys),
      length(0), // keys that expire
    ]),
  );
  // xorshift32: every value another one
  let state = 0x9e3779b9;
  const value = new Uint32Array(REDIS_VALUE_BYTES / 4);
  for (let n = 0; n < keys; n++) {
    for (let i = 0; i < value.length; i++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      value[i] = state;
    }
    await put(
      Buffer.concat([
        Buffer.from([TYPE_STRING]),
        text(Buffer.from(`key:${n}`)),
        text(Buffer.from(value.buffer)),
      ]),
    );
  }
  await put(Buffer.from([OPCODE.eof]));
  const sum = Buffer.alloc(8);
  sum.writeBigUInt64LE(crc.value);
  out.end(sum);
  await finished(out);
}
