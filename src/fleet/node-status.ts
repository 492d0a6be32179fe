/**
 * What this node says of the sets: an object of its own, HyperupcallNode, written by server-side apply, so that nobody has to
 * read what others wrote. It is written when something changed: at once for what a set came to, seldom for counts.
 */
import { z } from 'zod';
import { messageOf } from '../core/errors.ts';
import { lazy } from '../core/lazy.ts';
import { Backoff } from '../core/retry.ts';
import { sleep } from '../core/wait.ts';
import { GROUP, NODES, VERSION } from './crd.ts';
import { statusOf } from './kube.ts';
import type { KubeApi } from './kube.ts';
import { waitMs } from './reflector.ts';
import { NodeStatus } from './spec.ts';

export interface StatusTimes {
  retryMinMs: number;
  retryMaxMs: number;
  /** Between two writes for counts of nested guests alone. */
  countsMs: number;
  /** After a change, so that several are one write. */
  settleMs: number;
  /** And up to this besides: a thousand nodes have a change in the same moment. */
  spreadMs: number;
}

export const STATUS_TIMES: StatusTimes = {
  retryMinMs: 1000,
  retryMaxMs: 60_000,
  countsMs: 60_000,
  settleMs: 200,
  spreadMs: 2000,
};

interface StatusOptions {
  api: KubeApi;
  namespace: string;
  node: string;
  /** Uid of the Node object, which owns ours: when that goes, ours is collected. */
  owner: () => string | undefined;
  onProblem: (message: string) => void;
  times?: Partial<StatusTimes>;
}

const FIELD_MANAGER = 'hyperturtle';
const Written = lazy(() => z.object({ status: NodeStatus().optional().catch(undefined) }));

export class StatusWriter {
  readonly #o: StatusOptions;
  readonly #times: StatusTimes;
  #latest: NodeStatus | undefined;
  #written: NodeStatus | undefined;
  #writtenAt = -Infinity;
  #wake: () => void = () => {};

  constructor(options: StatusOptions) {
    this.#o = options;
    this.#times = { ...STATUS_TIMES, ...options.times };
  }

  /** What an earlier reconciler of this node wrote, for times that go on; undefined: nothing, or nobody knows. */
  async earlier(signal: AbortSignal): Promise<NodeStatus | undefined> {
    try {
      const { status } = Written().parse(await this.#o.api.request({ path: this.#path }, signal));
      this.#written = status;
      return status;
    } catch (e) {
      if (!signal.aborted && statusOf(e) !== 404) this.#o.onProblem(messageOf(e));
      return undefined;
    }
  }

  set(status: NodeStatus): void {
    this.#latest = status;
    this.#wake();
  }

  /** Everything that was set has been written. */
  get settled(): boolean {
    return this.#latest === undefined || same(this.#latest, this.#written);
  }

  /** Until the signal aborts; never throws. */
  async run(signal: AbortSignal): Promise<void> {
    const backoff = new Backoff(this.#times.retryMinMs, this.#times.retryMaxMs, 1);
    while (!signal.aborted)
      try {
        const inMs = this.#dueInMs();
        if (inMs === undefined) await this.#changed(signal);
        else if (inMs > 0) await Promise.race([sleep(inMs, signal), this.#changed(signal)]);
        else {
          await sleep(this.#times.settleMs + Math.random() * this.#times.spreadMs, signal);
          await this.#write(signal);
          backoff.reset();
        }
      } catch (e) {
        if (signal.aborted) return;
        this.#o.onProblem(messageOf(e));
        await sleep(waitMs(backoff, e), signal).catch(() => {});
      }
  }

  /** Undefined: there is nothing to write. */
  #dueInMs(): number | undefined {
    if (this.settled || this.#latest === undefined) return undefined;
    if (!this.#written || !same(withoutCounts(this.#latest), withoutCounts(this.#written))) return 0;
    return Math.max(0, this.#writtenAt + this.#times.countsMs - performance.now());
  }

  #changed(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        signal.removeEventListener('abort', done);
        resolve();
      };
      this.#wake = done;
      signal.addEventListener('abort', done, { once: true });
      if (signal.aborted) done();
    });
  }

  async #write(signal: AbortSignal): Promise<void> {
    const status = this.#latest;
    if (status === undefined) return;
    try {
      await this.#apply('/status', { status }, signal);
    } catch (e) {
      // the first time, or somebody has deleted it
      if (statusOf(e) !== 404) throw e;
      const uid = this.#o.owner();
      const owner = uid && { apiVersion: 'v1', kind: 'Node', name: this.#o.node, uid };
      await this.#apply('', { metadata: owner ? { ownerReferences: [owner] } : {} }, signal);
      await this.#apply('/status', { status }, signal);
    }
    this.#written = status;
    this.#writtenAt = performance.now();
  }

  async #apply(
    sub: string,
    part: { metadata?: object; status?: NodeStatus },
    signal: AbortSignal,
  ): Promise<void> {
    const { node, namespace } = this.#o;
    const object = {
      apiVersion: `${GROUP}/${VERSION}`,
      kind: 'HyperupcallNode',
      ...part,
      metadata: { name: node, namespace, ...part.metadata },
    };
    await this.#o.api.apply(`${this.#path}${sub}`, object, FIELD_MANAGER, signal);
  }

  get #path(): string {
    const { namespace, node } = this.#o;
    return `${collection(namespace, NODES)}/${encodeURIComponent(node)}`;
  }
}

/** Path of our objects of one kind. */
export const collection = (namespace: string, plural: string): string =>
  `/apis/${GROUP}/${VERSION}/namespaces/${encodeURIComponent(namespace)}/${plural}`;

const withoutCounts = (status: NodeStatus): unknown => ({ ...status, nestedGuests: undefined });

const same = (a: unknown, b: unknown): boolean => canonical(a) === canonical(b);

/** The API gives fields in its own order. */
const canonical = (v: unknown): string =>
  JSON.stringify(v, (_, value: unknown) =>
    typeof value === 'object' && value !== null && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
      : value,
  );
