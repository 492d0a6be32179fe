/** What `hyperturtle kata install` has put on a machine, or was about to: written before anything else is. */
import { readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { PLACES } from '../../core/default-paths.ts';
import { HyperturtleError, errnoCode, messageOf } from '../../core/errors.ts';
import { replaceFile } from '../../core/files.ts';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

const recordSchema = lazy(() =>
  z.strictObject({
    schema: z.literal(1),
    version: z.string(),
    /** In the order in which they are written; removed in the reverse. */
    files: z.array(z.string()),
    links: z.array(z.strictObject({ path: z.string(), to: z.string() })),
    /** That were not there before; a parent before what is in it. */
    dirs: z.array(z.string()),
  }),
);
export type KataRecord = Output<typeof recordSchema>;

export const RECORD = `${PLACES.state.path}/kata.json`;

const fileOf = (root: string): string => path.join(root, RECORD);

/** Undefined when nothing was installed. Throws HT_INTEGRITY when it cannot be read. */
export function readRecord(root: string): KataRecord | undefined {
  const file = fileOf(root);
  try {
    return recordSchema().parse(JSON.parse(readFileSync(file, 'utf8')));
  } catch (e) {
    if (errnoCode(e) === 'ENOENT') return undefined;
    throw new HyperturtleError(
      'HT_INTEGRITY',
      `${file}: a record of 'kata install' expected (${messageOf(e).slice(0, 200)}): remove it and install again`,
      { cause: e },
    );
  }
}

export function writeRecord(root: string, record: KataRecord): void {
  replaceFile(fileOf(root), JSON.stringify(record), { directoryMode: 0o700, sync: true });
}

export function removeRecord(root: string): void {
  rmSync(fileOf(root), { force: true });
  rmSync(`${fileOf(root)}.new`, { force: true }); // of an installation that was killed
}
