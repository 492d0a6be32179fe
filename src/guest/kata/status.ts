/** What `hyperturtle kata status` says: each configuration of Kata, and whether it leads to our launcher. */
import path from 'node:path';
import { readIfThere } from '../../core/files.ts';
import { dropInsOf, namedConfigurations, resolveIn, shimOf } from './found.ts';
import type { FoundConfiguration, FoundKata } from './found.ts';
import { copyText, realOf, realProgram } from './texts.ts';
import { isForUs, settingsOf } from './settings.ts';
import { readRecord } from './record.ts';

/** `set up`: the next pod is started by our launcher. `broken`: it was installed and does not hold. */
type KataState = 'set up' | 'not set up' | 'broken' | 'cannot be';

export interface KataStatus {
  config: string;
  state: KataState;
  hypervisor: string | undefined;
  /** Version of the shim that reads it. */
  version: string | undefined;
  /** Why it is not set up, or what is to be done. */
  why: string | undefined;
  /** The container runtime's file that names it; undefined: none, or what Kata takes that is told no other. */
  namedBy: string | undefined;
  isDefault: boolean;
}

export function statusOf(root: string, kata: FoundKata): KataStatus[] {
  const named = new Map(
    Array.from(namedConfigurations(root), ([config, where]) => [resolveIn(root, config), where]),
  );
  const copies = (readRecord(root)?.files ?? []).filter((f) =>
    /\/hyperturtle-[^/]+\/configuration\.toml$/.test(f),
  );
  const rows: KataStatus[] = copies.map((copy) => copyStatus(root, kata, copy, named.get(copy)));
  for (const c of kata.configurations) {
    const namedBy = named.get(c.file);
    if (c.copied || (c.role === 'beside' && namedBy === undefined)) continue;
    rows.push({ ...rowOf(kata, c), ...judge(root, c), namedBy, isDefault: c.role === 'default' });
  }
  return rows;
}

const rowOf = (
  kata: FoundKata,
  c: FoundConfiguration,
): Pick<KataStatus, 'config' | 'hypervisor' | 'version'> => ({
  config: c.file,
  hypervisor: isForUs(c.settings) ? c.settings.hypervisor : undefined,
  version: shimOf(kata, c)?.version.text,
});

function judge(root: string, c: FoundConfiguration): Pick<KataStatus, 'state' | 'why'> {
  if (!isForUs(c.settings)) return { state: 'cannot be', why: c.settings.why };
  const starts = isForUs(c.effective) ? realProgram(c.effective) : undefined;
  if (c.ours === undefined)
    return { state: 'not set up', why: `Kata starts ${starts ?? 'what it was built with'}` };
  return held(root, starts, realProgram(c.settings));
}

/** `starts`: what Kata starts; `meant`: the VMM that its configuration names without us. */
function held(
  root: string,
  starts: string | undefined,
  meant: string | undefined,
): Pick<KataStatus, 'state' | 'why'> {
  const real = starts === undefined ? undefined : realOf(starts);
  const is = (file: string): boolean => readIfThere(path.join(root, file)) !== undefined;
  if (starts === undefined || real === undefined)
    return { state: 'broken', why: `a later drop-in has Kata start ${starts ?? 'another program'}` };
  if (!is(starts))
    return { state: 'broken', why: `${starts} is not there: pods do not start; install again` };
  if (real !== meant)
    return { state: 'broken', why: `Kata's configuration now names ${meant ?? 'no VMM'}: install again` };
  if (!is(real)) return { state: 'broken', why: `${real} is not there: pods do not start` };
  return { state: 'set up', why: undefined };
}

function copyStatus(root: string, kata: FoundKata, copy: string, namedBy: string | undefined): KataStatus {
  const text = (file: string): string | undefined => readIfThere(path.join(root, file))?.toString('utf8');
  const source = kata.configurations.find((c) => text(copy) === copyText(c.file, c.text));
  const isDefault = kata.configurations.some((c) => c.copied && c.role === 'default' && c === source);
  const all = settingsOf({ file: copy, text: text(copy) ?? '' }, dropInsOf(root, copy));
  const row = {
    config: copy,
    hypervisor: isForUs(all) ? all.hypervisor : undefined,
    version: source === undefined ? undefined : shimOf(kata, source)?.version.text,
    namedBy,
    isDefault,
  };
  if (source === undefined)
    return { ...row, state: 'broken', why: 'what it was copied from has changed: install again' };
  const { state, why } = held(
    root,
    isForUs(all) ? realProgram(all) : undefined,
    isForUs(source.settings) ? realProgram(source.settings) : undefined,
  );
  if (state === 'set up' && namedBy === undefined && !isDefault)
    return { ...row, state: 'broken', why: 'nothing reads it: containerd needs it as ConfigPath' };
  return { ...row, state, why };
}
