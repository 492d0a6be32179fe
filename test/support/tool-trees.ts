/** The lab's unpacked tools, for tests that need a compiler or a QEMU and no lab. Nothing is fetched here. */
import { readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { errnoCode } from '../../src/core/errors.ts';
import type { ToolsTree } from '../../src/lab/tools.ts';
import { cacheRoot } from '../../src/lab/xdg.ts';

/** Newest first; none when the lab has never been prepared on this machine. */
export function toolTrees(): ToolsTree[] {
  const trees = path.join(cacheRoot(), 'trees');
  try {
    return readdirSync(trees)
      .filter((name) => name.startsWith('tools-'))
      .map((name) => path.join(trees, name))
      .sort((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs)
      .map((dir) => ({ root: path.join(dir, 'root'), libc: path.join(dir, 'libc'), key: '' }));
  } catch (e) {
    if (errnoCode(e) === 'ENOENT') return [];
    throw e;
  }
}
