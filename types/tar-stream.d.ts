/** What is used of `tar-stream` 3.2.2, after its own `extract.js` and `headers.js`: it comes without types. */
import type { Readable, Writable } from 'node:stream';

export interface Header {
  name: string;
  mode?: number;
  uid?: number;
  gid?: number;
  /** In bytes. */
  size: number;
  mtime?: Date;
  /** Null: of a kind that is not known. */
  type: string | null;
  linkname?: string | null;
}

export interface Entry extends AsyncIterable<Uint8Array> {
  readonly header: Header;
  resume(): void;
}

/** Each entry must be read to its end before the next one comes. */
export interface Extract extends Writable, AsyncIterable<Entry> {
  [Symbol.asyncIterator](): AsyncIterator<Entry>;
}

export declare function extract(options?: { allowUnknownFormat?: boolean }): Extract;

export interface Pack extends Readable {
  entry(header: Partial<Header> & { name: string }, content?: string | Uint8Array): unknown;
  finalize(): void;
}

export declare function pack(): Pack;
