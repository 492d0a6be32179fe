/**
 * What of one VM acts on frames without the daemon, for the next one: objects with programs on NICs, pinned program by
 * program and map by map in a bpffs, and a record in the run directory that says what they are and where they were linked.
 * The record is of one process and one boot; pins that no record of a process that lives names are removed.
 */
import { rmSync } from 'node:fs';
import path from 'node:path';
import type { Caller } from '../../bpf/calls.ts';
import type { OwnedFd } from '../../bpf/fds.ts';
import { mapInfo, mapMemoryBytes } from '../../bpf/map-ops.ts';
import { programInfo } from '../../bpf/object.ts';
import { openPinned, pin } from '../../bpf/pins.ts';
import { HyperturtleError, messageOf } from '../../core/errors.ts';
import { makeDirectory, replaceFile } from '../../core/files.ts';
import type { EndedLink, LinkInfo } from '../../wire/schema.ts';
import { networkDevices } from '../nics/tap.ts';
import { HOOK_TABLE } from '../hooks.ts';
import { closedOnError, emptyObject } from '../loader/adopt.ts';
import type { LoadedObject } from '../loader/loader.ts';
import type { ChainCounts } from '../packets/chain.ts';
import { chainsIn, namesIn } from '../packets/chain-pins.ts';
import type { WithoutDaemon } from '../packets/chain-pins.ts';
import { leftAttached } from '../packets/left.ts';
import type { Admitted } from './admit.ts';
import { forgetKept } from './forget.ts';
import { fileOf, nicPinsOf, objectPinsOf, readRecord } from './kept-record.ts';
import type { KeptPaths, KeptRecord } from './kept-record.ts';

/** Object and program of a link that is pinned and that no record names. */
export const UNNAMED = 'unknown';

export interface KeptLink {
  readonly info: LinkInfo;
  readonly ifindex: number;
  readonly before: ChainCounts;
}

export interface Kept {
  readonly bootId: string | null;
  readonly withoutDaemon: WithoutDaemon;
  readonly nextLink: number;
  /** The caller's to close. */
  readonly objects: Admitted[];
  /** Why objects of the record are not among them, by name. */
  readonly lost: ReadonlyMap<string, string>;
  readonly links: readonly KeptLink[];
  readonly leftOff: readonly EndedLink[];
}

/** What a VM has that the next daemon is to find. */
export interface KeptState {
  objects: Iterable<Admitted>;
  links: readonly KeptLink[];
  nextLink: number;
  leftOff: readonly EndedLink[];
}

export interface KeptOptions extends KeptPaths {
  /** By it what waits is called. */
  call: Caller;
  process: { pid: number; startTicks: number };
  bootId: () => string | undefined;
  /** What could not be forgotten of another process does not keep this one from being served. */
  onProblem: (e: unknown) => void;
  withoutDaemon: () => WithoutDaemon;
}

export class KeptPrograms {
  readonly #options: KeptOptions;
  readonly #numbers = new Map<LoadedObject, number>();

  constructor(options: KeptOptions) {
    this.#options = options;
  }

