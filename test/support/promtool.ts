/** Prometheus's own checker, of Debian's package. */
import path from 'node:path';
import { debTree } from './deb-tree.ts';

/** The program, or why there is none. Fetched the first time. */
export function promtool(): { program: string; env: NodeJS.ProcessEnv } | string {
  // a package of its own since Debian 13
  const own = debTree('promtool', ['promtool']);
  const tree = typeof own === 'string' ? debTree('prometheus', ['prometheus']) : own;
  return typeof tree === 'string'
    ? tree
    : { program: path.join(tree.root, 'usr/bin/promtool'), env: tree.env };
}
