/** Transparent huge pages of a level: what its kernel gives for anonymous memory. */
import { HyperturtleError } from '../core/errors.ts';
import { runScript } from '../lab/levels.ts';
import type { Level } from '../lab/levels.ts';

const FILE = '/sys/kernel/mm/transparent_hugepage/enabled';

/** `always`: 2 MiB at a time where it can, as Debian has it; `never`: 4 KiB. */
export type HugePages = 'always' | 'never';

/** `always [madvise] never`: the one in brackets. */
export function chosenHugePages(text: string): string {
  const chosen = /\[(\w+)\]/.exec(text)?.[1];
  if (chosen === undefined)
    throw new HyperturtleError('HT_KERNEL', `${FILE}: one word in brackets expected, '${text.trim()}' found`);
  return chosen;
}

/** Gives what sets it back. */
export async function setHugePages(
  level: Level,
  to: HugePages,
  signal?: AbortSignal,
): Promise<() => Promise<void>> {
  const before = chosenHugePages(await runScript(level, `cat ${FILE}`, { signal }));
  await runScript(level, `echo ${to} > ${FILE}`, { signal });
  return async () => void (await runScript(level, `echo ${before} > ${FILE}`));
}
