/** What of VMs acts on frames without a daemon, and is to end. */
import { rmSync } from 'node:fs';
import { callThreads } from '../../bpf/calls.ts';
import type { Caller } from '../../bpf/calls.ts';
import { removeFilter } from '../../bpf/net.ts';
import { messageOf } from '../../core/errors.ts';
import type { LinkInfo } from '../../wire/schema.ts';
import { networkDevices } from '../nics/tap.ts';
import { directionOf } from '../packets/attachment.ts';
import { chainsIn } from '../packets/chain-pins.ts';
import { leftAttached } from '../packets/left.ts';
import { pinDirectoryOf } from './arena.ts';
import { fileOf, keptVms, nicPinsOf, objectPinsOf, pinnedVms, readRecord } from './kept-record.ts';
import type { KeptPaths } from './kept-record.ts';
import type { DaemonLog } from '../log.ts';

/**
 * Ends all that is pinned for this VM, and forgets it, the record last. Links end with their pins; filters on network devices
 * that are there yet are removed. The links that were known. Throws HT_KERNEL, HT_BPF and what a file system says, not for
 * what is not there; the record is then there yet.
 */
export async function forgetKept(paths: KeptPaths, call: Caller): Promise<LinkInfo[]> {
  const links = readRecord(paths)?.links ?? [];
  for (const { nic, hook, pins } of chainsIn(nicPinsOf(paths))) {
    if (hook === 'xdp') continue;
    const known = links.filter((l) => l.info.target === nic && l.info.hook === hook).map((l) => l.ifindex);
    const left = await leftAttached(call, pins, hook, () => (known.length > 0 ? known : networkDevices()));
    if (left?.link) left.link.close();
    else if (left) await removeFilter(call, left.ifindex, directionOf(hook));
  }
  for (const directory of [nicPinsOf(paths), objectPinsOf(paths)])
    rmSync(directory, { recursive: true, force: true });
  rmSync(fileOf(paths), { force: true });
  return links.map((l) => l.info);
}

/** What an earlier daemon kept for VMs that the configuration has no more. Never throws for one VM. */
export async function forgetOthers(
  { run, bpffs }: Pick<KeptPaths, 'run' | 'bpffs'>,
  wanted: ReadonlyMap<string, unknown>,
  log: DaemonLog['log'],
): Promise<void> {
  const call = callThreads.lane();
  const others = keptVms(run).filter((vm) => !wanted.has(vm));
  for (const vm of others)
    try {
      const links = await forgetKept({ vm, run, bpffs }, call);
      if (links.length > 0)
        log.warn({ vm, links }, 'programs on NICs ended: the configuration has this VM no more');
    } catch (e) {
      // the record is there yet: the next start tries again
      log.error({ vm, problem: messageOf(e) }, 'programs on NICs of a VM that the configuration has no more');
    }
  const named = new Set([...wanted.keys(), ...others].map((vm) => pinDirectoryOf({ bpffs, vm })));
  for (const directory of pinnedVms(bpffs))
    if (!named.has(directory))
      // it may be another daemon's, with another run directory
      log.warn({ directory }, 'programs on NICs are pinned there, of no VM of this configuration');
}
