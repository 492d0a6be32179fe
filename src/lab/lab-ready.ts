/** From a machine that runs again to a lab: this run's payload at both levels, and the right time of day. */
import { constants } from 'node:fs';
import { copyFile, truncate, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { BuiltPayload } from './artifacts.ts';
import { IMAGES_DISK_BYTES, IN_GUEST, PAYLOAD_DISK_BYTES } from './artifacts.ts';
import { withStep } from '../core/progress.ts';
import type { Progress } from '../core/progress.ts';
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

/** The same for images of nested guests. An image is used where it lies in the cache: it is never written. */
export async function imagesDisk(dir: string, images: string | undefined): Promise<string> {
  if (images !== undefined) return images;
  const disk = path.join(dir, 'no-images.img');
  await writeFile(disk, '');
  await truncate(disk, IMAGES_DISK_BYTES);
  return disk;
}

/** Both levels mount the payload and correct their processor, L1 mounts the images. L1 reads it through L0's disk, but not through L0's page cache. */
async function makeReady(
  m: Machine,
  disks: { payload: boolean; images: boolean },
  signal: AbortSignal | undefined,
): Promise<void> {
  const mount = (disk: string, dir: string): string =>
    `blockdev --flushbufs ${disk}; mkdir -p ${dir}; mount -t erofs -o ro ${disk} ${dir}`;
  const payload = disks.payload ? mount(IN_GUEST.payloadDisk, IN_GUEST.payload) : ':';
  // of c/vectoring, where the kernel needs it
  const vectoring = `${IN_GUEST.payload}/modules/hyperturtle_vectoring.ko`;
  const correct = `if [ -e ${vectoring} ] && [ -d /sys/module/kvm_amd ]; then insmod ${vectoring}; fi`;
  const images = disks.images ? mount(IN_GUEST.imagesDisk, IN_GUEST.images) : ':';
  await Promise.all(
    [m.l0, m.l1].map((level) => {
      // the guests' clock stood still while they were a file
      const script = `set -e; date -s @${Math.round(Date.now() / 1000)} >/dev/null; ${payload}; ${correct}; ${level === m.l1 ? images : ':'}`;
      return runScript(level, script, { timeoutMs: 60_000, signal });
    }),
  );
}

/** The same as a step that is shown. */
export async function whenReady(
  machine: Machine,
  has: Parameters<typeof makeReady>[1],
  progress: Progress,
  signal: AbortSignal | undefined,
): Promise<void> {
  await withStep(progress, 'levels ready', () => makeReady(machine, has, signal));
}
