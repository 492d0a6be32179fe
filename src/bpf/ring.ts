/**
 * Reading a BPF ring buffer (BPF_MAP_TYPE_RINGBUF, Linux 5.8) as its one consumer. Layout: a page with the consumer's
 * position, a page with the producer's, then the data, mapped twice in a row so that no record wraps around.
 */
import { HyperturtleError } from '../core/errors.ts';
import { BPF_MAP_TYPE_RINGBUF } from '../kernel/bpf.ts';
import type { OwnedFd } from './fds.ts';
import { mapInfo } from './map-ops.ts';
import { SharedMemory } from './sys.ts';

const PAGE = 4096;
/** Bits of a record's length word (BPF_RINGBUF_BUSY_BIT, _DISCARD_BIT). */
const BUSY = 0x8000_0000n;
const DISCARD = 0x4000_0000n;
const HEADER = 8;

export class RingReader implements Disposable {
  readonly #file: OwnedFd;
  readonly #bytes: number;
  readonly #consumer: SharedMemory;
  readonly #producer: SharedMemory;

  /**
   * Borrows the map's descriptor; wait for records with whenReadable(file). Only one reader for a map: two would take
   * records from each other. Throws HT_USAGE for other types of maps.
   */
  constructor(file: OwnedFd) {
    const info = mapInfo(file);
    if (info.type !== BPF_MAP_TYPE_RINGBUF)
      throw new HyperturtleError('HT_USAGE', `${file.what}: a ringbuf expected, it is ${info.typeName}`);
    this.#file = file;
    this.#bytes = info.maxEntries;
    this.#consumer = new SharedMemory(file, PAGE);
    try {
      this.#producer = new SharedMemory(file, PAGE + 2 * this.#bytes, { offset: PAGE, readOnly: true });
    } catch (e) {
      this.#consumer.close();
      throw e;
    }
  }

  /** Records that are complete now, oldest first, at most `limit`; they are consumed. */
  read(limit: number): Uint8Array[] {
    const records: Uint8Array[] = [];
    let at = this.#consumer.load(0);
    const end = this.#producer.load(0);
    while (at < end && records.length < limit) {
      const offset = PAGE + Number(at % BigInt(this.#bytes));
      const word = this.#producer.load(offset) & 0xffff_ffffn;
      if (word & BUSY) break; // reserved, and not yet submitted
      const length = Number(word & ~DISCARD);
      if (length + HEADER > this.#bytes)
        throw new HyperturtleError(
          'HT_KERNEL',
          `${this.#file.what}: a record of ${length} bytes in its ring`,
        );
      if (!(word & DISCARD)) records.push(this.#producer.read(offset + HEADER, length));
      at += BigInt(Math.ceil((length + HEADER) / 8) * 8);
      this.#consumer.store(0, at);
    }
    return records;
  }

  close(): void {
    this.#consumer.close();
    this.#producer.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
