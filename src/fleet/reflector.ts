/**
 * A copy of what the API has of one kind, kept by a list and then a watch. It outlives failures of both: after a watch that broke
 * it watches on from where it was, after "410 Gone" it lists again, and it waits between tries (full jitter, Retry-After), so
 * that a thousand of these do not come back at once. What the copy has stays while nobody answers.
 */
import { z } from 'zod';
import { HyperturtleError, messageOf } from '../core/errors.ts';
import { ChildAbort } from '../core/lifecycle.ts';
import { lazy } from '../core/lazy.ts';
import { Backoff } from '../core/retry.ts';
import { sleep } from '../core/wait.ts';
import { kubeError, retryAfterMs, statusOf } from './kube.ts';
import type { KubeApi } from './kube.ts';
import { Metadata } from './spec.ts';

/** An object of the API: what is its own stays as it came. */
export interface Item {
  metadata: Metadata;
  spec?: unknown;
}

export interface ReflectorTimes {
  /** Between failures, doubling. */
  retryMinMs: number;
  retryMaxMs: number;
  /** A watch is ended by the server after this, or up to twice as long. */
  watchS: number;
}

export const REFLECTOR_TIMES: ReflectorTimes = { retryMinMs: 1000, retryMaxMs: 60_000, watchS: 300 };

interface ReflectorOptions {
  api: KubeApi;
  /** Path of the list: `/api/v1/nodes`. */
  path: string;
  query?: Readonly<Record<string, string>>;
  /** Only metadata is asked for. */
  metadataOnly?: boolean;
  /** The copy has changed, or is whole for the first time. */
  onChange: () => void;
  onProblem: (message: string) => void;
  times?: Partial<ReflectorTimes>;
}

const PAGE = '500';
/** A watch that ends sooner, without an event, has failed. */
const SHORT_MS = 1000;
/** What is late by more than this has no end of its own any more. */
const OVERDUE_S = 30;
/** Deleted objects that are remembered, so that a list from before does not bring one back. */
const BURIED_MAX = 1000;

const ItemSchema = lazy(() => z.object({ metadata: Metadata(), spec: z.unknown().optional() }));
const List = lazy(() =>
  z.object({
    metadata: z.object({ resourceVersion: z.string(), continue: z.string().optional() }),
    items: z.array(ItemSchema()).nullable(),
  }),
);
const WatchEvent = lazy(() =>
  z.object({
    type: z.enum(['ADDED', 'MODIFIED', 'DELETED', 'BOOKMARK', 'ERROR']),
    object: z.unknown().optional(),
  }),
);
const Marked = lazy(() => z.object({ metadata: z.object({ resourceVersion: z.string() }) }));

export class Reflector {
  readonly #o: ReflectorOptions;
  readonly #times: ReflectorTimes;
  #items = new Map<string, Item>();
  readonly #buried = new Set<string>();
  #listed = false;
  /** For measurements. */
  readonly counts = { lists: 0, watches: 0, gone: 0, failures: 0 };
  #watching = false;

  constructor(options: ReflectorOptions) {
    this.#o = options;
    this.#times = { ...REFLECTOR_TIMES, ...options.times };
  }

  /** By name; undefined until a list has been whole: nothing is known then. */
  get items(): ReadonlyMap<string, Item> | undefined {
    return this.#listed ? this.#items : undefined;
  }

  /** The API lets a watch go on. */
  get watching(): boolean {
    return this.#watching;
  }

  /** Until the signal aborts; never throws. */
  async run(signal: AbortSignal): Promise<void> {
    const { retryMinMs, retryMaxMs } = this.#times;
    const backoff = new Backoff(retryMinMs, retryMaxMs, 1);
    /** Where the next watch begins; undefined: a list has to say. */
    let version: string | undefined;
    while (!signal.aborted) {
      const watch = { openedAt: Infinity, events: 0 };
      // one that lasted has worked, however it ended
      const worked = (): boolean => watch.events > 0 || performance.now() - watch.openedAt >= SHORT_MS;
      try {
        version ??= await this.#list(signal);
        const failure = await this.#watch(version, signal, watch, (v) => (version = v));
        if (failure) throw failure;
        if (worked()) backoff.reset();
        else await sleep(backoff.nextMs(), signal);
      } catch (e) {
        if (signal.aborted) return;
        if (worked()) backoff.reset();
        if (statusOf(e) === 410) {
          this.counts.gone++;
          version = undefined;
        } else {
          this.counts.failures++;
          this.#o.onProblem(messageOf(e));
        }
        await sleep(waitMs(backoff, e), signal).catch(() => {});
      }
    }
  }

