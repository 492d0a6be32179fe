/** What dkms is told of kernels, and what it says when it builds no module. */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { HyperturtleError, isHyperturtleError } from '../core/errors.ts';
import { TRIED_SERIES, byNumbers } from '../core/nested-kvm.ts';

/** dkms' exit status for a kernel that dkms.conf excludes. */
const EXCLUDED = 77;
/** dkms' exit status of `remove` for what it does not have. */
const NOT_ADDED = 3;

/** What dkms has: one of our versions, and the kernel that it is built for. */
export interface DkmsEntry {
  version: string;
  kernel?: string;
  /** `broken`: its sources are gone. */
  state: 'added' | 'built' | 'installed' | 'broken';
}

const STATUS =
  /^hyperturtle(?:\/|, )(\w[\w.+~-]*)(?:, ([^\s,]+), [^\s,:]+)?: (added|built|installed|broken)\b/;

/** `dkms status hyperturtle`: a line each, as dkms 2 and 3 write them. */
export function parseDkmsStatus(text: string): DkmsEntry[] {
  return text.split('\n').flatMap((line) => {
    const [, entryVersion, kernel, state] = STATUS.exec(line) ?? [];
    if (entryVersion === undefined) return [];
    const is = state as DkmsEntry['state'];
    return [{ version: entryVersion, ...(kernel === undefined ? {} : { kernel }), state: is }];
  });
}

/** Whether it is a `dkms remove` that says that there is nothing to remove. */
export const hadNothing = (argv: readonly string[], e: unknown): boolean =>
  argv[0] === 'dkms' && argv[1] === 'remove' && isHyperturtleError(e) && e.detail['status'] === NOT_ADDED;

const version = (series: string): [number, number] => {
  const [major = 0, minor = 0] = series.split('.').map(Number);
  return [major, minor];
};

/** The oldest and the newest series on which the modules have been tried, such as `6.1` and `6.12`. */
export function kernelRange(tried: readonly string[] = TRIED_SERIES): { oldest: string; newest: string } {
  const sorted = [...tried].sort(byNumbers);
  return { oldest: sorted[0]!, newest: sorted.at(-1)! };
}

/**
 * BUILD_EXCLUSIVE_KERNEL of dkms.conf: an extended regular expression for the releases of all series in the range. What
 * lies between two that were tried is built: what KVM is like is asked of the kernel, not read off its number.
 */
export function exclusiveKernels(tried: readonly string[] = TRIED_SERIES): string {
  const { oldest, newest } = kernelRange(tried);
  const [[fromMajor, fromMinor], [toMajor, toMinor]] = [version(oldest), version(newest)];
  const minors = (from: number, to: number): string =>
    `(${Array.from({ length: to - from + 1 }, (_, i) => from + i).join('|')})`;
  const parts: string[] = [];
  for (let major = fromMajor; major <= toMajor; major++) {
    // no series of Linux has gone beyond 20
    const from = major === fromMajor ? fromMinor : 0;
    const to = major === toMajor ? toMinor : 20;
    parts.push(`${major}[.]${minors(from, to)}`);
  }
  return `^(${parts.join('|')})[^0-9]`;
}

/** Fills in what the files of dist-files/dkms leave open. Pure. */
export function fillIn(text: string, packageVersion: string): string {
  const { oldest, newest } = kernelRange();
  return text
    .replaceAll('@VERSION@', packageVersion)
    .replaceAll('@KERNELS@', exclusiveKernels())
    .replaceAll('@RANGE@', `Linux ${oldest} to ${newest}`);
}

/**
 * The error of `dkms install` with its reason: a kernel that is excluded, or the first errors of the compiler. `log`: what dkms
 * wrote of the build, which goes with it when that is undone; hence copied to `kept`.
 */
export async function dkmsFailure(
  e: unknown,
  { kernel, log, kept }: { kernel: string; log: string; kept: string },
): Promise<unknown> {
  if (!isHyperturtleError(e, 'HT_COMMAND_FAILED')) return e;
  const { status, tail = '' } = (e.detail ?? {}) as { status?: number; tail?: string };
  const { oldest, newest } = kernelRange();
  if (status === EXCLUDED)
    return new HyperturtleError(
      'HT_UNSUPPORTED',
      `no modules for Linux ${kernel}: they are for Linux ${oldest} to ${newest} on x86_64, with KVM, BTF and direct calls of ftrace; --no-module installs all else`,
      { cause: e },
    );
  const read = await readFile(log, 'utf8').catch(() => '');
  // that of another kernel stays where nothing was begun, as without headers
  const text = read.includes(`for kernel ${kernel} (`) ? read : '';
  const errors = text
    .split('\n')
    .filter((l) => /error:|Error \d/.test(l))
    .slice(0, 5);
  const where = errors.length > 0 && (await isKept(text, kept)) ? `\n(the whole build: ${kept})` : '';
  const why = errors.length > 0 ? `${errors.join('\n')}${where}` : tail;
  return new HyperturtleError(
    'HT_COMMAND_FAILED',
    `dkms did not build the modules for Linux ${kernel}; --no-module installs all else:\n${why}`,
    { cause: e },
  );
}

async function isKept(text: string, file: string): Promise<boolean> {
  try {
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(file, text);
    return true;
  } catch {
    return false; // the errors themselves are told
  }
}
