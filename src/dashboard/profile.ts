/**
 * What the program on a VM's hook `sample` has counted of one L2, as boxes of a flame graph. The map is the tenant's: whatever does
 * not read as stacks is said to be none. Names come from files of the operator; without them there are addresses.
 */
import { messageOf } from '../core/errors.ts';
import type { MapAccess } from '../net/maps.ts';
import { boxesOf, childrenOf } from '../profile/boxes.ts';
import type { Box } from '../profile/boxes.ts';
import { readEntries, readStacks } from '../profile/stacks.ts';
import type { SymbolTable } from '../profile/symbol-table.ts';
import { hottest, kernelOffsetOf, symbolize } from '../profile/symbolize.ts';
import type { Binary } from '../profile/symbolize.ts';
import type { L2, Profile, ProfileBox, Vm } from './model.ts';

/** Where names come from. */
export interface ProfileNames {
  kernel?: SymbolTable | undefined;
  kernelOffset?: bigint | undefined;
  binaries: readonly Binary[];
}

/** Smaller ones are not sent: nobody could see them. */
const LEAST_SHARE = 0.001;
const BOXES = 2000;
const HOTTEST = 20;
const NAME = 200;

/** The link by which nested guests of this VM are sampled now, if there is one. */
export const samplingOf = (vm: Vm): Vm['links'][number] | undefined =>
  vm.links.find((l) => l.hook === 'sample');

export async function profileOf(
  link: Vm['links'][number],
  l2: L2,
  maps: MapAccess,
  names: ProfileNames,
): Promise<Profile> {
  const of = {
    object: link.object,
    since: link.since,
    hz: link.options && 'hz' in link.options ? link.options.hz : null,
  };
  const nothing = { ...of, samples: 0, root: null, hottest: [] };
  if (l2.number === undefined)
    return { ...nothing, problem: 'its agent does not tell which number programs know this nested guest by' };
  try {
    const stacks = (await readStacks(maps)).filter((s) => s.l2 === l2.number);
    const entry = (await readEntries(maps)).get(l2.number);
    const offset = names.kernelOffset ?? (names.kernel && entry && kernelOffsetOf(names.kernel, entry));
    const named = symbolize(stacks, {
      // another kernel's names would be wrong ones
      ...(names.kernel && offset !== undefined ? { kernel: names.kernel } : {}),
      kernelOffset: offset ?? 0n,
      binaries: names.binaries,
    });
    const root = boxesOf(named.filter((s) => s.frames.length > 0));
    const hot = hottest(named).slice(0, HOTTEST);
    return {
      ...of,
      samples: root.samples,
      root: root.samples > 0 ? cut(root) : null,
      hottest: hot.map((f) => ({ ...f, name: f.name.slice(0, NAME) })),
      problem: null,
    };
  } catch (e) {
    return { ...nothing, problem: messageOf(e) };
  }
}

/** A caller has at least the samples of what it calls, so what is left hangs together. */
function cut(root: Box): ProfileBox {
  const sizes: number[] = [];
  const collect = (box: Box): void => {
    sizes.push(box.samples);
    box.children.forEach(collect);
  };
  collect(root);
  sizes.sort((a, b) => b - a);
  const least = Math.max(root.samples * LEAST_SHARE, (sizes[BOXES] ?? 0) + 1, 1);
  const shown = (box: Box): ProfileBox => ({
    name: box.name.slice(0, NAME),
    module: box.module,
    kernel: box.kernel,
    samples: box.samples,
    children: childrenOf(box)
      .filter((c) => c.samples >= least)
      .map(shown),
  });
  return shown(root);
}
