/**
 * What one VM has loaded, since its boot, and by `links` what of it is linked. Owns the descriptors of programs and maps;
 * `clear` gives all back. Anyone who changes something holds the VM's turn (see VmService).
 */
import type { OwnedFd } from '../../bpf/fds.ts';
import { HyperturtleError } from '../../core/errors.ts';
import type { EndedLink, LinkInfo, Params, Result } from '../../wire/schema.ts';
import type { PacketLinks } from '../packets/packet-links.ts';
import { Failures } from './hook-backend.ts';
import { KvmBackend } from './kvm-backend.ts';
import { VmLinks } from './links.ts';
import type { LinksOptions } from './links.ts';
import { PacketBackend } from './packet-backend.ts';
import { admit, candidate, quotaError } from './admit.ts';
import type { AdmissionDeps, Admitted, ElfParams, ObjectsUsed } from './admit.ts';
import type { VmHooks } from './kernel.ts';
import type { Kept } from './kept.ts';
import type { KnownNic } from './takeover.ts';

export interface ObjectsOptions extends AdmissionDeps, Pick<LinksOptions, 'kept' | 'withoutDaemon'> {
  hooks: VmHooks;
  packets: PacketLinks;
}

export class VmObjects {
  readonly #options: ObjectsOptions;
  readonly #objects = new Map<string, Admitted>();
  readonly links: VmLinks;

  constructor(options: ObjectsOptions) {
    const { hooks, arena, packets, settings, kept, withoutDaemon } = options;
    this.#options = options;
    this.links = new VmLinks({
      kvm: new KvmBackend(hooks, arena.map),
      packets: new PacketBackend(packets),
      objects: this.#objects,
      settings,
      kept,
      withoutDaemon,
    });
  }

  /** Throws HT_EXISTS, HT_QUOTA, HT_SIGNATURE, HT_REFUSED, HT_VERIFIER_REJECTED, or what the loader throws. */
  async load(params: ElfParams, signal: AbortSignal): Promise<Result<'load'>> {
    const { quotas } = this.#options.settings();
    const wanted = candidate(params, quotas);
    const there = this.#objects.get(params.name);
    if (there?.identity === wanted.identity) return { object: there.info, existed: true };
    if (there)
      throw new HyperturtleError(
        'HT_EXISTS',
        `object '${params.name}' is loaded with other content: replace it, or unload it first`,
      );
    if (this.#objects.size >= quotas.objects) throw quotaError('objects', quotas.objects);
    const loaded = await admit(this.#options, wanted, { used: this.used(), signal });
    this.#objects.set(params.name, loaded);
    return { object: loaded.info, existed: false };
  }

  /** Ended links are returned. Throws HT_NOT_FOUND, HT_IN_USE. */
  async unload(name: string, force: boolean): Promise<LinkInfo[]> {
    const loaded = this.#object(name);
    const links = this.links.of(name);
    if (links.length > 0 && !force)
      throw new HyperturtleError(
        'HT_IN_USE',
        `object '${name}' is linked (${links.map((l) => `link ${l.id} on ${l.hook}`).join(', ')}): unlink it first, or force`,
      );
    for (const { id } of links) await this.links.unlink(id);
    this.links.forgetEnds(name);
    this.#objects.delete(name);
    loaded.object.close();
    return links;
  }

  /** Swaps an object for a new version, its links without a gap. When it throws, all is as before. */
  async replace(params: ElfParams, signal: AbortSignal): Promise<Result<'replace'>> {
    const { name } = params;
    const old = this.#object(name);
    const wanted = candidate(params, this.#options.settings().quotas);
    const own = (maps: readonly { name: string; arena: boolean }[]): string[] =>
      maps.filter((m) => !m.arena).map((m) => m.name);
    if (wanted.identity === old.identity) return { object: old.info, kept: own(old.info.maps), created: [] };

    const used = this.#usedWithout(old);
    const loaded = await admit(this.#options, wanted, { used, old: old.object, signal });
    const become = (version: Admitted) => (): void => void this.#objects.set(name, version);
    try {
      await this.links.swap(old, loaded, become(loaded), become(old));
    } catch (e) {
      loaded.object.close();
      throw e;
    }
    old.object.close();
    const kept = loaded.object.maps.filter((m) => m.reused).map((m) => m.name);
    return {
      object: loaded.info,
      kept: own(loaded.info.maps).filter((map) => kept.includes(map)),
      created: own(loaded.info.maps).filter((map) => !kept.includes(map)),
    };
  }

  /** Throws HT_NOT_FOUND, and what VmLinks.link throws. */
  link(params: Params<'link'>): Promise<Result<'link'>> {
    return this.links.link(this.#object(params.object), params);
  }

  /** Unlinks and unloads all, whatever fails on the way; failures are thrown together at the end. */
  async clear(): Promise<LinkInfo[]> {
    const failures = new Failures();
    const ended = await this.links.clear(failures);
    for (const { object } of this.#objects.values()) await failures.during(() => object.close());
    this.#objects.clear();
    failures.throwAs('not all could be unlinked and unloaded');
    return ended;
  }

  /**
   * Gives up all for the next daemon: what acts on frames stays, the rest is unlinked. Failures are thrown together. The
   * links that have ended.
   */
  async release(): Promise<LinkInfo[]> {
    const failures = new Failures();
    const ended = await this.links.release(failures);
    for (const { object } of this.#objects.values()) object.close();
    this.#objects.clear();
    failures.throwAs('not all could be given up');
    return ended;
  }

  /** Takes over what an earlier daemon left, before anything else: see VmLinks.adopt. */
  adopt(kept: Kept, nics: readonly KnownNic[]): Promise<EndedLink[]> {
    for (const o of kept.objects) this.#objects.set(o.info.name, o);
    return this.links.adopt(kept, nics);
  }

  list(): Pick<Result<'list'>, 'objects' | 'links' | 'ended'> {
    const { ended } = this.links;
    return {
      ...(ended.length > 0 ? { ended: [...ended] } : {}),
      objects: Array.from(this.#objects.values(), (o) => o.info),
      links: this.links.list(),
    };
  }

  used(): ObjectsUsed {
    return this.#usedWithout(undefined);
  }

  /** Throws HT_NOT_FOUND. Valid until the object is unloaded or replaced: look it up for each use. */
  map(objectName: string, mapName: string): { file: OwnedFd; arena: boolean } {
    const { object, info } = this.#object(objectName);
    const map = object.maps.find((m) => m.name === mapName);
    if (!map)
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        `object '${objectName}' has no map '${mapName}'; it has: ${object.maps.map((m) => m.name).join(', ') || 'none'}`,
      );
    return { file: map.file, arena: info.maps.some((m) => m.name === mapName && m.arena) };
  }

  #object(name: string): Admitted {
    const found = this.#objects.get(name);
    if (found) return found;
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `no object '${name}' is loaded; there are: ${[...this.#objects.keys()].join(', ') || 'none'}`,
    );
  }

  #usedWithout(left: Admitted | undefined): ObjectsUsed {
    let programs = 0;
    let maps = 0;
    let mapBytes = 0;
    let objects = 0;
    for (const loaded of this.#objects.values()) {
      if (loaded === left) continue;
      objects++;
      programs += loaded.info.programs.length;
      for (const map of loaded.info.maps) {
        if (map.arena) continue;
        maps++;
        mapBytes += map.bytes;
      }
    }
    return { objects, programs, links: this.links.size, maps, mapBytes };
  }
}
