/**
 * What of one VM acts on frames without the daemon, for the next one: objects with programs on NICs, pinned program by
 * program and map by map in a bpffs, and a record in the run directory that says what they are and where they were linked.
 * The record is of one process and one boot; pins that no record of a process that lives names are removed.
 */
import { existsSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { here } from '../../bpf/calls.ts';
import type { OwnedFd } from '../../bpf/fds.ts';
import { mapInfo, mapMemoryBytes } from '../../bpf/map-ops.ts';
import { filterProgram, removeFilter } from '../../bpf/net.ts';
import { programInfo } from '../../bpf/object.ts';
import { openPinned, pin } from '../../bpf/pins.ts';
import { HyperturtleError, messageOf } from '../../core/errors.ts';
import { makeDirectory, replaceFile } from '../../core/files.ts';
import { EndedLink, LinkInfo, ObjectInfo } from '../../wire/fields.ts';
import { HOOK_TABLE, isPacketHook } from '../hooks.ts';
import { closedOnError, emptyObject } from '../loader/adopt.ts';
import type { LoadedObject } from '../loader/loader.ts';
import { directionOf } from '../packets/attachment.ts';
import type { ChainCounts } from '../packets/chain.ts';
import { ChainPins, WITHOUT_DAEMON, namesIn } from '../packets/chain-pins.ts';
import type { WithoutDaemon } from '../packets/chain-pins.ts';
import type { Admitted } from './admit.ts';
import { pinDirectoryOf } from './arena.ts';

const count = z.int().nonnegative();
const recordSchema = z.strictObject({
  pid: z.int().positive(),
  startTicks: count,
  bootId: z.string().nullable(),
  withoutDaemon: z.enum(WITHOUT_DAEMON),
  nextLink: z.int().positive(),
  objects: z.array(
    z.strictObject({
      /** Its directory among the pins; null: it is not pinned. */
      number: count.nullable(),
      identity: z.string(),
      info: ObjectInfo,
      /** The kernel's numbers, in the order of the pins. */
      programs: z.array(count),
      maps: z.array(count),
    }),
  ),
  links: z.array(
    z.strictObject({
      info: LinkInfo,
      ifindex: z.int().positive(),
      before: z.strictObject({ runs: count, dropped: count }),
    }),
  ),
  /** What could not be taken over, by an earlier daemon. */
  leftOff: z.array(EndedLink),
});
type KeptRecord = z.infer<typeof recordSchema>;

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

export interface KeptOptions {
  vm: string;
  run: string;
  bpffs: string;
  process: { pid: number; startTicks: number };
  bootId: () => string | undefined;
  withoutDaemon: () => WithoutDaemon;
}

/** Object and program of a link that is pinned and that no record names. */
export const UNNAMED = 'unknown';

type Paths = Pick<KeptOptions, 'vm' | 'run' | 'bpffs'>;

const fileOf = ({ run, vm }: Pick<Paths, 'run' | 'vm'>): string => path.join(run, 'vms', vm, 'programs.json');
/** Of chains: a directory for each NIC. */
export const nicPinsOf = (p: Paths): string => path.join(pinDirectoryOf(p), 'nics');
const pinsOfNic = (p: Paths, nic: string): string => path.join(nicPinsOf(p), nic.replaceAll('.', ','));
const objectPinsOf = (p: Paths): string => path.join(pinDirectoryOf(p), 'objects');

export class KeptPrograms {
  readonly #options: KeptOptions;
  readonly #numbers = new Map<LoadedObject, number>();

  constructor(options: KeptOptions) {
    this.#options = options;
  }

  /**
   * What the next daemon is to find. Objects without links to NICs are left out. Throws HT_BPF, HT_KERNEL, HT_NO_SPACE; the
   * record is then as it was.
   */
  save(state: {
    objects: Iterable<Admitted>;
    links: readonly KeptLink[];
    nextLink: number;
    leftOff: readonly EndedLink[];
  }): void {
    const { process, bootId, withoutDaemon } = this.#options;
    const mode = withoutDaemon();
    const wanted = Array.from(state.objects).filter((o) =>
      state.links.some((l) => l.info.object === o.info.name),
    );
    if (wanted.length + state.leftOff.length > 0) {
      if (mode !== 'open') for (const { object } of wanted) this.#pin(object);
      const record: KeptRecord = {
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
    } else rmSync(fileOf(this.#options), { force: true });
    for (const [object, number] of this.#numbers)
      if (mode === 'open' || !wanted.some((w) => w.object === object)) this.#unpin(object, number);
  }

  /**
   * Undefined when this process and boot have nothing; what is pinned all the same has been removed. `nics`: those of this
   * process. What is pinned for one of them, and named by no record, is among the links as lost.
   */
  async restore(
    arenaMapId: number,
    nics: readonly { id: string; ifindex: number }[],
  ): Promise<Kept | undefined> {
    const record = readRecord(this.#options);
    if (record === undefined) {
      const links = this.#unnamed(nics);
      if (links.length > 0) {
        for (const name of namesIn(objectPinsOf(this.#options))) this.#remove(name);
        return unnamedKept(links);
      }
    }
    const { pid, startTicks } = this.#options.process;
    if (record?.pid !== pid || record.startTicks !== startTicks) {
      await forgetKept(this.#options);
      return undefined;
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

  #unnamed(nics: readonly { id: string; ifindex: number }[]): KeptLink[] {
    const since = new Date().toISOString();
    return nics.flatMap(({ id: target, ifindex }) => {
      const directory = pinsOfNic(this.#options, target);
      return namesIn(directory).flatMap((hook) => {
        const versions = new ChainPins(path.join(directory, hook)).versions();
        const ids = new Set(versions.flatMap((v) => v.ids));
        return Array.from(ids, (id) => ({
          info: { id, object: UNNAMED, program: UNNAMED, hook, target, since },
          ifindex,
          before: { runs: 0, dropped: 0 },
        }));
      });
    });
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

function readRecord(paths: Paths): KeptRecord | undefined {
  try {
    return recordSchema.parse(JSON.parse(readFileSync(fileOf(paths), 'utf8')));
  } catch {
    return undefined; // none, or not whole: nothing is known then
  }
}

/** VMs of which there is a record. */
export function keptVms(run: string): string[] {
  return namesIn(path.join(run, 'vms')).filter((vm) => existsSync(fileOf({ run, vm })));
}

/** The process whose programs these are; undefined without a record that can be read. */
export function keptProcess(paths: Paths): { pid: number; startTicks: number } | undefined {
  return readRecord(paths);
}

/**
 * Ends all that is pinned for this VM, and forgets it. Links end with their pins; filters on network devices that are there
 * yet are removed. Never throws for what is not there. The names of the links that were known.
 */
export async function forgetKept(paths: Paths): Promise<LinkInfo[]> {
  const links = readRecord(paths)?.links ?? [];
  rmSync(fileOf(paths), { force: true });
  for (const { info, ifindex } of links) {
    const { hook, target } = info;
    if (!isPacketHook(hook) || hook === 'xdp' || target === null) continue;
    const pins = new ChainPins(path.join(pinsOfNic(paths, target), hook));
    const direction = directionOf(hook);
    const program = await filterProgram(here, ifindex, direction).catch(() => undefined);
    // another device may have the number by now
    if (program !== undefined && pins.versionOf(program)) await removeFilter(here, ifindex, direction);
  }
  for (const directory of [nicPinsOf(paths), objectPinsOf(paths)])
    rmSync(directory, { recursive: true, force: true });
  return links.map((l) => l.info);
}
