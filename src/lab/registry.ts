/**
 * The labs of this user: one directory each with its sockets, pipes and logs, and `lab.json` once it is up.
 * Directories whose machine is gone are removed by the next start of a lab.
 */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { access, mkdir, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { HyperturtleError, errnoCode } from '../core/errors.ts';
import type { Accelerator, L1Shape, LabClock } from './machine.ts';
import { identify, isRunning, killProcess } from '../core/process.ts';
import type { ProcessId } from '../core/process.ts';
import { xdgDirectory } from './xdg.ts';

export interface LabRecord {
  name: string;
  dir: string;
  /** The process that made it; while `state` is 'starting', the lab is nobody's when that is gone. */
  owner: ProcessId;
  state: 'starting' | 'up';
  /** Ends with its owner (benchmarks, tests), or stays until `lab down`. */
  lifetime: 'owner' | 'detached';
  /** The emulator: QEMU, or Bochs. */
  qemu?: ProcessId;
  /** Processes beside the emulator that end with it. */
  relays?: ProcessId[];
  /** ISO 8601. */
  startedAt: string;
  kernelSeries: string;
  environment?: LabEnvironment;
}

/** What a report must say about the lab that gave its numbers. */
export interface LabEnvironment {
  accel: Accelerator;
  clock: LabClock;
  kernelVersion: string;
  /** Version of the outer machine's QEMU. */
  qemuVersion: string;
  /** Version of the QEMU in L0 and L1. */
  l0QemuVersion: string;
  l0: { cpus: number; memMib: number };
  l1: L1Shape;
  l1KernelArgs: string;
  packageVersions: Readonly<Record<string, string>>;
  artifactsKey: string;
  /** Null when the lab runs without our modules and programs. */
  payloadKey: string | null;
  snapshotKey: string | null;
  host: { kernel: string; cpuModel: string; cpus: number; memMib: number; node: string };
}

/** The longest socket name within a lab's directory must fit sun_path (108 bytes). */
const MAX_ROOT = 70;

/** `$XDG_STATE_HOME/hyperturtle/labs`, or a directory under the temporary one if that is too long for sockets. */
export function labsRoot(env: NodeJS.ProcessEnv = process.env): string {
  const root = path.join(xdgDirectory('XDG_STATE_HOME', '.local/state', env), 'hyperturtle', 'labs');
  if (Buffer.byteLength(root) <= MAX_ROOT) return root;
  const key = createHash('sha256').update(root).digest('hex').slice(0, 8);
  return path.join(os.tmpdir(), `hyperturtle-${process.getuid!()}-${key}`);
}

export function checkLabName(name: string): string {
  if (/^[a-z0-9][a-z0-9-]{0,23}$/.test(name)) return name;
  throw new HyperturtleError(
    'HT_USAGE',
    `lab name '${name}': 1 to 24 small letters, digits and dashes expected`,
  );
}

const recordFile = (name: string): string => path.join(labsRoot(), name, 'lab.json');

/** Makes the directory of a new lab. Throws HT_BUSY when a lab of that name runs. */
export async function claimLab(
  name: string,
  lifetime: LabRecord['lifetime'],
  kernelSeries: string,
): Promise<LabRecord> {
  const owner = identify(process.pid);
  if (!owner) throw new Error('no /proc/self/stat');
  const dir = path.join(labsRoot(), checkLabName(name));
  await makeRoot();
  const staging = `${dir}.new-${process.pid}`;
  const record: LabRecord = {
    name,
    dir,
    owner,
    state: 'starting',
    lifetime,
    startedAt: new Date().toISOString(),
    kernelSeries,
  };
  await mkdir(staging, { mode: 0o700 });
  try {
    await writeFile(path.join(staging, 'lab.json'), JSON.stringify(record, null, 1));
    // fails when the directory exists and isn't empty: of two that start the same lab one wins
    await rename(staging, dir);
  } catch (e) {
    await rm(staging, { recursive: true, force: true });
    if (errnoCode(e) === 'ENOTEMPTY' || errnoCode(e) === 'EEXIST')
      throw new HyperturtleError(
        'HT_BUSY',
        `lab '${name}' is already up: use it, end it with 'hyperturtle lab down --name ${name}', or choose another --name`,
      );
    throw e;
  }
  return record;
}

async function makeRoot(): Promise<void> {
  const root = labsRoot();
  try {
    await mkdir(root, { recursive: true, mode: 0o700 });
    await access(root, constants.W_OK);
  } catch (e) {
    throw new HyperturtleError(
      'HT_USAGE',
      `state directory ${root} cannot be written (${errnoCode(e) ?? 'error'}): set XDG_STATE_HOME to a directory you can write`,
      { cause: e },
    );
  }
}

export async function saveRecord(record: LabRecord): Promise<void> {
  const file = recordFile(record.name);
  await writeFile(`${file}.tmp`, JSON.stringify(record, null, 1));
  await rename(`${file}.tmp`, file);
}

/** Undefined when there is no such lab. */
export async function readRecord(name: string): Promise<LabRecord | undefined> {
  try {
    return JSON.parse(await readFile(recordFile(checkLabName(name)), 'utf8')) as LabRecord;
  } catch (e) {
    if (errnoCode(e) === 'ENOENT' || e instanceof SyntaxError) return undefined;
    throw e;
  }
}

/** Is anything of it still running, or about to? */
export function isAlive(record: LabRecord): boolean {
  if (record.state === 'starting') return isRunning(record.owner);
  if (!record.qemu || !isRunning(record.qemu)) return false;
  return record.lifetime === 'detached' || isRunning(record.owner);
}

export async function listRecords(): Promise<LabRecord[]> {
  let names: string[];
  try {
    names = await readdir(labsRoot());
  } catch (e) {
    if (errnoCode(e) === 'ENOENT') return [];
    throw e;
  }
  const records: LabRecord[] = [];
  for (const name of names.sort()) {
    if (!/^[a-z0-9-]+$/.test(name)) continue;
    const r = await readRecord(name);
    if (r) records.push(r);
  }
  return records;
}

/** Ends what is left of labs whose machine or owner is gone, and removes their directories. Gives their names. */
export async function cleanDeadLabs(): Promise<string[]> {
  const dead: string[] = [];
  for (const name of await readdir(labsRoot()).catch(() => [] as string[])) {
    // of a process that was killed while it claimed a name, or removed a lab
    const pid = /\.(?:new|gone)-(\d+)$/.exec(name)?.[1];
    if (pid !== undefined ? !identify(Number(pid)) : await isLeft(name))
      await rm(path.join(labsRoot(), name), { recursive: true, force: true });
  }
  for (const r of await listRecords()) {
    if (isAlive(r)) continue;
    await removeLab(r);
    dead.push(r.name);
  }
  return dead;
}

export async function removeLab(record: LabRecord): Promise<void> {
  if (record.qemu) await killProcess(record.qemu);
  for (const r of record.relays ?? []) await killProcess(r);
  await removeLabFiles(record.dir);
}

/**
 * Moved out of the way first: who still makes files in it by name, such as locks of channels in whatever an interrupted command
 * would undo, finds no directory, instead of keeping this one from being removed.
 */
export async function removeLabFiles(dir: string): Promise<void> {
  const gone = `${dir}.gone-${process.pid}`;
  try {
    await rename(dir, gone);
  } catch (e) {
    if (errnoCode(e) !== 'ENOENT') throw e;
  }
  await rm(gone, { recursive: true, force: true });
}

/** A directory without a record: one is made with it, so somebody began to remove this one. */
async function isLeft(name: string): Promise<boolean> {
  return /^[a-z0-9-]+$/.test(name) && (await readRecord(name)) === undefined;
}
