/** One request after the other, timed: what a client of the control plane sees, over whichever connection it has. */
import type { METHODS } from '../../wire/schema.ts';
import type { ParamsOf, ResultOf } from '../../wire/schema.ts';
import { ROUND_TRIPS } from './schema.ts';
import type { ChangeSample, RoundTrips } from './schema.ts';

type Methods = typeof METHODS;
type Measured = 'ping' | 'stats' | 'list' | 'load' | 'link' | 'unlink' | 'unload';

/** A session with the daemon, or with an agent that passes requests on. */
export interface ControlClient {
  request<M extends Measured>(
    method: M,
    params: ParamsOf<Methods, M>,
    options: { signal?: AbortSignal | undefined; timeoutMs?: number },
  ): Promise<ResultOf<Methods, M>>;
}

export const HOOK = 'npf';
export const OBJECT = 'bench';

export async function elapsedMs(work: Promise<unknown>): Promise<number> {
  const t0 = performance.now();
  await work;
  return performance.now() - t0;
}

/** `times` of each method, in turn; microseconds. */
export async function roundTripsUs(
  client: ControlClient,
  times: number,
  signal: AbortSignal | undefined,
): Promise<RoundTrips> {
  const all: RoundTrips = { ping: [], stats: [], list: [] };
  for (let i = 0; i < times; i++)
    for (const method of ROUND_TRIPS)
      all[method].push(1000 * (await elapsedMs(client.request(method, {}, { signal }))));
  return all;
}

/** Loads `elf` (base64), links it to the hook, and undoes both. The hook must be free. */
export async function change(
  client: ControlClient,
  elf: string,
  options: { signal?: AbortSignal | undefined; timeoutMs?: number },
): Promise<Omit<ChangeSample, 'pace'>> {
  const loadMs = await elapsedMs(client.request('load', { name: OBJECT, elf }, options));
  try {
    const t0 = performance.now();
    const { link } = await client.request('link', { object: OBJECT, hook: HOOK }, options);
    const linkMs = performance.now() - t0;
    const unlinkMs = await elapsedMs(client.request('unlink', { id: link.id }, options));
    const unloadMs = await elapsedMs(client.request('unload', { name: OBJECT }, options));
    return { loadMs, linkMs, unlinkMs, unloadMs };
  } catch (e) {
    await client.request('unload', { name: OBJECT, force: true }, {}).catch(() => {}); // the first failure is the one to tell
    throw e;
  }
}
