/**
 * Packages that the machine's apt has not, such as kernels out of a later Debian release or of backports. They come by
 * an apt list of the lab's own, from the mirror that the machine's apt uses, checked with the newest keyring that the
 * machine's release has. Nothing is installed.
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { exec } from '../core/exec.ts';
import { HyperturtleError } from '../core/errors.ts';
import type { Release } from './debian.ts';
import { Apt } from './debs.ts';

/**
 * apt for a release and its backports, whose lists have just been fetched. `own`: the machine's, with lists. The
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
