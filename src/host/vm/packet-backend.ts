/** Hooks of a VM's NICs, several links each, in their order. Links may outlive the daemon. */
import { HyperturtleError } from '../../core/errors.ts';
import type { HookStats, LinkInfo } from '../../wire/schema.ts';
import { PACKET_HOOKS, isPacketHook } from '../hooks.ts';
import type { PacketHook } from '../hooks.ts';
import type { LoadedProgram } from '../loader/loader.ts';
import type { ChainEntry } from '../packets/chain.ts';
import type { PacketLinks } from '../packets/packet-links.ts';
import type { KeptLink } from './kept.ts';
import type { Failures, HookBackend, LinkPlace, Version } from './hook-backend.ts';

/** Order of programs on one hook of a NIC when L1 does not say. */
const DEFAULT_ORDER = 100;

/** As a chain has it. The object keeps the descriptor open. */
export function entryOf({ id, order = DEFAULT_ORDER }: LinkInfo, { name, file }: LoadedProgram): ChainEntry {
  return { id, order, program: { fd: file.fd, name } };
}

export class PacketBackend implements HookBackend {
  readonly hooks = PACKET_HOOKS;
  readonly links: PacketLinks;

  constructor(links: PacketLinks) {
    this.links = links;
  }

  place(hook: string, { target, order = DEFAULT_ORDER }: LinkPlace): { target: string; order: number } {
    if (target !== undefined) return { target, order };
    throw new HyperturtleError('HT_USAGE', `hook ${hook} is a NIC's: say which as the target`);
  }

  link(link: LinkInfo, _of: Version, program: LoadedProgram): Promise<void> {
    return this.links.link(link.target ?? '', nameOf(link.hook), entryOf(link, program));
  }

  replace(link: LinkInfo, _of: Version, program: LoadedProgram): Promise<void> {
    return this.links.change(link.id, entryOf(link, program));
  }

  unlink({ id }: LinkInfo): Promise<void> {
    return this.links.unlink(id);
  }

  stats(hook: string, links: readonly LinkInfo[]): HookStats[] {
    return links.map((link) => {
      const { runs, dropped } = this.links.counts(link.id);
      return {
        hook,
        linked: true,
        object: link.object,
        program: link.program,
        target: link.target ?? '',
        link: link.id,
        runs,
        handled: dropped,
        entries: 0,
        learned: 0,
        passed: runs - dropped,
        reasons: {},
      };
    });
  }

  kept(info: LinkInfo): KeptLink | undefined {
    const ifindex = this.links.ifindexOf(info.id);
    return ifindex === undefined ? undefined : { info, ifindex, before: this.links.before(info.id) };
  }

  async release(_links: readonly LinkInfo[], failures: Failures): Promise<LinkInfo[]> {
    await failures.during(() => this.links.release());
    return [];
  }
}

function nameOf(hook: string): PacketHook {
  if (!isPacketHook(hook)) throw new RangeError(`${hook} is no hook of a NIC`);
  return hook;
}
