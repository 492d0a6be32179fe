/** A profile under way: the program in the host, linked from `begin` to `end`, and what it has counted. */
import { HyperturtleError, isHyperturtleError } from '../core/errors.ts';
import { HT_PROFILE_F_NO_KERNEL, HT_PROFILE_F_NO_USER } from '../kernel/sample.ts';
import { wireMaps } from '../net/maps.ts';
import type { MapAccess } from '../net/maps.ts';
import { readEntries, readStacks, readTotals, setWanted } from '../profile/stacks.ts';
import type { Stack, Totals } from '../profile/stacks.ts';
import type { Result } from '../wire/schema.ts';
import { objectFile, readObject } from './object.ts';
import type { AgentClient } from './session.ts';
import { loadAndLink } from './transaction.ts';

/** The object's name: an L1 has one profile at a time, as the hook has one program. */
const OBJECT = 'profile';
const FILE = 'profile.bpf.o';

export interface SessionSpec {
  /** Name of a registered nested guest; left out: all of this machine. */
  l2?: string;
  hz: number;
  depth: number;
  /** Undefined: both. */
  user: boolean | undefined;
  /** Left out: as installed. */
  object?: string;
  /** Take the place of a profile that is there. */
  force: boolean;
}

export interface Counted {
  stacks: Stack[];
  totals: Totals;
  /** Where the page fault handler of each L2's kernel is, by its number. */
  entries: Map<number, bigint>;
}

/** What a hook did while the profile was taken. */
export interface Taken {
  source: string;
  outside: number;
  throttled: number;
  ns: number;
  samples: number;
}

type SampleStats = Result<'stats'>['hooks'][number];

export class ProfileSession {
  readonly #client: AgentClient;
  readonly #maps: MapAccess;
  readonly #before: SampleStats | undefined;
  readonly startedAt = new Date();

  private constructor(client: AgentClient, maps: MapAccess, before: SampleStats | undefined) {
    this.#client = client;
    this.#maps = maps;
    this.#before = before;
  }

  /** Throws HT_NOT_FOUND without such a guest, HT_BUSY when there is a profile already, and what the host answers. */
  static async begin(client: AgentClient, spec: SessionSpec): Promise<ProfileSession> {
    const { peer, signal, timeoutMs } = client;
    const to = { signal, timeoutMs };
    const l2 = spec.l2 === undefined ? undefined : await nestedGuest(client, spec.l2);
    const object = readObject(spec.object ?? objectFile(FILE));
    if (spec.force)
      await peer.request('unload', { name: OBJECT, force: true }, to).catch((e: unknown) => {
        if (!isHyperturtleError(e, 'HT_NOT_FOUND')) throw e;
      });
    const { objects } = await peer.request('list', {}, to);
    if (objects.some((o) => o.name === OBJECT))
      throw new HyperturtleError(
        'HT_BUSY',
        `object '${OBJECT}' is loaded: another profile is being taken, or one was killed; --force takes its place`,
      );
    const before = await sampleStats(client);
    const maps = wireMaps((method, params) => peer.request(method, params as never, { timeoutMs }), OBJECT);
    const flags =
      (spec.user === false ? HT_PROFILE_F_NO_USER : 0) | (spec.user === true ? HT_PROFILE_F_NO_KERNEL : 0);
    const session = new ProfileSession(client, maps, before);
    await loadAndLink(
      client,
      { name: OBJECT, ...object },
      {
        before: () => setWanted(maps, { l2: l2?.number ?? 0, flags }),
        links: () => [{ hook: 'sample', options: { hz: spec.hz, depth: spec.depth } }],
      },
    );
    return session;
  }

  /** Counts so far; the profile goes on. */
  read(): Promise<Counted> {
    return readCounted(this.#maps);
  }

  /** What the hook did since the beginning. */
  async stats(): Promise<Taken> {
    return takenBetween(this.#before, await sampleStats(this.#client));
  }

  /** No sample is taken any more; what was counted can still be read. */
  async stop(): Promise<void> {
    const { peer, timeoutMs } = this.#client;
    const { links } = await peer.request('list', {}, { timeoutMs });
    for (const link of links)
      if (link.object === OBJECT) await peer.request('unlink', { id: link.id }, { timeoutMs });
  }

  /** The host forgets it all. */
  async end(): Promise<void> {
    await unload(this.#client);
  }
}

type Counts = Pick<SampleStats, 'samples' | 'reasons'>;

export function takenBetween(before: Counts | undefined, now: Counts | undefined): Taken {
  const since = (of: (s: Counts) => number | undefined): number =>
    ((now && of(now)) ?? 0) - ((before && of(before)) ?? 0);
  const cycles = since((s) => s.samples?.cycles);
  const clock = since((s) => s.samples?.clock);
  return {
    source: cycles > 0 ? 'cycles' : clock > 0 ? 'cpu-clock' : 'none',
    outside: since((s) => s.samples?.outside),
    throttled: since((s) => s.reasons['THROTTLED']),
    ns: since((s) => s.samples?.ns),
    samples: cycles + clock,
  };
}

export async function readCounted(maps: MapAccess): Promise<Counted> {
  return {
    stacks: await readStacks(maps),
    totals: await readTotals(maps),
    entries: await readEntries(maps),
  };
}

/** Also when the command was interrupted: so without its signal. */
async function unload({ peer, timeoutMs }: AgentClient): Promise<void> {
  await peer.request('unload', { name: OBJECT, force: true }, { timeoutMs });
}

async function sampleStats({ peer, timeoutMs }: AgentClient): Promise<SampleStats | undefined> {
  const { hooks } = await peer.request('stats', {}, { timeoutMs });
  return hooks.find((h) => h.hook === 'sample');
}

/** Throws HT_NOT_FOUND. */
export async function nestedGuest(
  { peer, signal, timeoutMs }: AgentClient,
  name: string,
): Promise<{ number: number; pid: number; name: string }> {
  const { l2s } = await peer.request('agent.status', {}, { signal, timeoutMs });
  const found = l2s.find((l) => l.name === name || String(l.pid) === name);
  if (found) return found;
  throw new HyperturtleError(
    'HT_NOT_FOUND',
    `no nested guest '${name}' is registered; there are: ${l2s.map((l) => l.name).join(', ') || 'none'}`,
  );
}
