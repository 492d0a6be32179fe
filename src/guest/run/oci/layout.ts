/**
 * An OCI image layout (a directory with `oci-layout`, `index.json` and `blobs/`): which image of it, and its blobs, of which
 * none is used whose size or digest is another than what names it.
 */
import { createHash } from 'node:crypto';
import { closeSync, constants, createReadStream, fstatSync, openSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { Transform } from 'node:stream';
import type { Readable } from 'node:stream';
import { z } from 'zod';
import { HyperturtleError, errnoCode } from '../../../core/errors.ts';
import { lazy } from '../../../core/lazy.ts';
import type { Output } from '../../../core/lazy.ts';

const Digest = lazy(() => z.string().regex(/^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/));
const Descriptor = lazy(() =>
  z.object({
    mediaType: z.string(),
    digest: Digest(),
    size: z.int().nonnegative(),
    platform: z.object({ architecture: z.string(), os: z.string() }).optional(),
    annotations: z.record(z.string(), z.string()).optional(),
  }),
);
export type Descriptor = Output<typeof Descriptor>;
const Index = lazy(() => z.object({ schemaVersion: z.literal(2), manifests: z.array(Descriptor()) }));
const Manifest = lazy(() =>
  z.object({
    schemaVersion: z.literal(2),
    config: Descriptor(),
    layers: z.array(Descriptor()).max(OCI_LAYERS_MAX),
  }),
);
/** What of an image's configuration is used. Lists may be null, as Go's JSON has them. */
const Config = lazy(() =>
  z.object({
    architecture: z.string(),
    os: z.string(),
    config: z
      .object({
        User: z.string().default(''),
        Env: z.array(z.string().regex(/^[^=\0]+=[^\0]*$/, 'NAME=value expected')).nullish(),
        Entrypoint: z.array(z.string()).nullish(),
        Cmd: z.array(z.string()).nullish(),
        WorkingDir: z.string().default(''),
      })
      .nullish(),
    rootfs: z.object({ type: z.literal('layers'), diff_ids: z.array(Digest()) }),
  }),
);

export interface OciImage {
  /** That of its manifest, which names all of the image. */
  digest: string;
  /** Each with the digest of its tar stream, lowest first. */
  layers: { blob: Descriptor; diffId: string }[];
  /** Entrypoint and Cmd; empty: the image names none. */
  command: string[];
  env: string[];
  /** As the image has it: a name or number, and a group after a colon; empty: root. */
  user: string;
  /** Absolute. */
  workingDir: string;
}

const OCI_LAYERS_MAX = 256;
/** Bytes that an index, manifest or configuration may have. */
const JSON_MAX = 4 << 20;
const NESTED_MAX = 3;
const TAG = 'org.opencontainers.image.ref.name';

/**
 * `tag`: the image's name in the layout; undefined: the only one, or the only one for this machine. Throws HT_NOT_FOUND,
 * HT_UNSUPPORTED for another architecture, HT_INTEGRITY for a blob that is not what its digest says.
 */
export function readOciImage(dir: string, tag: string | undefined): OciImage {
  const layout = z
    .object({ imageLayoutVersion: z.string().startsWith('1.') })
    .safeParse(json(plainFile(dir, 'oci-layout'), `${dir}/oci-layout`));
  if (!layout.success)
    throw new HyperturtleError('HT_UNSUPPORTED', `${dir}/oci-layout: imageLayoutVersion 1.x expected`);
  const top = parsed(Index(), json(plainFile(dir, 'index.json'), `${dir}/index.json`), `${dir}/index.json`);
  const chosen = manifestOf(dir, choose(dir, top.manifests, tag), 0);
  const manifest = parsed(Manifest(), readJson(dir, chosen), chosen.digest);
  const config = parsed(Config(), readJson(dir, manifest.config), manifest.config.digest);
  if (config.os !== 'linux' || config.architecture !== 'amd64')
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      `image ${dir}: linux/amd64 expected, it is for ${config.os}/${config.architecture}`,
    );
  const ids = config.rootfs.diff_ids;
  if (ids.length !== manifest.layers.length)
    throw new HyperturtleError(
      'HT_INTEGRITY',
      `image ${dir}: ${manifest.layers.length} layers, and its configuration names ${ids.length}`,
    );
  const c = config.config;
  return {
    digest: chosen.digest,
    layers: manifest.layers.map((blob, i) => ({ blob, diffId: ids[i] ?? '' })),
    command: [...(c?.Entrypoint ?? []), ...(c?.Cmd ?? [])],
    env: c?.Env ?? [],
    user: c?.User ?? '',
    workingDir: path.posix.resolve('/', c?.WorkingDir ?? ''),
  };
}

function choose(dir: string, manifests: readonly Descriptor[], tag: string | undefined): Descriptor {
  const named = manifests.filter((m) => tag === undefined || m.annotations?.[TAG] === tag);
  const ours = named.length > 1 ? named.filter(forUs) : named;
  const [only] = ours;
  if (only !== undefined && ours.length === 1) return only;
  const names = manifests.map((m) => m.annotations?.[TAG] ?? m.digest).join(', ');
  throw new HyperturtleError(
    'HT_NOT_FOUND',
    `image layout ${dir}: ${tag === undefined ? 'more than one image, or none: oci:DIR:NAME expected' : `no image '${tag}', or several`}; there are: ${names || 'none'}`,
  );
}

