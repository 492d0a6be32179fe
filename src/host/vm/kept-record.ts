/** Where it stands what of a VM acts on frames without the daemon: names in a bpffs, and the record that says what they are. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { EndedLink, LinkInfo, ObjectInfo } from '../../wire/fields.ts';
import { WITHOUT_DAEMON, namesIn } from '../packets/chain-pins.ts';
import { pinDirectoryOf } from './arena.ts';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

const count = lazy(() => z.int().nonnegative());
/** What a later version adds here is passed over: what it changes has another number. */
const recordSchema = lazy(() =>
  z.object({
    version: z.literal(1),
    pid: z.int().positive(),
    startTicks: count(),
    bootId: z.string().nullable(),
    withoutDaemon: z.enum(WITHOUT_DAEMON),
    nextLink: z.int().positive(),
    objects: z.array(
      z.strictObject({
        /** Its directory among the pins; null: it is not pinned. */
        number: count().nullable(),
        identity: z.string(),
        info: ObjectInfo(),
        /** The kernel's numbers, in the order of the pins. */
        programs: z.array(count()),
        maps: z.array(count()),
      }),
    ),
    links: z.array(
      z.strictObject({
        info: LinkInfo(),
        ifindex: z.int().positive(),
        before: z.strictObject({ runs: count(), dropped: count() }),
      }),
    ),
    /** What could not be taken over, by an earlier daemon. */
    leftOff: z.array(EndedLink()),
  }),
);
export type KeptRecord = Output<typeof recordSchema>;

export interface KeptPaths {
  readonly vm: string;
  readonly run: string;
  readonly bpffs: string;
}

type Pinned = Pick<KeptPaths, 'vm' | 'bpffs'>;

/** The record. */
export const fileOf = ({ run, vm }: Pick<KeptPaths, 'run' | 'vm'>): string =>
  path.join(run, 'vms', vm, 'programs.json');
/** Directory of chains, with one below it for each NIC. */
export const nicPinsOf = (p: Pinned): string => path.join(pinDirectoryOf(p), 'nics');
/** A directory for each object. */
export const objectPinsOf = (p: Pinned): string => path.join(pinDirectoryOf(p), 'objects');

/** Undefined when there is none, or it is not whole. */
export function readRecord(paths: Pick<KeptPaths, 'run' | 'vm'>): KeptRecord | undefined {
  try {
    return recordSchema().parse(JSON.parse(readFileSync(fileOf(paths), 'utf8')));
  } catch {
    return undefined; // none, or not whole: nothing is known then
  }
}

/** VMs of which there is a record. */
export function keptVms(run: string): string[] {
  return namesIn(path.join(run, 'vms')).filter((vm) => existsSync(fileOf({ run, vm })));
}

/** Directories of VMs that have chains among the pins, by whichever daemon, or whose pins cannot be looked at. */
export function pinnedVms(bpffs: string): string[] {
  const root = path.join(bpffs, 'hyperturtle');
  const mayHave = (directory: string): boolean => {
    try {
      return namesIn(path.join(directory, 'nics')).length > 0;
    } catch {
      return true;
    }
  };
  return namesIn(root)
    .map((name) => path.join(root, name))
    .filter(mayHave);
}

/** The process whose programs these are; undefined without a record that can be read. */
export function keptProcess(
  paths: Pick<KeptPaths, 'run' | 'vm'>,
): { pid: number; startTicks: number } | undefined {
  return readRecord(paths);
}
