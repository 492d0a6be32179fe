/**
 * One set on this node: has the local agent load and link what is wanted, by the requests that commands make as well. The agent
 * asks the host first and keeps what that accepted, over restarts of everything; so nothing is kept here, and a reconciler that
 * is killed leaves all as it is.
 */
import { createHash } from 'node:crypto';
import { isHyperturtleError, messageOf } from '../core/errors.ts';
import type { LOCAL_METHODS } from '../guest/agent/schema.ts';
import { kindOf } from '../wire/errors.ts';
import { sameOptions } from '../wire/link-options.ts';
import type { LinkOptions } from '../wire/link-options.ts';
import type { RequestOptions } from '../wire/peer.ts';
import type { LinkInfo, ObjectInfo, Params, ParamsOf, Result, ResultOf } from '../wire/schema.ts';
import type { Choice } from './rollout.ts';
import type { Fetched } from './source.ts';
import { OBJECT_PREFIX, shortMessage } from './spec.ts';
import type { LinkSpec, SetStatus } from './spec.ts';

type Local = typeof LOCAL_METHODS;

/** The agent of this machine. Throws what RpcPeer.request throws. */
export interface AgentCalls {
  request<M extends keyof Local>(
    method: M,
    params: ParamsOf<Local, M>,
    options?: RequestOptions,
  ): Promise<ResultOf<Local, M>>;
}

/** What the agent and its host have, at the beginning of a round. */
export interface Seen {
  desired: ResultOf<Local, 'agent.desired'>;
  host: Result<'list'>;
  problems: ResultOf<Local, 'agent.status'>['desired']['problems'];
}

export interface WantedSet {
  name: string;
  generation: number;
  choice: Choice;
  links: readonly LinkSpec[] | undefined;
}

/** What came of a set, before it is known since when. */
export type Outcome = Omit<SetStatus, 'since' | 'name' | 'generation' | 'version'>;

export const objectOf = (set: string): string => `${OBJECT_PREFIX}${set}`;

const LOAD_MS = 110_000;

/** What may pass by itself: to be tried again soon. */
const PASSING: ReadonlySet<string> = new Set([
  ...['BUSY', 'DEADLINE', 'UNAVAILABLE', 'INTERNAL', 'CANCELLED', 'NO_HELLO'],
]);

/** What an error of the agent or the host makes of a set. */
export function refusalOf(e: unknown): Pick<Outcome, 'phase' | 'kind' | 'rule' | 'message'> {
  const kind = kindOf(e);
  const rule = isHyperturtleError(e) ? e.detail['rule'] : undefined;
  return {
    phase: PASSING.has(kind) ? 'Pending' : 'Refused',
    kind,
    ...(typeof rule === 'string' ? { rule } : {}),
    message: shortMessage(messageOf(e)),
  };
}

/** Loads and links what lacks. Throws what ends the round: nobody answers any more. */
export async function applySet(
  set: WantedSet,
  fetched: Fetched,
  seen: Seen,
  agent: AgentCalls,
  signal: AbortSignal,
): Promise<Outcome> {
  const name = objectOf(set.name);
  let object = seen.host.objects.find((o) => o.name === name);
  const problem = refusedAlready(name, set, fetched, seen);
  if (problem) return { ...problem, ...whatIsThere(object, seen) };
  try {
    if (keepsOthers(name, set, seen)) {
      await agent.request('unload', { name, force: true }, { signal });
      object = undefined;
    }
    if (!isWanted(name, set, fetched, seen) || !object)
      object = await load(name, set, fetched, agent, signal);
    return await applyLinks(object, set, seen, agent, signal);
  } catch (e) {
    if (kindOf(e) === 'UNAVAILABLE') throw e;
    return { ...refusalOf(e), ...whatIsThere(object, seen) };
  }
}

/** Objects of sets that are not wanted here any more, with their links. */
export async function unloadOthers(
  wanted: ReadonlySet<string>,
  seen: Seen,
  agent: AgentCalls,
  signal: AbortSignal,
): Promise<string[]> {
  const there = new Set([...seen.desired.objects, ...seen.host.objects].map((o) => o.name));
  const others = [...there].filter((n) => n.startsWith(OBJECT_PREFIX) && !wanted.has(n));
  for (const name of others)
    await agent.request('unload', { name, force: true }, { signal }).catch((e: unknown) => {
      if (!isHyperturtleError(e, 'HT_NOT_FOUND')) throw e;
    });
  return others;
}

const whatIsThere = (
  object: ObjectInfo | undefined,
  seen: Seen,
): Pick<Outcome, 'sha256' | 'signedBy' | 'links'> => ({
  ...(object ? { sha256: object.sha256 } : {}),
  ...(object?.signedBy ? { signedBy: object.signedBy } : {}),
  links: object ? seen.host.links.filter((l) => l.object === object.name).length : 0,
});

