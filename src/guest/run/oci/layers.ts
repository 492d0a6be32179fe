/** Reads an image's layers into a tree, and the contents of files into a directory that nobody else sees. */
import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import path from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import zlib from 'node:zlib';
import { extract } from 'tar-stream';
import type { Entry, Header } from 'tar-stream';
import { HyperturtleError, errnoCode, isHyperturtleError, messageOf } from '../../../core/errors.ts';
import { blobStream } from './layout.ts';
import type { OciImage } from './layout.ts';
import { ImageTree } from './tree.ts';
import type { Meta } from './tree.ts';

export interface OciLimits {
  /** Bytes of all layers together when they are unpacked, headers and what later layers hide included. */
  bytes: number;
  /** Entries of all layers together. */
  entries: number;
}
const OCI_LIMITS: OciLimits = { bytes: 16 * 2 ** 30, entries: 1_000_000 };

export interface ReadLayers {
  tree: ImageTree;
  /** Devices and pipes, which are left out: the guest has its own /dev. */
  leftOut: number;
}

/** Where content number `n` is. */
export const contentFile = (spool: string, n: number): string => path.join(spool, String(n));

interface State extends ReadLayers {
  spool: string;
  contents: number;
  entries: number;
  bytes: number;
  limits: OciLimits;
}

/** Throws HT_INTEGRITY for digests that differ, HT_UNSUPPORTED for what no layer should have, or beyond a limit. */
export async function readLayers(
  dir: string,
  image: Pick<OciImage, 'layers'>,
  spool: string,
  o: { signal?: AbortSignal | undefined; limits?: OciLimits } = {},
): Promise<ReadLayers> {
  const state: State = {
    ...{ tree: new ImageTree(), leftOut: 0, spool, contents: 0, entries: 0, bytes: 0 },
    limits: o.limits ?? OCI_LIMITS,
  };
  for (const layer of image.layers) {
    state.tree.nextLayer();
    try {
      await readLayer(dir, layer, state, o.signal);
    } catch (e) {
      o.signal?.throwIfAborted();
      // this machine's trouble, such as a full disk, is not the layer's
      if (isHyperturtleError(e) || /^E[A-Z]+$/.test(errnoCode(e) ?? '')) throw e;
      throw new HyperturtleError('HT_UNSUPPORTED', `layer ${layer.blob.digest}: ${messageOf(e)}`, {
        cause: e,
      });
    }
  }
  return { tree: state.tree, leftOut: state.leftOut };
}

async function readLayer(
  dir: string,
  { blob, diffId }: OciImage['layers'][number],
  state: State,
  signal: AbortSignal | undefined,
): Promise<void> {
  const unpack = unpacker(blob.mediaType);
  const { source, check } = blobStream(dir, blob);
  const entries = extract();
  const plain = new PlainCheck(diffId, state);
  const fed = unpack
    ? pipeline(source, check, unpack, plain, entries, { signal })
    : pipeline(source, check, plain, entries, { signal });
  fed.catch(() => {}); // the loop below ends by it
  try {
    for await (const entry of entries) await take(entry, state);
  } catch (e) {
    entries.destroy();
    await fed.catch(() => {});
    throw e;
  }
  await fed;
}

function unpacker(mediaType: string): Transform | undefined {
  const found = /\.tar(?:[+.](gzip|zstd))?$/.exec(mediaType);
  if (!found)
    throw new HyperturtleError('HT_UNSUPPORTED', `layer of type ${mediaType}: a tar archive expected`);
  const [, how] = found;
  if (how === undefined) return undefined;
  if (how === 'gzip') return zlib.createGunzip();
  const zstd = (zlib as { createZstdDecompress?: () => Transform }).createZstdDecompress;
  if (zstd === undefined)
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      `layer of type ${mediaType}: Node.js 22.15 or later expected for zstd: 'skopeo copy --dest-compress-format gzip' makes another`,
    );
  return zstd();
}

/** The tar stream itself: its digest, and how much there is. */
class PlainCheck extends Transform {
  readonly #id: string;
  readonly #state: State;
  readonly #hash: ReturnType<typeof createHash>;

  constructor(id: string, state: State) {
    super();
    this.#id = id;
    this.#state = state;
    this.#hash = createHash(id.slice(0, 6));
  }

  override _transform(chunk: Buffer, _: BufferEncoding, done: (e?: Error | null, c?: Buffer) => void): void {
    this.#state.bytes += chunk.length;
    this.#hash.update(chunk);
    if (this.#state.bytes <= this.#state.limits.bytes) done(null, chunk);
    else
      done(
        new HyperturtleError(
          'HT_UNSUPPORTED',
          `an image of at most ${this.#state.limits.bytes} bytes expected`,
        ),
      );
  }

  override _flush(done: (e?: Error | null) => void): void {
    if (this.#hash.digest('hex') === this.#id.slice(7)) done();
    else done(new HyperturtleError('HT_INTEGRITY', `layer ${this.#id}: other content found`));
  }
}

async function take(entry: Entry, state: State): Promise<void> {
  const { header } = entry;
  if (++state.entries > state.limits.entries)
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      `an image of at most ${state.limits.entries} entries expected`,
    );
  if (header.type === 'file' || header.type === 'contiguous-file') {
    if (state.tree.whiteout(header.name)) entry.resume();
    else {
      const n = state.contents++;
      await pipeline(entry, createWriteStream(contentFile(state.spool, n), { flags: 'wx', mode: 0o600 }));
      state.tree.addFile(header.name, metaOf(header), n);
    }
    return;
  }
  takeOther(header, state);
  entry.resume();
}

function takeOther(header: Header, state: State): void {
  const { name } = header;
  switch (header.type) {
    case 'directory':
      state.tree.addDirectory(name, metaOf(header));
      return;
    case 'symlink':
      state.tree.addSymlink(name, metaOf(header), header.linkname ?? '');
      return;
    case 'link':
      state.tree.addHardLink(name, header.linkname ?? '');
      return;
    case 'character-device':
    case 'block-device':
    case 'fifo':
      state.leftOut++;
      return;
    default:
      throw new HyperturtleError(
        'HT_UNSUPPORTED',
        `layer entry ${JSON.stringify(name.slice(0, 200))}: of no known type`,
      );
  }
}

const number = (v: number | undefined, max: number): number =>
  v !== undefined && Number.isSafeInteger(v) && v >= 0 && v <= max ? v : 0;

/** Numbers that no file has become 0. */
function metaOf(h: Header): Meta {
  const id = 0xffff_fffe;
  return {
    mode: number(h.mode, 0o7777),
    uid: number(h.uid, id),
    gid: number(h.gid, id),
    mtimeMs: number(h.mtime?.getTime(), 0xffff_ffff * 1000),
  };
}