  /**
   * What the next daemon is to find. Objects without links to NICs are left out. Throws HT_BPF, HT_KERNEL, HT_NO_SPACE; record
   * and pins of what it names are then as they were. With `ending` it never throws: what is not in `state` ends whatever the
   * old record says, and is not to be found again.
   */
  save(state: KeptState, { ending = false }: { ending?: boolean } = {}): void {
    const wanted = Array.from(state.objects).filter((o) =>
      state.links.some((l) => l.info.object === o.info.name),
    );
    try {
      this.#write(wanted, state);
    } catch (e) {
      // else the old record stands, which tells of more than there is
      if (!ending) throw e;
    }
    const all = this.#options.withoutDaemon() === 'open';
    for (const [object, number] of this.#numbers)
      if (all || !wanted.some((w) => w.object === object)) this.#unpin(object, number);
  }

  #write(wanted: readonly Admitted[], state: KeptState): void {
    const { process, bootId, withoutDaemon } = this.#options;
    const mode = withoutDaemon();
    if (wanted.length + state.leftOff.length === 0) return rmSync(fileOf(this.#options), { force: true });
    if (mode !== 'open') for (const { object } of wanted) this.#pin(object);
    const record: KeptRecord = {
      version: 1,
      ...process,
      bootId: bootId() ?? null,
      withoutDaemon: mode,
      nextLink: state.nextLink,
      objects: wanted.map(({ object, identity, info }) => ({
        number: mode === 'open' ? null : (this.#numbers.get(object) ?? null),
        identity,
        info,
        programs: object.programs.map((p) => p.info.id),
        maps: object.maps.map((m) => m.info.id),
      })),
      links: [...state.links],
      leftOff: [...state.leftOff],
    };
    replaceFile(fileOf(this.#options), JSON.stringify(record), { mode: 0o600 });
  }

  /**
   * Undefined when this process and boot have nothing; what is pinned all the same has been removed. `nics`: those of this
   * process. Where no record can be read, links that are pinned and act on a network device are there as lost.
   */
  async restore(
    arenaMapId: number,
    nics: readonly { id: string; ifindex: number }[],
  ): Promise<Kept | undefined> {
    const record = readRecord(this.#options);
    const { pid, startTicks } = this.#options.process;
    if (record?.pid !== pid || record.startTicks !== startTicks) {
      const links = record ? [] : await this.#unnamed(nics);
      if (links.length === 0)
        await forgetKept(this.#options, this.#options.call).catch(this.#options.onProblem);
      else for (const name of namesIn(objectPinsOf(this.#options))) this.#remove(name);
      return links.length === 0 ? undefined : unnamedKept(links);
    }
    const objects: Admitted[] = [];
    const lost = new Map<string, string>();
    for (const o of record.objects)
      try {
        objects.push(this.#open(o, arenaMapId));
      } catch (e) {
        lost.set(o.info.name, messageOf(e));
      }
    const known = new Set(Array.from(this.#numbers.values(), String));
    for (const name of namesIn(objectPinsOf(this.#options))) if (!known.has(name)) this.#remove(name);
    const { bootId, withoutDaemon, nextLink, links, leftOff } = record;
    return { bootId, withoutDaemon, nextLink, objects, lost, links, leftOff };
  }

  async #unnamed(nics: readonly { id: string; ifindex: number }[]): Promise<KeptLink[]> {
    const since = new Date().toISOString();
    const found: KeptLink[] = [];
    for (const { nic: target, hook, pins } of chainsIn(nicPinsOf(this.#options))) {
      const known = nics.find((n) => n.id === target)?.ifindex;
      const devices = (): number[] => (known === undefined ? networkDevices() : [known]);
      const left = await leftAttached(this.#options.call, pins, hook, devices);
      left?.link?.close();
      if (!left) continue;
      const ids = pins.versionOf(left.programId)?.ids ?? pins.versions().flatMap((v) => v.ids);
      for (const id of new Set(ids))
        found.push({
          info: { id, object: UNNAMED, program: UNNAMED, hook, target, since },
          ifindex: left.ifindex,
          before: { runs: 0, dropped: 0 },
        });
    }
    return found;
  }

  #open(o: KeptRecord['objects'][number], arenaMapId: number): Admitted {
    const { info, identity, number } = o;
    if (number === null) throw new HyperturtleError('HT_NOT_FOUND', 'it was not kept');
    const object = emptyObject(info.name);
    const take = (name: string, use: (file: OwnedFd) => void): void =>
      closedOnError(openPinned(this.#file(number, name)), use);
    try {
      info.programs.forEach((p, i) =>
        take(`p${i}`, (file) => {
          const hook = HOOK_TABLE.find((h) => h.name === p.hook)?.name;
          if (!hook) throw new HyperturtleError('HT_NOT_FOUND', `there is no hook '${p.hook}' any more`);
          const now = programInfo(file);
          expectSame(`program '${p.name}'`, now.id, o.programs[i]);
          object.programs.push({ name: p.name, section: p.section, hook, file, info: now });
        }),
      );
      info.maps.forEach((m, i) =>
        take(`m${i}`, (file) => {
          const now = mapInfo(file);
          expectSame(`map '${m.name}'`, now.id, m.arena ? arenaMapId : o.maps[i]);
          object.maps.push({ name: m.name, file, info: now, bytes: mapMemoryBytes(file), reused: false });
        }),
      );
    } catch (e) {
      object.close();
      throw e;
    }
    this.#numbers.set(object, number);
    return { object, info, identity };
  }

  #pin(object: LoadedObject): void {
    if (this.#numbers.has(object)) return;
    const number = 1 + Math.max(0, ...namesIn(objectPinsOf(this.#options)).map(Number));
    makeDirectory(path.join(objectPinsOf(this.#options), String(number)), 0o700);
    const all: [string, OwnedFd][] = [
      ...object.programs.map((p, i): [string, OwnedFd] => [`p${i}`, p.file]),
      ...object.maps.map((m, i): [string, OwnedFd] => [`m${i}`, m.file]),
    ];
    try {
      for (const [name, file] of all) pin(file, this.#file(number, name));
    } catch (e) {
      this.#remove(String(number));
      throw e;
    }
    this.#numbers.set(object, number);
  }

  #unpin(object: LoadedObject, number: number): void {
    this.#numbers.delete(object);
    this.#remove(String(number));
  }

  #remove(name: string): void {
    rmSync(path.join(objectPinsOf(this.#options), name), { recursive: true, force: true });
  }

  #file(number: number, name: string): string {
    return path.join(objectPinsOf(this.#options), String(number), name);
  }
}

function unnamedKept(links: readonly KeptLink[]): Kept {
  return {
    bootId: null,
    withoutDaemon: 'keep',
    nextLink: 1 + Math.max(...links.map((l) => l.info.id)),
    objects: [],
    lost: new Map([[UNNAMED, 'the record of what is kept is not there or not whole']]),
    links,
    leftOff: [],
  };
}

function expectSame(what: string, found: number, expected: number | undefined): void {
  if (found !== expected)
    throw new HyperturtleError('HT_NOT_FOUND', `${what} is another one than was loaded`);
}
