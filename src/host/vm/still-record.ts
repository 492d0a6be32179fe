/**
 * That a VM stands still for us, and why, kept in the run directory: written before its QEMU is asked for anything, so that a
 * daemon that starts after a crash neither serves a VM that is being moved nor forgets one that was made quiet.
 */
import { readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { replaceFile } from '../../core/files.ts';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

export const STILL_STATES = ['quiescing', 'quiesced', 'migrating', 'saving', 'moved', 'saved'] as const;

const recordSchema = lazy(() =>
  z.strictObject({
    pid: z.int().positive(),
    startTicks: z.int().nonnegative(),
    state: z.enum(STILL_STATES),
    /** Asked for by `host quiesce`: then it lasts until `host resume`. Else it ends with the move. */
    byCommand: z.boolean(),
    since: z.iso.datetime(),
    /** Where it goes, or went. */
    to: z.string().nullable(),
    /** Whether the VM ran when its move began. */
    ran: z.boolean(),
  }),
);
export type StillRecord = Output<typeof recordSchema>;
export type StillState = StillRecord['state'];

const fileOf = (run: string, vm: string): string => path.join(run, 'vms', vm, 'still.json');

/** Undefined when there is none, or it is not whole. */
export function readStill(run: string, vm: string): StillRecord | undefined {
  try {
    return recordSchema().parse(JSON.parse(readFileSync(fileOf(run, vm), 'utf8')));
  } catch {
    return undefined;
  }
}

export function writeStill(run: string, vm: string, record: StillRecord): void {
  replaceFile(fileOf(run, vm), JSON.stringify(record), { mode: 0o600 });
}

export function removeStill(run: string, vm: string): void {
  rmSync(fileOf(run, vm), { force: true });
}
