/**
 * What a chain needs to run on without the daemon, by names in a bpffs, in a directory that is root's alone: the link, and
 * of each version of the chain its program, the array of programs that it calls (whose last user, a descriptor or a pin,
 * empties it) and its counters. A version is pinned before it runs and unpinned after it has stopped, so whenever the daemon
 * is killed the version that runs is there.
 */
import { readdirSync, rmSync, rmdirSync } from 'node:fs';
import path from 'node:path';
import type { OwnedFd } from '../../bpf/fds.ts';
import { programInfo } from '../../bpf/object.ts';
import { openPinned, pin } from '../../bpf/pins.ts';
import { errnoCode, isHyperturtleError } from '../../core/errors.ts';
import { makeDirectory } from '../../core/files.ts';
import { PACKET_HOOKS } from '../hooks.ts';
import type { PacketHook } from '../hooks.ts';

/**
 * What becomes of frames while no daemon runs: programs go on, all frames are dropped, or all pass. Where they go on or
 * are dropped the next daemon takes over what is attached.
 */
export const WITHOUT_DAEMON = ['keep', 'drop', 'open'] as const;
export type WithoutDaemon = (typeof WITHOUT_DAEMON)[number];

/** A version of a chain; links by number, in their order. */
export interface PinnedVersion {
  readonly name: string;
  readonly ids: readonly number[];
}

const VERSION = /^v(\d+)-(\d+(?:,\d+)*)$/;

export class ChainPins {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** Throws HT_EXISTS and HT_BPF; then nothing of it is left. Without `programs` the kernel empties the array at the end. */
  add(
    ids: readonly number[],
    files: { program: OwnedFd; counts: OwnedFd; programs: OwnedFd | undefined },
  ): PinnedVersion {
    const last = Math.max(0, ...this.versions().map((v) => numberOf(v.name)));
    const version = { name: `v${last + 1}-${ids.join(',')}`, ids };
    makeDirectory(path.join(this.#directory, version.name), 0o700);
    try {
      for (const [name, file] of Object.entries(files)) if (file) pin(file, this.#file(version, name));
      return version;
    } catch (e) {
      this.remove(version);
      throw e;
    }
  }

  remove(version: PinnedVersion): void {
    rmSync(path.join(this.#directory, version.name), { recursive: true, force: true });
  }

  /** Versions that are there whole or in part. */
  versions(): PinnedVersion[] {
    return namesIn(this.#directory).flatMap((name) => {
      const ids = VERSION.exec(name)?.[2]?.split(',').map(Number);
      return ids ? [{ name, ids }] : [];
    });
  }

  /** The version whose program has this number of the kernel's. Throws HT_BPF, HT_KERNEL. */
  versionOf(programId: number): PinnedVersion | undefined {
    return this.versions().find((v) => {
      const program = opened(this.#file(v, 'program'));
      try {
        return program !== undefined && programInfo(program).id === programId;
      } finally {
        program?.close();
      }
    });
  }

  /** The caller's to close. Throws HT_BPF, HT_KERNEL. */
  counts(version: PinnedVersion): OwnedFd | undefined {
    return opened(this.#file(version, 'counts'));
  }

  /** The caller's to close; undefined: none is pinned. Throws HT_BPF, HT_KERNEL. */
  link(): OwnedFd | undefined {
    return opened(this.#link);
  }

  /** Throws HT_BPF; fine when it is pinned already. */
  addLink(file: OwnedFd): void {
    if (namesIn(this.#directory).includes(LINK)) return;
    makeDirectory(this.#directory, 0o700);
    pin(file, this.#link);
  }

  removeLink(): void {
    rmSync(this.#link, { force: true });
  }

  clear(): void {
    rmSync(this.#directory, { recursive: true, force: true });
    try {
      rmdirSync(path.dirname(this.#directory));
    } catch {
      // the NIC's other chains are there, or it never was
    }
  }

  get #link(): string {
    return path.join(this.#directory, LINK);
  }

  #file(version: PinnedVersion, name: string): string {
    return path.join(this.#directory, version.name, name);
  }
}

/** Pins of one hook of one NIC. */
export interface PinnedChain {
  readonly nic: string;
  readonly hook: PacketHook;
  readonly pins: ChainPins;
}

/** Where a chain is pinned below the directory of its VM: bpffs keeps names with dots for itself, and no NIC's name has a comma. */
export const chainDirectory = (directory: string, nic: string, hook: PacketHook): string =>
  path.join(directory, nic.replaceAll('.', ','), hook);

/** Chains pinned below the directory of a VM, whole or in part. */
export function chainsIn(directory: string): PinnedChain[] {
  return namesIn(directory).flatMap((name) => {
    const nic = name.replaceAll(',', '.');
    const there = namesIn(path.join(directory, name));
    return PACKET_HOOKS.filter((hook) => there.includes(hook)).map((hook) => ({
      nic,
      hook,
      pins: new ChainPins(chainDirectory(directory, nic, hook)),
    }));
  });
}

const LINK = 'link';

const numberOf = (name: string): number => Number(VERSION.exec(name)?.[1] ?? 0);

/** Undefined when there is nothing of this name. Throws what else keeps it from being opened: it may be there. */
function opened(file: string): OwnedFd | undefined {
  try {
    return openPinned(file);
  } catch (e) {
    if (isHyperturtleError(e, 'HT_NOT_FOUND')) return undefined;
    throw e;
  }
}

/** Empty when there is no such directory. */
export function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch (e) {
    if (errnoCode(e) === 'ENOENT') return [];
    throw e;
  }
}
