/** From a machine that runs again to a lab: this run's payload at both levels, and the right time of day. */
import { constants } from 'node:fs';
import { copyFile, truncate, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { BuiltPayload } from './artifacts.ts';
import { IN_GUEST, PAYLOAD_DISK_BYTES } from './artifacts.ts';
import type { Machine } from './boot.ts';
import { runScript } from './levels.ts';

/** The payload as a disk of the size that every snapshot knows; zeros without one. Gives its path. */
export async function payloadDisk(dir: string, payload: BuiltPayload | undefined): Promise<string> {
  const disk = path.join(dir, 'payload.img');
  if (payload) await copyFile(payload.path, disk, constants.COPYFILE_FICLONE);
  else await writeFile(disk, '');
  await truncate(disk, PAYLOAD_DISK_BYTES);
  return disk;
}

/** Both levels mount the payload. L1 reads it through L0's disk, but not through L0's page cache. */
export async function makeReady(
  m: Machine,
  withPayload: boolean,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { payloadDisk: disk, payload } = IN_GUEST;
  const mount = `blockdev --flushbufs ${disk}; mkdir -p ${payload}; mount -t erofs -o ro ${disk} ${payload}`;
  await Promise.all(
    [m.l0, m.l1].map((level) => {
      // the guests' clock stood still while they were a file
      const script = `set -e; date -s @${Math.round(Date.now() / 1000)} >/dev/null; ${withPayload ? mount : ':'}`;
      return runScript(level, script, { timeoutMs: 60_000, signal });
    }),
  );
}