  /** Without a resourceVersion: what a quorum has, not what some server last saw. */
  async #list(signal: AbortSignal): Promise<string> {
    this.counts.lists++;
    const items = new Map<string, Item>();
    let next: string | undefined;
    for (;;) {
      const query = { ...this.#o.query, limit: PAGE, ...(next === undefined ? {} : { continue: next }) };
      const json = await this.#o.api.request(
        { path: this.#o.path, query, ...this.#accept('PartialObjectMetadataList') },
        signal,
      );
      const list = parse(List(), json, this.#o.path);
      for (const item of list.items ?? []) {
        const known = this.#items.get(item.metadata.name);
        if (this.#buried.has(item.metadata.uid)) continue;
        items.set(item.metadata.name, known && isOlder(item, known) ? known : item);
      }
      next = list.metadata.continue;
      if (next !== undefined && next !== '') continue;
      this.#items = items;
      this.#listed = true;
      this.#o.onChange();
      return list.metadata.resourceVersion;
    }
  }

  /** Returns when the server has ended the watch, with what it said was wrong. Throws when the connection broke. */
  async #watch(
    version: string,
    signal: AbortSignal,
    watch: { openedAt: number; events: number },
    reached: (version: string) => void,
  ): Promise<Error | undefined> {
    this.counts.watches++;
    const seconds = Math.ceil(this.#times.watchS * (1 + Math.random()));
    const query = {
      ...this.#o.query,
      ...{ watch: 'true', allowWatchBookmarks: 'true', resourceVersion: version },
      timeoutSeconds: String(seconds),
    };
    using overdue = new ChildAbort(signal);
    const timer = setTimeout(
      () => overdue.abort(kubeError(this.#o.path, { message: 'a watch did not end' }, 504)),
      (seconds + OVERDUE_S) * 1000,
    );
    try {
      const request = { path: this.#o.path, query, ...this.#accept('PartialObjectMetadata') };
      const opened = (): void => {
        watch.openedAt = performance.now();
        this.#watching = true;
      };
      for await (const line of this.#o.api.lines(request, overdue.signal, opened)) {
        const event = parse(WatchEvent(), jsonOf(line), this.#o.path);
        if (event.type === 'ERROR') return kubeError(this.#o.path, event.object);
        watch.events++;
        this.#take(event.type, event.object);
        reached(parse(Marked(), event.object, this.#o.path).metadata.resourceVersion);
      }
      return undefined;
    } finally {
      this.#watching = false;
      clearTimeout(timer);
    }
  }

  #take(type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK', object: unknown): void {
    if (type === 'BOOKMARK') return;
    const item = parse(ItemSchema(), object, this.#o.path);
    const { name, uid } = item.metadata;
    const known = this.#items.get(name);
    if (type === 'DELETED') {
      this.#bury(uid);
      // another of that name may have come before
      if (known?.metadata.uid === uid) this.#items.delete(name);
    } else if (!known || !isOlder(item, known)) this.#items.set(name, item);
    this.#o.onChange();
  }

  #bury(uid: string): void {
    this.#buried.add(uid);
    for (const first of this.#buried) {
      if (this.#buried.size <= BURIED_MAX) break;
      this.#buried.delete(first);
    }
  }

  #accept(as: string): { accept?: string } {
    return this.#o.metadataOnly
      ? { accept: `application/json;as=${as};g=meta.k8s.io;v=v1, application/json` }
      : {};
  }
}

/** Throws HT_UNAVAILABLE: what answers there is no API server, or is broken. */
function parse<T>(schema: z.ZodType<T>, value: unknown, path: string): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new HyperturtleError(
    'HT_UNAVAILABLE',
    `${path}: the API's answer is not as expected: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`,
  );
}

/** Undefined for what is no JSON. */
function jsonOf(line: string): unknown {
  try {
    return JSON.parse(line) as unknown;
  } catch {
    return undefined;
  }
}

/** Generations of one object only grow. */
function isOlder(a: Item, b: Item): boolean {
  return a.metadata.uid === b.metadata.uid && (a.metadata.generation ?? 0) < (b.metadata.generation ?? 0);
}

/** A server that says when to come back is not asked ever more seldom: by so many times that at most. */
const ASKED_MAX = 8;

/** What the API asks for, and a share of our own on top, so that not all come back at that moment. */
export function waitMs(backoff: Backoff, e: unknown): number {
  const [asked, own] = [retryAfterMs(e), backoff.nextMs()];
  return asked === 0 ? own : asked * (1 + Math.random()) + Math.min(own, Math.random() * ASKED_MAX * asked);
}
