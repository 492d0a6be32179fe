/** Mounting turtlefs, the file system of guest RAM, when the module is there and nobody has mounted it. */
import { makeDirectory } from '../../core/files.ts';
import { exec } from '../../core/exec.ts';
import { turtlefsMount } from './vms.ts';

const MOUNT_TIMEOUT_MS = 10_000;

/** True when this call mounted it. Throws HT_COMMAND_FAILED with mount's words. */
export async function mountTurtlefs(dir: string, signal: AbortSignal): Promise<boolean> {
  if (turtlefsMount() !== undefined) return false;
  makeDirectory(dir);
  await exec('mount', ['-t', 'turtlefs', 'none', dir], { timeoutMs: MOUNT_TIMEOUT_MS, signal });
  return true;
}

/** Throws HT_COMMAND_FAILED while a file of it is in use. */
export async function unmountTurtlefs(dir: string): Promise<void> {
  await exec('umount', [dir], { timeoutMs: MOUNT_TIMEOUT_MS });
}
