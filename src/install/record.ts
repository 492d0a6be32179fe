/** What was installed for a role, so that exactly that is removed: kept beside the daemon's state. */
import { createHash } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { errnoCode, HyperturtleError, messageOf } from '../core/errors.ts';
import { replaceFile } from '../core/files.ts';
import type { Role } from './files.ts';
import { lazy } from '../core/lazy.ts';
import type { Output } from '../core/lazy.ts';

const recordSchema = lazy(() =>
  z.strictObject({
    schema: z.literal(1),
    version: z.string(),
    files: z.array(z.strictObject({ path: z.string(), sha256: z.string(), config: z.boolean() })),
  }),
);
export type InstallRecord = Output<typeof recordSchema>;

export const sha256 = (content: Buffer): string => createHash('sha256').update(content).digest('hex');

export const stateDir = (root: string): string => path.join(root, 'var/lib/hyperturtle');
const fileOf = (root: string, role: Role): string => path.join(stateDir(root), `installed-${role}.json`);

/**
 * What is recorded while an installation is under way: all that was there and all that comes. Killed, it can be gone on with, by
 * what is to be replaced, and uninstalled.
 */
export function underWay(before: InstallRecord | undefined, coming: InstallRecord): InstallRecord {
  if (before === undefined) return coming;
  const had = new Set(before.files.map((f) => f.path));
  return { ...before, files: [...before.files, ...coming.files.filter((f) => !had.has(f.path))] };
}

/** Undefined when the role is not installed. Throws HT_INTEGRITY when the record cannot be read. */
export async function readRecord(root: string, role: Role): Promise<InstallRecord | undefined> {
  const file = fileOf(root, role);
  try {
    return recordSchema().parse(JSON.parse(await readFile(file, 'utf8')));
  } catch (e) {
    if (errnoCode(e) === 'ENOENT') return undefined;
    throw new HyperturtleError(
      'HT_INTEGRITY',
      `${file}: a record of an installation expected (${messageOf(e).slice(0, 200)}): remove it and install again`,
      { cause: e },
    );
  }
}

export function writeRecord(root: string, role: Role, record: InstallRecord): void {
  const file = fileOf(root, role);
  replaceFile(file, JSON.stringify(record), { directoryMode: 0o700 });
}

export async function removeRecord(root: string, role: Role): Promise<void> {
  await rm(fileOf(root, role), { force: true });
}
