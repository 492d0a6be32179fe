/**
 * Which process had a VM's arena last, kept in the run directory: after a crash the next daemon knows by it whether
 * QEMU's arena is the pinned one, and whether the process that used it has ended.
 */
import { replaceFile } from '../../core/files.ts';
import { readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { z } from 'zod';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

const recordSchema = lazy(() =>
  z.strictObject({
    pid: z.int().positive(),
    /** Field 22 of /proc/PID/stat: with the pid it names one process forever. */
    startTicks: z.int().nonnegative(),
    /** The kernel's id of the map that it has as its arena; null: none. */
    arenaMapId: z.int().nonnegative().nullable(),
  }),
);
export type ProcessRecord = Output<typeof recordSchema>;

/** Undefined when there is no such process. */
export function startTicksOf(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // the second field is the program's name in parentheses and may hold anything
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]);
  } catch {
    return undefined;
  }
}

/** Now, on the clock of startTicksOf: since boot, whatever happens to the wall clock. To about 1 tick, 10 ms. */
export function ticksNow(): number {
  // USER_HZ is 100 on all architectures that we run on
  return os.uptime() * 100;
}

function fileOf(run: string, vm: string): string {
  return path.join(run, 'vms', vm, 'process.json');
}

export function readRecord(run: string, vm: string): ProcessRecord | undefined {
  try {
    return recordSchema().parse(JSON.parse(readFileSync(fileOf(run, vm), 'utf8')));
  } catch {
    return undefined; // none, or not whole: nothing is known then
  }
}

export function writeRecord(run: string, vm: string, record: ProcessRecord): void {
  const file = fileOf(run, vm);
  replaceFile(file, JSON.stringify(record), { mode: 0o600 });
}

export function removeRecord(run: string, vm: string): void {
  rmSync(fileOf(run, vm), { force: true });
}
