/**
 * Files that the Node of this machine reads as it starts. Debian's keeps the JavaScript that upstream compiles in
 * (undici, acorn and others) below /usr/share/nodejs, and names it by absolute paths in its library: without them Node
 * aborts at start.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { exists } from './xdg.ts';

const NAMED = /\/usr\/share\/nodejs\/[\w@./-]+\.js/g;

/** Absolute paths of such files that Node's libraries name and that are there, sorted. */
export async function nodeFiles(libraries: readonly string[]): Promise<string[]> {
  const named = new Set<string>();
  for (const p of libraries)
    for (const m of (await readFile(p, 'latin1')).matchAll(NAMED)) named.add(path.normalize(m[0]));
  const there: string[] = [];
  for (const f of [...named].sort())
    if (f.startsWith('/usr/share/nodejs/') && (await exists(f))) there.push(f);
  return there;
}
