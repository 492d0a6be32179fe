/** Packages in a tree of their own beside the tools: what only some labs need, fetched when first asked for. */
import type { Progress } from '../core/progress.ts';
import { CACHE_BYTES_NEEDED, fetchSet, packageSet } from './packages.ts';
import type { PackageSet } from './packages.ts';
import { apartTreeExists, unpackApart } from './tools.ts';
import type { ToolsTree } from './tools.ts';
import { openCache } from './xdg.ts';

export interface ApartContext {
  cacheRoot: string;
  progress: Progress;
  signal?: AbortSignal | undefined;
  /** Ask apt for newer versions. */
  refresh: boolean;
}

/** The recorded set `name` (packages.ts); fetches nothing but, the first time, apt's lists. */
export function apartSet(c: ApartContext, name: string): Promise<PackageSet> {
  return packageSet({
    root: c.cacheRoot,
    series: name,
    progress: c.progress,
    signal: c.signal,
    refresh: c.refresh,
  });
}

/** Its packages, fetched and unpacked. The set may be a newer one than `set`. */
export async function apartTree(
  c: ApartContext,
  found: PackageSet,
): Promise<{ set: PackageSet; tree: ToolsTree }> {
  const options = { root: c.cacheRoot, series: found.series, progress: c.progress, signal: c.signal };
  let set = found;
  if (!(await apartTreeExists(c.cacheRoot, set))) {
    await openCache(CACHE_BYTES_NEEDED, c.cacheRoot);
    set = await fetchSet(set, { ...options, refresh: c.refresh });
  }
  return { set, tree: await unpackApart(set, c) };
}
