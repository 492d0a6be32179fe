/**
 * A chain's place on a network device: a link, which ends with its last descriptor or pin, or a filter of clsact, which
 * stays until somebody removes it or the device goes.
 */
import type { Caller } from '../../bpf/calls.ts';
import type { OwnedFd } from '../../bpf/fds.ts';
import {
  addClsact,
  detachLink,
  linkTcx,
  linkXdp,
  removeClsact,
  removeFilter,
  setFilter,
  updateLink,
} from '../../bpf/net.ts';
import type { Direction } from '../../bpf/net.ts';
import { closeBy } from '../../bpf/sys.ts';
import type { PacketHook } from '../hooks.ts';

/** Something attached to a device. */
export interface Attachment {
  /** To be pinned; filters have none. */
  readonly link?: OwnedFd;
  replace(program: OwnedFd): Promise<void>;
  /** No frame sees it any more when it settles. */
  close(): Promise<void>;
  /** Gives up what this process has of it; what is pinned or a filter runs on. */
  release(): Promise<void>;
}

export const directionOf = (hook: Exclude<PacketHook, 'xdp'>): Direction =>
  hook === 'tc-ingress' ? 'ingress' : 'egress';

/** Throws HT_BUSY when something else is attached, HT_NOT_FOUND without the device. */
export async function attach(
  call: Caller,
  hook: PacketHook,
  ifindex: number,
  program: OwnedFd,
  tcx: boolean,
): Promise<Attachment> {
  if (hook === 'xdp') return linkAttachment(call, await linkXdp(call, program, ifindex));
  const direction = directionOf(hook);
  const link = tcx ? await linkTcx(call, program, ifindex, direction) : undefined;
  return link ? linkAttachment(call, link) : await filterAttachment(call, program, ifindex, direction);
}

/** Takes over the descriptor. */
export function linkAttachment(call: Caller, link: OwnedFd): Attachment {
  return {
    link,
    replace: (program) => updateLink(call, link, program),
    async close() {
      try {
        // a pin that has just been removed may still hold it
        await detachLink(call, link);
      } finally {
        await closeBy(call, link);
      }
    },
    release: () => closeBy(call, link),
  };
}

/** How many of our filters need the qdisc that we made, by device. */
const qdiscs = new Map<number, number>();

async function filterAttachment(
  call: Caller,
  program: OwnedFd,
  ifindex: number,
  direction: Direction,
): Promise<Attachment> {
  const users = qdiscs.get(ifindex);
  if (await addClsact(call, ifindex)) qdiscs.set(ifindex, 1);
  else if (users !== undefined) qdiscs.set(ifindex, users + 1);
  const release = async (): Promise<void> => {
    const left = qdiscs.get(ifindex);
    if (left === undefined) return; // somebody else made it
    if (left > 1) qdiscs.set(ifindex, left - 1);
    else {
      qdiscs.delete(ifindex);
      await removeClsact(call, ifindex);
    }
  };
  try {
    await setFilter(call, program, ifindex, direction);
  } catch (e) {
    await release();
    throw e;
  }
  return ownFilter(call, ifindex, direction, release);
}

/** Our filter that an earlier process left. The qdisc stays when it goes: who made it is not known any more. */
export function leftFilter(call: Caller, ifindex: number, direction: Direction): Attachment {
  return ownFilter(call, ifindex, direction, () => Promise.resolve());
}

function ownFilter(
  call: Caller,
  ifindex: number,
  direction: Direction,
  release: () => Promise<void>,
): Attachment {
  return {
    replace: (next) => setFilter(call, next, ifindex, direction),
    async close() {
      try {
        await removeFilter(call, ifindex, direction);
      } finally {
        await release();
      }
    },
    release() {
      qdiscs.delete(ifindex);
      return Promise.resolve();
    },
  };
}
