/**
 * What waits to be written to the other side. Written in pieces, the next when the stream has taken the last, so
 * that progress shows; several small messages go out in one write.
 */
import type { Writable } from 'node:stream';

const PIECE_BYTES = 64 << 10;

export class Output {
  readonly #stream: Writable;
  readonly #onTaken: () => void;
  #queue: Buffer[] = [];
  #queuedBytes = 0;
  #flushing = false;
  #waiting = false;
  readonly #whenEmpty = new Set<() => void>();

  /** `onTaken` is called each time that the stream has taken what it was given. */
  constructor(stream: Writable, onTaken: () => void) {
    this.#stream = stream;
    this.#onTaken = onTaken;
    stream.on('drain', () => {
      this.#waiting = false;
      this.#flush();
    });
  }

  readonly #taken = (): void => {
    this.#onTaken();
    this.#tellEmpty();
  };

  get queuedBytes(): number {
    return this.#queuedBytes + this.#stream.writableLength;
  }

  add(bytes: Buffer): void {
    this.#queue.push(bytes);
    this.#queuedBytes += bytes.length;
    if (this.#flushing || this.#waiting) return;
    this.#flushing = true;
    process.nextTick(() => {
      this.#flushing = false;
      this.#flush();
    });
  }

  /** Forgets what is queued. */
  clear(): void {
    this.#queue = [];
    this.#queuedBytes = 0;
    this.#callWaiting();
  }

  /** Calls `done` when nothing is queued, or was forgotten. The result takes the callback back. */
  whenEmpty(done: () => void): () => void {
    this.#whenEmpty.add(done);
    this.#tellEmpty();
    return () => this.#whenEmpty.delete(done);
  }

  #tellEmpty(): void {
    if (this.queuedBytes === 0) this.#callWaiting();
  }

  #callWaiting(): void {
    const waiting = [...this.#whenEmpty];
    this.#whenEmpty.clear();
    for (const done of waiting) done();
  }

  #flush(): void {
    while (!this.#waiting && this.#queue.length > 0 && this.#stream.writable) {
      let n = 0;
      let bytes = 0;
      do bytes += this.#queue[n++]!.length;
      while (n < this.#queue.length && bytes + this.#queue[n]!.length <= PIECE_BYTES);
      const pieces = this.#queue.splice(0, n);
      this.#queuedBytes -= bytes;
      this.#waiting = !this.#stream.write(n === 1 ? pieces[0]! : Buffer.concat(pieces, bytes), this.#taken);
    }
  }
}
