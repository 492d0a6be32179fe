/**
 * Objects from registries of OCI images: an artifact whose layers are files with titles, as `oras push` makes it. Named by its
 * digest, and each part is checked against its own, so that a registry can withhold and not change. With a token where the
 * registry asks for one, and the credentials of a Docker configuration where one is given.
 */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { HyperturtleError, messageOf } from '../core/errors.ts';
import { lazy } from '../core/lazy.ts';
import { abortReason } from '../core/wait.ts';
import type { FetchOci, Files } from './source.ts';

const TIMEOUT_MS = 60_000;
const MANIFEST_MAX = 4 << 20;
/** Objects are 3 MiB at most, by the wire protocol. */
const FILE_MAX = 4 << 20;
const TITLE = 'org.opencontainers.image.title';
const MANIFESTS =
  'application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json';

const Manifest = lazy(() =>
  z.object({
    layers: z.array(
      z.object({
        digest: z.string().regex(/^sha256:[0-9a-f]{64}$/),
        size: z.int().nonnegative(),
        annotations: z.record(z.string(), z.string()).optional(),
      }),
    ),
  }),
);
const Token = lazy(() => z.object({ token: z.string().optional(), access_token: z.string().optional() }));
const DockerConfig = lazy(() =>
  z.object({ auths: z.record(z.string(), z.object({ auth: z.string().optional() })).optional() }),
);

export interface OciOptions {
  /** Docker's `config.json`; it is read for each request. */
  credentials?: string | undefined;
  /** Registries that are asked without TLS: for tests and mirrors on the node. */
  plain?: readonly string[];
}

/** Throws HT_NOT_FOUND, HT_REFUSED (credentials), HT_INTEGRITY, HT_UNAVAILABLE, HT_CONFIG. */
export function ociFetcher(options: OciOptions = {}): FetchOci {
  return async (image, file, signal) => {
    const [, host = '', name = '', digest = ''] = /^([^/]+)\/(.+)@(sha256:[0-9a-f]{64})$/.exec(image) ?? [];
    const from = new Registry(
      host,
      name,
      options,
      AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]),
    );
    const manifest = await from.get(`manifests/${digest}`, digest, MANIFEST_MAX);
    const { layers } = parse(Manifest(), manifest.toString('utf8'), image);
    const titled = (title: string): (typeof layers)[number] | undefined =>
      layers.find((l) => new Map(Object.entries(l.annotations ?? {})).get(TITLE) === title);
    const layer = titled(file);
    if (!layer) throw new HyperturtleError('HT_NOT_FOUND', `${image} has no layer with the title '${file}'`);
    const signature = titled(`${file}.sig`);
    const content = (l: typeof layer): Promise<Buffer> => from.get(`blobs/${l.digest}`, l.digest, FILE_MAX);
    const files: Files = { file: await content(layer) };
    return signature ? { ...files, signature: (await content(signature)).toString('utf8') } : files;
  };
}

class Registry {
  readonly #host: string;
  readonly #name: string;
  readonly #o: OciOptions;
  readonly #signal: AbortSignal;
  #authorization: string | undefined;

  constructor(host: string, name: string, options: OciOptions, signal: AbortSignal) {
    this.#host = host;
    this.#name = name;
    this.#o = options;
    this.#signal = signal;
  }

  async get(what: string, digest: string, max: number): Promise<Buffer> {
    const scheme = this.#o.plain?.includes(this.#host) ? 'http' : 'https';
    const url = `${scheme}://${this.#host}/v2/${this.#name}/${what}`;
    let response = await this.#fetch(url, this.#authorization);
    if (response.status === 401) {
      this.#authorization = await this.#authorize(response.headers.get('www-authenticate') ?? '');
      response = await this.#fetch(url, this.#authorization);
    }
    if (!response.ok) throw failure(url, response);
    const content = await bytesOf(url, response, max);
    const found = `sha256:${createHash('sha256').update(content).digest('hex')}`;
    if (found !== digest)
      throw new HyperturtleError('HT_INTEGRITY', `${url}: ${digest} expected, found ${found}`);
    return content;
  }

  async #fetch(url: string, authorization: string | undefined): Promise<Response> {
    try {
      return await fetch(url, {
        headers: { accept: `${MANIFESTS}, */*`, ...(authorization ? { authorization } : {}) },
        signal: this.#signal,
      });
    } catch (e) {
      if (this.#signal.aborted) throw abortReason(this.#signal);
      const cause = e instanceof Error && e.cause !== undefined ? messageOf(e.cause) : messageOf(e);
      throw new HyperturtleError('HT_UNAVAILABLE', `${url}: ${cause}`, { cause: e });
    }
  }

  /** What the registry asks for: a password, or a token from where it says. */
  async #authorize(challenge: string): Promise<string> {
    const basic = await this.#credentials();
    if (/^basic/i.test(challenge)) {
      if (basic) return basic;
      throw new HyperturtleError('HT_REFUSED', `${this.#host} wants a password: give one by --registry-auth`);
    }
    const field = (name: string): string | undefined => new RegExp(`${name}="([^"]*)"`).exec(challenge)?.[1];
    const realm = field('realm');
    if (!/^bearer/i.test(challenge) || realm === undefined)
      throw new HyperturtleError(
        'HT_REFUSED',
        `${this.#host} refuses, and asks for nothing known: '${challenge}'`,
      );
    const url = new URL(realm);
    const service = field('service');
    if (service !== undefined) url.searchParams.set('service', service);
    url.searchParams.set('scope', field('scope') ?? `repository:${this.#name}:pull`);
    const response = await this.#fetch(url.href, basic);
    if (!response.ok) throw failure(url.href, response);
    const text = (await bytesOf(url.href, response, MANIFEST_MAX)).toString('utf8');
    const { token, access_token: other } = parse(Token(), text, url.href);
    return `Bearer ${token ?? other ?? ''}`;
  }

  async #credentials(): Promise<string | undefined> {
    const { credentials: file } = this.#o;
    if (file === undefined) return undefined;
    let text: string;
    try {
      text = await readFile(file, 'utf8');
    } catch (e) {
      throw new HyperturtleError('HT_CONFIG', `${file}: a Docker configuration expected: ${messageOf(e)}`);
    }
    const { auths = {} } = parse(DockerConfig(), text, file, 'HT_CONFIG');
    const auth = new Map(Object.entries(auths)).get(this.#host)?.auth;
    return auth === undefined ? undefined : `Basic ${auth}`;
  }
}

function failure(url: string, { status }: Response): HyperturtleError {
  const code =
    status === 404
      ? 'HT_NOT_FOUND'
      : status === 401 || status === 403
        ? 'HT_REFUSED'
        : status === 429
          ? 'HT_BUSY'
          : 'HT_UNAVAILABLE';
  return new HyperturtleError(code, `${url}: ${status}`, { detail: { status } });
}

async function bytesOf(url: string, response: Response, max: number): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  let bytes = 0;
  for await (const part of (response.body ?? []) as AsyncIterable<Uint8Array>) {
    bytes += part.length;
    if (bytes > max) throw new HyperturtleError('HT_INTEGRITY', `${url}: over ${max} bytes`);
    parts.push(part);
  }
  return Buffer.concat(parts);
}

function parse<T>(
  schema: z.ZodType<T>,
  text: string,
  where: string,
  code: 'HT_INTEGRITY' | 'HT_CONFIG' = 'HT_INTEGRITY',
): T {
  try {
    return schema.parse(JSON.parse(text));
  } catch (e) {
    throw new HyperturtleError(code, `${where}: not as expected: ${messageOf(e).slice(0, 200)}`, {
      cause: e,
    });
  }
}
