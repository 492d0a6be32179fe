/**
 * One VM's arena. Its map is pinned in bpffs, so that it outlives the daemon: QEMU has it mapped, and the next daemon
 * takes the same memory up again. The device file lives as long as this process; `<run>/vms/NAME/arena` is a
 * symbolic link to it, for QEMU's command line.
 */
import { spawnSync } from 'node:child_process';
import { chownSync, readFileSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import path from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { z } from 'zod';
import { makeDirectory, replaceFile } from '../../core/files.ts';
import { SharedArray } from '../../bpf/map.ts';
import { isBpffs, openPinned, pin, unpin } from '../../bpf/pins.ts';
import { HyperturtleError, isHyperturtleError } from '../../core/errors.ts';
import { CleanupStack } from '../../core/lifecycle.ts';
import { HT_ARENA_OFFER } from '../../kernel/arena.ts';
import type { ArenaDevice, HostKernel } from './kernel.ts';
import { ticksNow } from './process-record.ts';
import { lazy } from '../../core/lazy.ts';

const GETENT_MS = 5_000;
/** Cleared at a time, between which others have their turn. */
const WIPE_CHUNK_BYTES = 4 << 20;

export interface ArenaSpec {
  vm: string;
  bytes: number;
  bpffs: string;
  run: string;
  /** The user who may open the device; else root alone. */
  owner?: string | undefined;
}

/** bpffs keeps names with dots for itself; no VM's name has a comma. */
export function pinDirectoryOf(spec: Pick<ArenaSpec, 'bpffs' | 'vm'>): string {
  return path.join(spec.bpffs, 'hyperturtle', spec.vm.replaceAll('.', ','));
}

/** What is given to QEMU as `mem-path`. */
export function arenaLinkOf(spec: Pick<ArenaSpec, 'run' | 'vm'>): string {
  return path.join(spec.run, 'vms', spec.vm, 'arena');
}

export class VmArena {
  readonly map: SharedArray;
  readonly device: ArenaDevice;
  /** The stable name of the device. */
  readonly link: string;
  readonly mapId: number;
  /** By the clock of process-record.ts: a process that began before does not have this map from its command line. */
  readonly madeAtTicks: number;
  /** The map was there already. */
  readonly resumed: boolean;
  readonly #pinDirectory: string;
  readonly #undo: CleanupStack;

  private constructor(
    spec: ArenaSpec,
    parts: { map: SharedArray; device: ArenaDevice; resumed: boolean; undo: CleanupStack },
  ) {
    this.map = parts.map;
    this.device = parts.device;
    this.resumed = parts.resumed;
    this.link = arenaLinkOf(spec);
    this.mapId = parts.map.info().id;
    this.#pinDirectory = pinDirectoryOf(spec);
    this.madeAtTicks = madeAt(path.join(path.dirname(this.link), 'arena.json'), this.mapId, parts.resumed);
    this.#undo = parts.undo;
  }

  /**
   * Takes up the pinned map, or makes one and offers it. Throws HT_NOT_FOUND without bpffs, kernel module or the
   * owner.
   */
  static async open(spec: ArenaSpec, kernel: HostKernel): Promise<VmArena> {
    if (!isBpffs(spec.bpffs))
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        `${spec.bpffs} is no bpffs: mount one ('mount -t bpf bpf ${spec.bpffs}'), or set bpffs in the configuration`,
      );
    const uid = spec.owner === undefined ? undefined : uidOf(spec.owner);
    const undo = new CleanupStack();
    try {
      const { map, resumed } = openMap(spec);
      undo.add('arena map', () => map.close());
      if (!resumed) await wipe(map);
      const device = kernel.exportArena(map);
      undo.add('arena device', () => device.close());
      if (uid !== undefined) chownSync(device.devicePath, uid, -1);
      const link = arenaLinkOf(spec);
      replaceLink(device.devicePath, link);
      undo.add('link to the arena device', () => rmSync(link, { force: true }));
      return new VmArena(spec, { map, device, resumed, undo });
    } catch (e) {
      await undo.run();
      throw e;
    }
  }

  get bytes(): number {
    return this.map.valueBytes;
  }

  /** Clears everything and offers it again. Nobody may use it meanwhile: no program linked, no L1 bound to it. */
  async wipe(): Promise<void> {
    await wipe(this.map);
  }

  /** With `forget` the map goes with its last user; else the next daemon takes it up. */
  async close(options: { forget: boolean }): Promise<void> {
    if (options.forget) {
      unpin(path.join(this.#pinDirectory, 'arena'));
      rmSync(this.#pinDirectory, { recursive: true, force: true });
    }
    await this.#undo.run();
  }
}

/** Users need not be in /etc/passwd; `+107` is a number, as libvirt writes it. Throws HT_NOT_FOUND. */
function uidOf(user: string): number {
  if (user.startsWith('+')) return Number(user.slice(1));
  const r = spawnSync('getent', ['passwd', user], { encoding: 'utf8', timeout: GETENT_MS });
  const uid = r.status === 0 ? Number(r.stdout.split(':')[2]) : NaN;
  if (!Number.isInteger(uid))
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `owner of the arena: there is no user '${user}': the user expected that this VM's QEMU runs as`,
    );
  return uid;
}

function openMap(spec: ArenaSpec): { map: SharedArray; resumed: boolean } {
  const directory = pinDirectoryOf(spec);
  const file = path.join(directory, 'arena');
  try {
    const map = SharedArray.adopt(openPinned(file));
    if (map.valueBytes === spec.bytes) return { map, resumed: true };
    // another size is configured now
    map.close();
    unpin(file);
  } catch (e) {
    if (!isHyperturtleError(e, 'HT_NOT_FOUND')) throw e;
  }
  makeDirectory(directory, 0o700);
  const map = SharedArray.create('arena', spec.bytes);
  try {
    pin(map.file, file);
    return { map, resumed: false };
  } catch (e) {
    map.close();
    throw e;
  }
}

async function wipe(map: SharedArray): Promise<void> {
  const memory = map.map();
  try {
    // first the word that says what this is: until it is offered again nobody binds it
    memory.store(0, 0n);
    const zeros = new Uint8Array(Math.min(WIPE_CHUNK_BYTES, memory.bytes));
    for (let at = 0; at < memory.bytes; at += zeros.length) {
      memory.write(at, zeros.subarray(0, Math.min(zeros.length, memory.bytes - at)));
      await nextTurn();
    }
    memory.store(0, HT_ARENA_OFFER);
  } finally {
    memory.close();
  }
}

/** When the map was made; Infinity when that is not known, so that nothing is concluded from it. */
function madeAt(file: string, mapId: number, resumed: boolean): number {
  if (!resumed) {
    const ticks = ticksNow();
    replaceFile(file, JSON.stringify({ mapId, ticks }), { mode: 0o600 });
    return ticks;
  }
  try {
    const known = madeSchema().parse(JSON.parse(readFileSync(file, 'utf8')));
    return known.mapId === mapId ? known.ticks : Infinity;
  } catch {
    return Infinity;
  }
}

const madeSchema = lazy(() => z.strictObject({ mapId: z.int(), ticks: z.number() }));

/** There is always one of the two links, never none. */
function replaceLink(target: string, link: string): void {
  makeDirectory(path.dirname(link));
  rmSync(`${link}.new`, { force: true });
  symlinkSync(target, `${link}.new`);
  renameSync(`${link}.new`, link);
}
