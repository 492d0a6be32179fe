/**
 * Which NICs a VM was given, kept in the run directory: written before QEMU is asked, so that a daemon that starts after
 * a crash knows what to take up and what to take away.
 */
import { readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { replaceFile } from '../../core/files.ts';
import { NicInfo } from '../../wire/fields.ts';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

const recordSchema = lazy(() =>
  z.strictObject({
    /** Process of the QEMU that got them. */
    pid: z.int().positive(),
    startTicks: z.int().nonnegative(),
    /** Boot id of the L1 that asked for them. */
    bootId: z.string().nullable(),
    nics: z.array(
      z.strictObject({
        info: NicInfo(),
        /** QEMU's id; older versions made it of the NIC's. */
        device: z.string().optional(),
        port: z.string(),
        /** The tap, or the vDPA device. */
        ifname: z.string(),
        /** 0: no network device. */
        ifindex: z.int().nonnegative(),
        /** QEMU has said that it is there. */
        complete: z.boolean(),
      }),
    ),
  }),
);
export type NicsRecord = Output<typeof recordSchema>;
export type NicRecord = NicsRecord['nics'][number];

const fileOf = (run: string, vm: string): string => path.join(run, 'vms', vm, 'nics.json');

/** Undefined when there is none, or it is not whole. */
export function readNics(run: string, vm: string): NicsRecord | undefined {
  try {
    return recordSchema().parse(JSON.parse(readFileSync(fileOf(run, vm), 'utf8')));
  } catch {
    return undefined;
  }
}

/** Those that an earlier daemon gave this process, and that QEMU has said are there. */
export function wholeNics(
  run: string,
  vm: string,
  of: Pick<NicsRecord, 'pid' | 'startTicks'>,
): { id: string; ifindex: number }[] {
  const record = readNics(run, vm);
  if (record?.pid !== of.pid || record.startTicks !== of.startTicks) return [];
  return record.nics.filter((n) => n.complete).map((n) => ({ id: n.info.id, ifindex: n.ifindex }));
}

/** Whole or not at all. */
export function writeNics(run: string, vm: string, record: NicsRecord): void {
  const file = fileOf(run, vm);
  if (record.nics.length === 0) return rmSync(file, { force: true });
  replaceFile(file, JSON.stringify(record), { mode: 0o600 });
}
