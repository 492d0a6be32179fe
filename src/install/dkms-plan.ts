/**
 * What dkms is told: a version is built beside the one that works and takes its place then; the earlier one goes last. Where both
 * have one name, as sources of one version that changed do, the earlier one is built again when the new one fails.
 */
import { PLACES } from '../core/default-paths.ts';
import type { DkmsEntry } from './dkms.ts';
import type { Command, RunStep } from './steps.ts';

export interface DkmsSpec {
  version: string;
  /** The one that runs. */
  kernel: string;
  /** Sources of `version` are written. */
  changed: boolean;
  /** The version whose sources are removed, if any. */
  replaced: string | undefined;
  /** All our entries in dkms. */
  entries: readonly DkmsEntry[];
}

export interface DkmsSteps {
  /** Before sources are written. */
  before: RunStep[];
  /** With the new sources there. */
  build: RunStep[];
  /** Once all else is done, and before sources of an earlier version are removed. */
  last: RunStep[];
}

const idOf = (version: string): string => `hyperturtle/${version}`;
/** Where dkms keeps what it knows of a version. */
const treeOf = (version: string): string => `/var/lib/dkms/${idOf(version)}`;

/** dkms takes modules that differ in nothing for the same ones, and refuses them, unless it is forced. */
const install = (version: string, kernel: string, forced: boolean): Command => [
  ...['dkms', 'install', idOf(version), '-k', kernel],
  ...(forced ? ['--force'] : []),
];
const removeAll = (version: string): Command => ['dkms', 'remove', idOf(version), '--all'];

/** Kernels for which a version is installed. */
const kernelsOf = (entries: readonly DkmsEntry[], version: string): string[] =>
  entries.flatMap((e) => (e.version === version && e.state === 'installed' && e.kernel ? [e.kernel] : []));

const isBroken = (entries: readonly DkmsEntry[], version: string): boolean =>
  entries.some((e) => e.version === version && e.state === 'broken');

/** Takes a version out of dkms, whose sources are there. `undo` has it built again. */
function forget(entries: readonly DkmsEntry[], version: string): RunStep {
  const undo = kernelsOf(entries, version).map((k) => install(version, k, true));
  return { kind: 'run', argv: removeAll(version), undo };
}

/** dkms itself refuses to touch a version that has lost its sources. */
const forgetBroken = (version: string): RunStep => ({
  kind: 'run',
  argv: ['rm', '-rf', treeOf(version)],
  mayFail: true,
});

export function planDkms(o: DkmsSpec): DkmsSteps {
  const { version, kernel, changed, replaced, entries } = o;
  const steps: DkmsSteps = { before: [], build: [], last: [] };
  const added = entries.some((e) => e.version === version);
  const broken = isBroken(entries, version);
  const own = kernelsOf(entries, version);
  if (broken) steps.before.push(forgetBroken(version));
  else if (added && changed) steps.before.push(forget(entries, version));
  const earlier = entries.find(
    (e) => e.version !== version && e.kernel === kernel && e.state === 'installed',
  )?.version;
  if (!own.includes(kernel) || changed)
    steps.build.push({
      kind: 'run',
      argv: install(version, kernel, earlier !== undefined),
      dkms: { kernel, log: `${treeOf(version)}/build/make.log`, kept: `${PLACES.state.path}/make.log` },
      undo: [
        // modules that were there for other kernels stay
        added && !changed && !broken ? ['dkms', 'remove', idOf(version), '-k', kernel] : removeAll(version),
        ...(earlier === undefined ? [] : [install(earlier, kernel, true)]),
      ],
    });
  // what other kernels had, they have again
  const others = new Set([
    ...(changed ? own : []),
    ...(replaced === undefined ? [] : kernelsOf(entries, replaced).filter((k) => !own.includes(k))),
  ]);
  others.delete(kernel);
  for (const k of others) {
    const argv = install(version, k, true);
    const told = `no modules for Linux ${k}; to try again: ${argv.join(' ')}`;
    steps.build.push({ kind: 'run', argv, mayFail: { told } });
  }
  if (replaced !== undefined && entries.some((e) => e.version === replaced) && !isBroken(entries, replaced))
    steps.last.push(forget(entries, replaced));
  for (const e of entries)
    if (e.state === 'broken' && e.version !== version) steps.last.push(forgetBroken(e.version));
  return steps;
}

/** Takes a version out of dkms for good. */
export function planDkmsRemoval(version: string, entries: readonly DkmsEntry[]): RunStep[] {
  if (isBroken(entries, version)) return [forgetBroken(version)];
  if (!entries.some((e) => e.version === version)) return [];
  return [{ kind: 'run', argv: removeAll(version), mayFail: true }];
}
