/** What an earlier daemon left attached to network devices, found by what it pinned. */
import type { Caller } from '../../bpf/calls.ts';
import type { OwnedFd } from '../../bpf/fds.ts';
import { filterProgram, linkPlace } from '../../bpf/net.ts';
import type { PacketHook } from '../hooks.ts';
import { directionOf } from './attachment.ts';
import type { ChainPins } from './chain-pins.ts';

export interface Left {
  readonly ifindex: number;
  readonly programId: number;
  /** The caller's to close; undefined: it is a filter. */
  readonly link: OwnedFd | undefined;
}

/**
 * By `devices` the network devices on which a filter is looked for; a link says by itself where it is. Undefined: nothing
 * of it acts on a device that is there. Throws HT_KERNEL, HT_BPF.
 */
export async function leftAttached(
  call: Caller,
  pins: ChainPins,
  hook: PacketHook,
  devices: () => readonly number[],
): Promise<Left | undefined> {
  const link = pins.link();
  if (link) {
    try {
      const place = await linkPlace(call, link);
      // 0 when its device has gone, whatever has the number now
      if (place.ifindex !== 0) return { ...place, link };
    } catch (e) {
      link.close();
      throw e;
    }
    link.close();
    return undefined;
  }
  if (hook === 'xdp' || pins.versions().length === 0) return undefined;
  for (const ifindex of devices()) {
    const programId = await filterProgram(call, ifindex, directionOf(hook));
    if (programId !== undefined && pins.versionOf(programId)) return { ifindex, programId, link: undefined };
  }
  return undefined;
}
