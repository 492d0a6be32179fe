/** Stacks laid upon each other, as flame graphs draw them: what shares its callers shares a box. */
import type { NamedStack } from './symbolize.ts';

export interface Box {
  name: string;
  module: string;
  kernel: boolean;
  /** With those of what it called. */
  samples: number;
  children: Map<string, Box>;
}

export function boxesOf(stacks: readonly NamedStack[]): Box {
  const box = (name: string, module: string, kernel: boolean): Box => ({
    name,
    module,
    kernel,
    samples: 0,
    children: new Map(),
  });
  const root = box('all', '', false);
  for (const { frames, samples } of stacks) {
    let at = root;
    root.samples += samples;
    for (const f of frames) {
      const key = `${f.module} ${f.name}`;
      let next = at.children.get(key);
      if (!next) at.children.set(key, (next = box(f.name, f.module, f.kernel)));
      next.samples += samples;
      at = next;
    }
  }
  return root;
}

/** In the order in which they are drawn. */
export const childrenOf = (box: Box): Box[] =>
  [...box.children].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, child]) => child);
