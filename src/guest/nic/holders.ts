/** Which processes have a file open: a VMM that uses a device cannot be seen in any other way. */
import { readdirSync, readlinkSync } from 'node:fs';

export function holdersOf(file: string): number[] {
  const holders: number[] = [];
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const fds = readdirSync(`/proc/${name}/fd`);
      if (fds.some((fd) => linkOf(`/proc/${name}/fd/${fd}`) === file)) holders.push(Number(name));
    } catch {
      // it has ended, or is not ours to look into
    }
  }
  return holders;
}

function linkOf(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}
