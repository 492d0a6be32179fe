/**
 * What the Node of this machine needs in the lab beside itself: the files that it reads as it starts, and a state to
 * start from. Debian's keeps the JavaScript that upstream compiles in
 * (undici, acorn and others) below /usr/share/nodejs, and names it by absolute paths in its library: without them Node
 * aborts at start.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { exists } from './xdg.ts';

/**
 * Whether it compiles its own JavaScript at each start, as Debian's does; upstream's has the result in it. `config`: of
 * Node's build, where its types leave this out.
 */
export function startsSlowly(config: unknown = process.config.variables): boolean {
  return (config as { node_use_node_snapshot?: unknown }).node_use_node_snapshot !== true;
}

/** State of a started Node, made in the level itself: it is only right for the processor that it was made on. */
const NODE_START = '/run/node-start.blob';

/** A script that makes it. */
export const makeNodeStart = (slow: boolean = startsSlowly()): string =>
  slow ? `node --snapshot-blob ${NODE_START} --build-snapshot /dev/null` : 'node -e 0';

/** A script that becomes `node MAIN "$@"`, from that state where there is one: two thirds of the time. */
export const startNode = (node: string, main: string, slow: boolean = startsSlowly()): string =>
  `${slow ? `[ -r ${NODE_START} ] && exec ${node} --snapshot-blob ${NODE_START} ${main} "$@"\n` : ''}exec ${node} ${main} "$@"\n`;

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
