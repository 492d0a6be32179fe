/** Objects of sets, from where a set says they are: checked, and kept while they are wanted. */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { HyperturtleError, messageOf } from '../core/errors.ts';
import { lazy } from '../core/lazy.ts';
import { Backoff } from '../core/retry.ts';
import { Signature } from '../core/signature.ts';
import type { KubeApi } from './kube.ts';
import { waitMs } from './reflector.ts';
import type { ObjectSpec } from './spec.ts';

export interface Fetched {
  elf: Buffer;
  sha256: string;
  signature?: Signature | undefined;
}

interface Failure {
  error: unknown;
  backoff: Backoff;
  until: number;
}

/** One file and its signature, where it has one. */
export interface Files {
  file: Buffer;
  signature?: string | undefined;
}

export type FetchOci = (image: string, file: string, signal: AbortSignal) => Promise<Files>;

const ConfigMap = lazy(() =>
  z.object({
    data: z.record(z.string(), z.string()).optional(),
    binaryData: z.record(z.string(), z.string()).optional(),
  }),
);

export class Sources {
  readonly #api: KubeApi;
  readonly #namespace: string;
  readonly #oci: FetchOci;
  readonly #times: { retryMinMs: number; refusedMs: number };
  readonly #kept = new Map<string, Fetched>();
  readonly #failed = new Map<string, Failure>();

  constructor(
    api: KubeApi,
    namespace: string,
    oci: FetchOci,
    times: { retryMinMs: number; refusedMs: number },
  ) {
    this.#api = api;
    this.#namespace = namespace;
    this.#oci = oci;
    this.#times = times;
  }

  /** Whether `fetch` would ask somebody now. */
  asks(spec: ObjectSpec): boolean {
    const key = keyOf(spec);
    return !this.#kept.has(key) && (this.#failed.get(key)?.until ?? 0) <= performance.now();
  }

  /** Until the first of those that failed is asked for again. */
  get dueInMs(): number {
    const due = Array.from(this.#failed.values(), ({ until }) => until - performance.now());
    return Math.max(0, Math.min(Infinity, ...due));
  }

  /** Forgets what is not among these. */
  keep(specs: readonly ObjectSpec[]): void {
    const keys = new Set(specs.map(keyOf));
    for (const map of [this.#kept, this.#failed])
      for (const key of map.keys()) if (!keys.has(key)) map.delete(key);
  }

  /**
   * Throws HT_NOT_FOUND (no such ConfigMap, key, image or file), HT_INTEGRITY (another SHA-256 than the set's), HT_SIGNATURE (it
   * cannot be read), and what the API answers: for a while the same again, without asking. Whether a signature is right is for
   * the host to say.
   */
  async fetch(spec: ObjectSpec, signal: AbortSignal): Promise<Fetched> {
    const key = keyOf(spec);
    const kept = this.#kept.get(key);
    if (kept) return kept;
    const before = this.#failed.get(key);
    if (before && before.until > performance.now()) throw before.error;
    try {
      const fetched = await this.#fetch(spec, signal);
      this.#kept.set(key, fetched);
      this.#failed.delete(key);
      return fetched;
    } catch (error) {
      signal.throwIfAborted();
      const { retryMinMs, refusedMs } = this.#times;
      const backoff = before?.backoff ?? new Backoff(retryMinMs, refusedMs, 1 / 2);
      this.#failed.set(key, { error, backoff, until: performance.now() + waitMs(backoff, error) });
      throw error;
    }
  }

  async #fetch(spec: ObjectSpec, signal: AbortSignal): Promise<Fetched> {
    const { file, signature } = await this.#files(spec, signal);
    const sha256 = createHash('sha256').update(file).digest('hex');
    if (spec.sha256 !== undefined && spec.sha256 !== sha256)
      throw new HyperturtleError(
        'HT_INTEGRITY',
        `${whereOf(spec)} has SHA-256 ${sha256}, the set says ${spec.sha256}: give new content a new name`,
      );
    return { elf: file, sha256, signature: spec.signature ?? parsed(signature, whereOf(spec)) };
  }

  #files(spec: ObjectSpec, signal: AbortSignal): Promise<Files> {
    if (spec.oci) return this.#oci(spec.oci.image, spec.oci.file, signal);
    if (spec.configMap) return this.#configMap(spec.configMap, signal);
    throw new HyperturtleError('HT_USAGE', 'one of configMap and oci expected');
  }

  async #configMap({ name, key }: NonNullable<ObjectSpec['configMap']>, signal: AbortSignal): Promise<Files> {
    const path = `/api/v1/namespaces/${encodeURIComponent(this.#namespace)}/configmaps/${encodeURIComponent(name)}`;
    const { data = {}, binaryData = {} } = ConfigMap().parse(await this.#api.request({ path }, signal));
    const binary = new Map(Object.entries(binaryData));
    const text = new Map(Object.entries(data));
    const base64 = binary.get(key);
    if (base64 === undefined)
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        `ConfigMap ${name} has no binaryData '${key}'; it has: ${[...binary.keys()].join(', ') || 'none'}`,
      );
    const signature = text.get(`${key}.sig`) ?? decoded(binary.get(`${key}.sig`));
    return { file: Buffer.from(base64, 'base64'), signature };
  }
}

const decoded = (base64: string | undefined): string | undefined =>
  base64 === undefined ? undefined : Buffer.from(base64, 'base64').toString('utf8');

function parsed(text: string | undefined, where: string): Signature | undefined {
  if (text === undefined) return undefined;
  try {
    return Signature().parse(JSON.parse(text));
  } catch (e) {
    throw new HyperturtleError(
      'HT_SIGNATURE',
      `${where}: its signature is not as 'hyperturtle sign' writes it: ${messageOf(e).slice(0, 200)}`,
      { cause: e },
    );
  }
}

const keyOf = ({ configMap, oci, sha256, signature }: ObjectSpec): string =>
  JSON.stringify([configMap, oci, sha256, signature]);

const whereOf = ({ configMap, oci }: ObjectSpec): string =>
  configMap ? `ConfigMap ${configMap.name}, ${configMap.key}` : `${oci?.image ?? '?'}, ${oci?.file ?? '?'}`;