const forUs = (m: Descriptor): boolean => m.platform?.os === 'linux' && m.platform.architecture === 'amd64';

/** An index in an index has the same image for several machines. */
function manifestOf(dir: string, d: Descriptor, depth: number): Descriptor {
  if (!/\.image\.index\.v1\+json$|\.manifest\.list\.v2\+json$/.test(d.mediaType)) return d;
  if (depth >= NESTED_MAX)
    throw new HyperturtleError('HT_UNSUPPORTED', `image layout ${dir}: indexes ${NESTED_MAX} deep`);
  const { manifests } = parsed(Index(), readJson(dir, d), d.digest);
  const ours = manifests.find(forUs);
  if (ours === undefined)
    throw new HyperturtleError('HT_UNSUPPORTED', `image layout ${dir}: no image for linux/amd64`);
  return manifestOf(dir, ours, depth + 1);
}

function readJson(dir: string, d: Descriptor): unknown {
  if (d.size > JSON_MAX)
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      `${d.digest}: at most ${JSON_MAX} bytes expected, it has ${d.size}`,
    );
  const bytes = readSmall(openBlob(dir, d), d.digest);
  const check = new BlobCheck(d);
  check.update(bytes);
  check.end();
  return json(bytes, d.digest);
}

/** A layer's blob; ends with HT_INTEGRITY when it is not what its descriptor says. */
export function blobStream(dir: string, d: Descriptor): { source: Readable; check: Transform } {
  const fd = openBlob(dir, d);
  const check = new BlobCheck(d);
  return {
    source: createReadStream('', { fd }),
    check: new Transform({
      transform(chunk: Buffer, _, done) {
        try {
          check.update(chunk);
          done(null, chunk);
        } catch (e) {
          done(e as Error);
        }
      },
      flush(done) {
        try {
          check.end();
          done();
        } catch (e) {
          done(e as Error);
        }
      },
    }),
  };
}

/** Counts and hashes what passes. */
class BlobCheck {
  readonly #d: Descriptor;
  readonly #hash: ReturnType<typeof createHash>;
  #bytes = 0;

  constructor(d: Descriptor) {
    this.#d = d;
    this.#hash = createHash(d.digest.slice(0, 6));
  }

  update(chunk: Uint8Array): void {
    this.#bytes += chunk.length;
    if (this.#bytes > this.#d.size) throw this.#not(`more than ${this.#d.size} bytes`);
    this.#hash.update(chunk);
  }

  end(): void {
    if (this.#bytes !== this.#d.size) throw this.#not(`${this.#bytes} bytes of ${this.#d.size}`);
    if (this.#hash.digest('hex') !== this.#d.digest.slice(7)) throw this.#not('other content');
  }

  #not(found: string): HyperturtleError {
    return new HyperturtleError('HT_INTEGRITY', `blob ${this.#d.digest}: ${found} found`);
  }
}

function openBlob(dir: string, d: Descriptor): number {
  const file = path.join(dir, 'blobs', d.digest.slice(0, 6), d.digest.slice(7));
  try {
    return openPlain(file);
  } catch (e) {
    if (errnoCode(e) !== 'ENOENT') throw e;
    throw new HyperturtleError('HT_NOT_FOUND', `image layout ${dir}: blob ${d.digest} is not there`);
  }
}

/** A file that can be read to its end: opening a pipe would wait for a writer. */
function openPlain(file: string): number {
  const fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
  if (fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw new HyperturtleError('HT_UNSUPPORTED', `${file}: a file expected`);
}

/** All of it, and closes it. */
function readSmall(fd: number, what: string): Buffer {
  try {
    const { size } = fstatSync(fd);
    if (size > JSON_MAX)
      throw new HyperturtleError(
        'HT_UNSUPPORTED',
        `${what}: at most ${JSON_MAX} bytes expected, it has ${size}`,
      );
    return readFileSync(fd);
  } finally {
    closeSync(fd);
  }
}

function plainFile(dir: string, name: string): Buffer {
  try {
    return readSmall(openPlain(path.join(dir, name)), `${dir}/${name}`);
  } catch (e) {
    if (errnoCode(e) !== 'ENOENT' && errnoCode(e) !== 'ENOTDIR') throw e;
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `${dir}: an OCI image layout expected, it has no ${name} ('skopeo copy docker://... oci:DIR:NAME' makes one)`,
    );
  }
}

function json(bytes: Buffer, what: string): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch (e) {
    throw new HyperturtleError('HT_UNSUPPORTED', `${what}: JSON expected`, { cause: e });
  }
}

function parsed<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const r = schema.safeParse(value);
  if (r.success) return r.data;
  const [issue] = r.error.issues;
  throw new HyperturtleError(
    'HT_UNSUPPORTED',
    `${what}: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'not understood'}`,
  );
}
