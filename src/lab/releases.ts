/**
 * Debian's releases: which one this machine is, and how the lab reads the packages of another one. Kernels newer than
 * the machine's release come from a later one and its backports, by an apt list of the lab's own: from the mirror that
 * the machine's apt uses, checked with the newest keyring that the machine's release has. Nothing is installed.
 */
import { readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { exec } from '../core/exec.ts';
import { HyperturtleError } from '../core/errors.ts';
import { Apt } from './debs.ts';

export interface Release {
  /** `12`. */
  version: string;
  /** `bookworm`. */
  codename: string;
  /** Series of its own kernel. */
  kernel: string;
}

/** What the lab has been run on, oldest first. */
export const RELEASES: readonly Release[] = [
  { version: '12', codename: 'bookworm', kernel: '6.1' },
  { version: '13', codename: 'trixie', kernel: '6.12' },
];

/** `ID`, `VERSION_CODENAME`, `PRETTY_NAME` and so on of os-release(5). */
export function parseOsRelease(text: string): Record<string, string> {
  const out: Record<string, string> = {};
  for (const line of text.split('\n')) {
    const m = /^([A-Z_]+)=(?:"(.*)"|'(.*)'|(.*))$/.exec(line.trim());
    if (m) out[m[1]!] = m[2] ?? m[3] ?? m[4] ?? '';
  }
  return out;
}

/** The release of a system by its os-release. Throws HT_UNSUPPORTED with what works there. */
export function releaseOf(osRelease: string): Release {
  const os = parseOsRelease(osRelease);
  const found = RELEASES.find((r) => os['ID'] === 'debian' && os['VERSION_CODENAME'] === r.codename);
  if (found !== undefined) return found;
  throw new HyperturtleError(
    'HT_UNSUPPORTED',
    unsupported(os['PRETTY_NAME'] ?? os['ID'] ?? 'another system'),
  );
}

const newest = RELEASES.at(-1)!;

function unsupported(system: string): string {
  const names = RELEASES.map((r) => r.version).join(' or ');
  return `the lab is made of packages of Debian ${names}, this is ${system}: use such a machine or container`;
}

/** This machine's release. */
export function machineRelease(): Release {
  return releaseOf(readOsRelease());
}

function readOsRelease(): string {
  for (const file of ['/etc/os-release', '/usr/lib/os-release'])
    try {
      return readFileSync(file, 'utf8');
    } catch {
      // the other one
    }
  return '';
}

/** Kernel of all levels where nobody says another: the one of the machine's Debian, or of the newest known where it is none. */
export function defaultKernel(): string {
  try {
    return machineRelease().kernel;
  } catch {
    return newest.kernel;
  }
}

/** Releases beside the machine's, newest first. */
export function otherReleases(machine: Release): Release[] {
  return RELEASES.filter((r) => r !== machine).reverse();
}

/**
 * apt for another release than the machine's, whose lists have just been fetched. `own`: the machine's, with lists. The
 * caller holds the lock of both.
 */
export async function aptOfRelease(
  own: Apt,
  release: Release,
  cacheRoot: string,
  signal: AbortSignal | undefined,
): Promise<Apt> {
  const archives = await own.archives();
  const uriOf = (label: string): string | undefined =>
    archives.find((a) => a.origin === 'Debian' && a.label === label)?.uri;
  const main = uriOf('Debian');
  if (main === undefined)
    throw new HyperturtleError(
      'HT_PACKAGES',
      `apt has no archive of Debian to take packages of ${release.codename} from: add one to /etc/apt/sources.list`,
    );
  const keyring = await newestKeyring(own, cacheRoot, signal);
  const c = release.codename;
  const stanzas = [sources(main, [c, `${c}-updates`, `${c}-backports`], keyring)];
  const security = uriOf('Debian-Security');
  if (security !== undefined) stanzas.push(sources(security, [`${c}-security`], keyring));
  const apt = new Apt(cacheRoot, signal, 'tools', { codename: c, sources: stanzas.join('\n') });
  await apt.update();
  return apt;
}

function sources(uri: string, suites: readonly string[], keyring: string): string {
  return `Types: deb\nURIs: ${uri}\nSuites: ${suites.join(' ')}\nComponents: main\nSigned-By: ${keyring}\n`;
}

/**
 * Debian's keys out of the package in the machine's own signed lists: the installed one may be older than the other
 * release's keys, and only root could replace it.
 */
async function newestKeyring(own: Apt, cacheRoot: string, signal: AbortSignal | undefined): Promise<string> {
  const debs = await own.plan(['debian-archive-keyring']);
  await own.download(await own.missing(debs), () => {});
  const to = path.join(cacheRoot, 'apt/keyring');
  await rm(to, { recursive: true, force: true });
  for (const d of debs)
    await exec('dpkg-deb', ['-x', path.join(own.debsDir, d.file), to], { signal, timeoutMs: 60_000 });
  return path.join(to, 'usr/share/keyrings/debian-archive-keyring.gpg');
}
