/**
 * The device plugin as a whole: keeps the pool as it should be, serves it at a socket, and sees to it that the kubelet that
 * runs now knows of it. All of it can be killed at any moment; the next one goes on with the same devices.
 */
import path from 'node:path';
import { isHyperturtleError, messageOf } from '../../core/errors.ts';
import { ChildAbort } from '../../core/lifecycle.ts';
import { sleep } from '../../core/wait.ts';
import type { NicMeans, PoolLog } from './pool.ts';
import { Pool } from './pool.ts';
import { Kubelet } from './kubelet.ts';
import { PluginServer } from './server.ts';
import { NicService } from './service.ts';

export interface PluginSpec {
  /** `hyperturtle.io/nic` */
  resource: string;
  /** How many NICs; undefined: as many as the host gives. */
  count: number | undefined;
  /** Directory of kubelet's sockets. */
  dir: string;
  /** Between looks at the NICs. */
  everyMs: number;
  means: NicMeans;
  holders: (file: string) => number[];
  log: PoolLog;
  signal: AbortSignal;
}

/** Between looks at kubelet's socket and our own. */
const LOOK_MS = 500;
/** Kubelet begins to watch as soon as it has answered. */
const WATCHED_WITHIN_MS = 5_000;
const AGAIN_MAX_MS = 10_000;

/** `hyperturtle.io/nic` has sockets and NICs of this name. */
const nameOf = (resource: string): string => resource.replace(/^.*\//, '').replaceAll(/[^\w-]/g, '-');

/** Runs until the signal. Throws HT_BUSY when there is another one, and what listening throws. */
export async function runPlugin(spec: PluginSpec): Promise<void> {
  const { resource, count, log, signal } = spec;
  const name = nameOf(resource);
  const pool = new Pool({ prefix: `k8s-${name}-`, count }, spec.means, log);
  const service = new NicService({ pool, resource, holders: spec.holders });
  // kubelet would take an empty list for the whole truth
  for (let ms = LOOK_MS; !(await known(pool, spec)); ms = Math.min(2 * ms, AGAIN_MAX_MS))
    await sleep(ms, signal);
  // what ends one part ends all
  using all = new ChildAbort(signal);
  const own = { ...spec, signal: all.signal };
  const link = new KubeletLink(own, `hyperturtle-${name}.sock`, service);
  const parts = [link.keep(), watchPool(pool, own, () => link.tell()), repairPool(pool, own)];
  try {
    await Promise.all(parts);
  } finally {
    all.abort();
    link.close();
    await Promise.allSettled(parts);
  }
}

/** Whether the host has answered. */
async function known(pool: Pool, { log, signal }: PluginSpec): Promise<boolean> {
  try {
    await pool.refresh(signal);
    await pool.repair(signal);
    await pool.refresh(signal);
    return true;
  } catch (e) {
    if (signal.aborted) throw e;
    log.warn({}, `the host cannot be asked: ${messageOf(e)}`);
    return false;
  }
}

async function watchPool(
  pool: Pool,
  { everyMs, log, signal }: PluginSpec,
  changed: () => void,
): Promise<void> {
  for (;;) {
    await sleep(everyMs, signal);
    try {
      if (await pool.refresh(signal)) changed();
    } catch (e) {
      if (signal.aborted) throw e;
      log.warn({}, messageOf(e));
    }
  }
}

/** Beside watching, as a device that does not come is waited for. */
async function repairPool(pool: Pool, { everyMs, signal }: PluginSpec): Promise<never> {
  for (;;) {
    await sleep(everyMs, signal);
    await pool.repair(signal);
  }
}

class KubeletLink {
  readonly #spec: PluginSpec;
  readonly #endpoint: string;
  readonly #service: NicService;
  readonly #kubelet: Kubelet;
  #server: PluginServer | undefined;
  #served = false;
  /** Which kubelet has been told, and when. */
  #told: { instance: string; at: number } | undefined;

  constructor(spec: PluginSpec, endpoint: string, service: NicService) {
    this.#spec = spec;
    this.#endpoint = endpoint;
    this.#service = service;
    this.#kubelet = new Kubelet(spec.dir);
  }

  tell(): void {
    this.#server?.tell();
  }

  close(): void {
    this.#server?.close();
  }

  async keep(): Promise<never> {
    let ms = LOOK_MS;
    let complaint = '';
    for (;;) {
      try {
        await this.#look();
        [ms, complaint] = [LOOK_MS, ''];
      } catch (e) {
        // not twice at once; and what keeps the first socket from being made keeps all
        if (this.#spec.signal.aborted || !this.#served || isHyperturtleError(e, 'HT_BUSY')) throw e;
        if (messageOf(e) !== complaint) this.#spec.log.warn({}, messageOf(e));
        complaint = messageOf(e);
        ms = Math.min(2 * ms, AGAIN_MAX_MS);
      }
      await sleep(ms, this.#spec.signal);
    }
  }

  async #look(): Promise<void> {
    const { dir, resource, signal, log } = this.#spec;
    const instance = this.#kubelet.instance;
    // without kubelet there may be no directory either
    if (instance === undefined && this.#server === undefined) return;
    if (!this.#server?.reachable) {
      this.#server?.close();
      this.#server = undefined;
      this.#server = await PluginServer.listen(path.join(dir, this.#endpoint), this.#service, signal);
      this.#served = true;
      this.#told = undefined;
    }
    if (instance === undefined) return;
    const watching = this.#server.watched > 0;
    if (watching && this.#told) this.#told.at = performance.now();
    const lost = this.#told && !watching && performance.now() - this.#told.at > WATCHED_WITHIN_MS;
    if (this.#told?.instance === instance && !lost) return;
    await this.#kubelet.register(this.#endpoint, resource);
    this.#told = { instance, at: performance.now() };
    log.info({ resource, devices: this.#service.devices.length }, 'registered with kubelet');
  }
}