/** The agent wants this very object already. */
function isWanted(name: string, { choice }: WantedSet, fetched: Fetched, seen: Seen): boolean {
  const there = seen.desired.objects.find((o) => o.name === name);
  return (
    there !== undefined &&
    there.sha256 === fetched.sha256 &&
    there.signedBy === (fetched.signature?.keyId ?? null) &&
    digest(there.constants) === digest(choice.object.constants)
  );
}

/** The agent wants a link that the set does not name, and that the host does not have: only the object's end ends that. */
const keepsOthers = (name: string, { links }: WantedSet, seen: Seen): boolean =>
  links !== undefined &&
  seen.desired.links.some(
    (d) =>
      d.object === name &&
      !links.some((w) => w.hook === d.hook && w.target === (d.target ?? undefined)) &&
      !seen.host.links.some((l) => l.object === name && l.hook === d.hook && l.target === d.target),
  );

/** The agent wants it and the host does not let it: the agent tries it itself, now and then. */
function refusedAlready(
  name: string,
  set: WantedSet,
  fetched: Fetched,
  seen: Seen,
): Pick<Outcome, 'phase' | 'kind' | 'message'> | undefined {
  if (!isWanted(name, set, fetched, seen)) return undefined;
  const found = seen.problems.find((p) => p.step === `load ${name}` || p.step === `replace ${name}`);
  return (
    found && {
      phase: PASSING.has(found.kind) ? 'Pending' : 'Refused',
      kind: found.kind,
      message: shortMessage(found.message),
    }
  );
}

const digest = (constants: Record<string, string> = {}): string =>
  createHash('sha256')
    .update(JSON.stringify(Object.entries(constants).sort()))
    .digest('hex');

async function load(
  name: string,
  { choice }: WantedSet,
  { elf, signature }: Fetched,
  agent: AgentCalls,
  signal: AbortSignal,
): Promise<ObjectInfo> {
  const { constants } = choice.object;
  const params: Params<'load'> = {
    name,
    elf: elf.toString('base64'),
    ...(signature ? { signature } : {}),
    ...(constants ? { constants } : {}),
  };
  const options = { timeoutMs: LOAD_MS, signal };
  try {
    return (await agent.request('load', params, options)).object;
  } catch (e) {
    if (!isHyperturtleError(e, 'HT_EXISTS')) throw e;
    // swapped in its place: its links never answer with neither
    return (await agent.request('replace', params, options)).object;
  }
}

interface Wanted extends Omit<LinkSpec, 'options'> {
  options?: LinkOptions;
}

/** What the set says, or each hook that has a program in the object; those of NICs need a target. */
function linksOf(object: ObjectInfo, links: readonly LinkSpec[] | undefined): Wanted[] {
  if (links) return links as Wanted[];
  const hooks = new Set(object.programs.map((p) => p.hook));
  return [...hooks].filter((h) => !/^(xdp|tc-)/.test(h)).map((hook) => ({ hook }));
}

const isLink = (l: LinkInfo, w: Wanted): boolean =>
  l.hook === w.hook &&
  (l.target ?? undefined) === w.target &&
  (w.program === undefined || l.program === w.program);

const isAsWanted = (l: LinkInfo, w: Wanted): boolean =>
  isLink(l, w) && (w.order ?? l.order) === l.order && sameOptions(w.options, l.options);

async function applyLinks(
  object: ObjectInfo,
  set: WantedSet,
  seen: Seen,
  agent: AgentCalls,
  signal: AbortSignal,
): Promise<Outcome> {
  const wanted = linksOf(object, set.links);
  const ended = (seen.host.ended ?? []).filter((e) => e.link.object === object.name);
  let there = seen.host.links.filter((l) => l.object === object.name);
  for (const link of there.filter((l) => !wanted.some((w) => isLink(l, w)))) {
    await agent.request('unlink', { id: link.id }, { signal });
    there = there.filter((l) => l !== link);
  }
  const state = (): Pick<Outcome, 'sha256' | 'signedBy' | 'links'> => ({
    ...whatIsThere(object, seen),
    links: there.length,
  });
  for (const link of wanted.filter((w) => !there.some((l) => isAsWanted(l, w)))) {
    const end = ended.find((e) => isLink(e.link, link));
    // runs took too long: making it again is for people, or for another object
    if (end && object.sha256 === seen.host.objects.find((o) => o.name === object.name)?.sha256)
      return { phase: 'Refused', kind: 'ENDED', message: shortMessage(end.reason), ...state() };
    try {
      const made = await agent.request('link', { object: object.name, ...link }, { signal });
      there = [...there.filter((l) => l.id !== made.link.id), made.link];
    } catch (e) {
      if (kindOf(e) === 'UNAVAILABLE') throw e;
      const { phase, ...why } = refusalOf(e);
      return { phase: phase === 'Pending' ? 'Admitted' : phase, ...why, ...state() };
    }
  }
  return { phase: 'Linked', ...state() };
}
