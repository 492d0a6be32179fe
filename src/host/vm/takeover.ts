/** Links to NICs that an earlier daemon made: what the next one does with each, and how it tells of those that it cannot have. */
import type { EndedLink, LinkInfo } from '../../wire/schema.ts';
import { isPacketHook } from '../hooks.ts';
import type { ChainEntry } from '../packets/chain.ts';
import type { WithoutDaemon } from '../packets/chain-pins.ts';
import type { Adopted, LeftLink, LeftPlace } from '../packets/packet-links.ts';
import { UNNAMED } from './kept.ts';
import type { Kept, KeptLink } from './kept.ts';

export interface KnownNic {
  readonly id: string;
  readonly ifindex: number;
}

type KeptPlace = Omit<LeftPlace, 'links'> & {
  readonly links: (LeftLink & Pick<KeptLink, 'info'>)[];
};

/** By `entryOf` a link's program among the objects that were taken over. */
export function leftPlaces(
  kept: Kept,
  nics: readonly KnownNic[],
  entryOf: (link: LinkInfo) => ChainEntry | undefined,
): KeptPlace[] {
  const entryOrWhy = ({ info, ifindex }: KeptLink): LeftLink['entry'] => {
    if (kept.withoutDaemon === 'open') return "the VM's nics.withoutDaemon is open";
    if (nics.find((n) => n.id === info.target)?.ifindex !== ifindex)
      return `its NIC '${info.target ?? ''}' is not there any more`;
    return entryOf(info) ?? kept.lost.get(info.object) ?? 'its object has no such program';
  };
  const places = new Map<string, KeptPlace>();
  for (const link of kept.links) {
    const { id, hook, target } = link.info;
    if (!isPacketHook(hook) || target === null) continue;
    const key = `${hook} ${target}`;
    const place = places.get(key) ?? { nic: target, hook, ifindex: link.ifindex, links: [] };
    place.links.push({ id, info: link.info, entry: entryOrWhy(link), before: link.before });
    places.set(key, place);
  }
  return [...places.values()];
}

/** Links of a place that are to be reported, and why. A link that had been ended is not among them. */
export function leftOffOf(
  links: readonly LinkInfo[],
  adopted: Adopted,
  mode: WithoutDaemon | undefined,
): EndedLink[] {
  if (!('problem' in adopted)) return [];
  const at = new Date().toISOString();
  const reason = `${adopted.held ? held(mode) : PASSES}${adopted.problem}`;
  return links.filter((l) => adopted.ids?.includes(l.id) ?? true).map((link) => ({ link, reason, at }));
}

const PASSES = "off since the host's daemon ended, frames pass without it: ";
const RUNS_ON = 'held as the earlier daemon left it, and runs on until a program is linked there again: ';
const DROPS = "off since the host's daemon ended, frames are dropped there until a program is linked again: ";

const held = (mode: WithoutDaemon | undefined): string => (mode === 'drop' ? DROPS : RUNS_ON);

/** What was held has ended. */
export function noLongerHeld(left: EndedLink): EndedLink {
  const prefix = [RUNS_ON, DROPS].find((p) => left.reason.startsWith(p));
  return prefix === undefined ? left : { ...left, reason: PASSES + left.reason.slice(prefix.length) };
}

/**
 * What is left off beside a new link. It does the work of the same program on the same hook of the same NIC; of what nobody
 * knows the name of it does that of one. What was held there has ended with it.
 */
export function leftOffBeside(all: readonly EndedLink[], link: LinkInfo): EndedLink[] {
  const there = all.filter((left) => left.link.hook === link.hook && left.link.target === link.target);
  const done =
    there.find((left) => left.link.object === link.object && left.link.program === link.program) ??
    there.find((left) => left.link.object === UNNAMED);
  return all
    .filter((left) => left !== done)
    .map((left) => (there.includes(left) ? noLongerHeld(left) : left));
}
