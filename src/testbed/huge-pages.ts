/** Huge pages of a level: what its kernel gives for anonymous memory, and those set aside (hugetlbfs). */
import { HyperturtleError } from '../core/errors.ts';
import { CleanupStack } from '../core/lifecycle.ts';
import { HUGETLBFS_DIR } from '../guest/vmm/arguments.ts';
import { runScript } from '../lab/levels.ts';
import type { Level } from '../lab/levels.ts';

const RESERVED = '/proc/sys/vm/nr_hugepages';
const UNMOUNT = `if grep -q ' ${HUGETLBFS_DIR} hugetlbfs ' /proc/mounts; then umount ${HUGETLBFS_DIR}; fi`;
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

/** Sets so many pages of 2 MiB aside and mounts a hugetlbfs. Gives what undoes it. Throws HT_NO_MEMORY when there are fewer. */
export async function reserveHugePages(
  level: Level,
  pages: number,
  signal?: AbortSignal,
): Promise<() => Promise<void>> {
  const undo = new CleanupStack();
  const script = (text: string): Promise<string> => runScript(level, text, { signal });
  return undo.onFailure(async () => {
    const before = (await script(`cat ${RESERVED}`)).trim();
    undo.add('pages set aside', async () => void (await runScript(level, `echo ${before} > ${RESERVED}`)));
    const got = Number(await script(`echo ${pages} > ${RESERVED}; cat ${RESERVED}`));
    if (got !== pages)
      throw new HyperturtleError(
        'HT_NO_MEMORY',
        `${level.name} has memory for ${got} of ${pages} pages of 2 MiB: give it more`,
      );
    // before it is there: one that is interrupted does not know whether it is
    undo.add('hugetlbfs', async () => void (await runScript(level, UNMOUNT)));
    await script(`mkdir -p ${HUGETLBFS_DIR} && mount -t hugetlbfs none ${HUGETLBFS_DIR}`);
    return () => undo.run();
  });
}
