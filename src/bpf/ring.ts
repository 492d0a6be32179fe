/** Reading a BPF ring buffer (BPF_MAP_TYPE_RINGBUF, Linux 5.8) as its one consumer. */
import type { OwnedFd } from './fds.ts';

export class RingReader implements Disposable {
  /** Borrows the map's descriptor; wait for records with whenReadable(file). Only one reader for a map. */
  constructor(file: OwnedFd) {
    void file;
  }

  /** Records that are complete now, oldest first, at most `limit`; they are consumed. */
  read(limit: number): Uint8Array[] {
    void limit;
    throw new Error('not implemented yet');
  }

  close(): void {}

  [Symbol.dispose](): void {
    this.close();
  }
}
