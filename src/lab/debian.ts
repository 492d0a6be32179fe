/**
 * Debian's releases: which one this machine is, hence which kernel is its own, and what to do where it is none that the
 * lab can be made of.
 */
import { readFileSync } from 'node:fs';
import { HyperturtleError } from '../core/errors.ts';

export interface Release {
  /** `12`. */
  version: string;
  /** `bookworm`. */
  codename: string;
  /** Series of its own kernel. */
  kernel: string;
  /** Series whose source it has, its own first, then those of its backports. */
  sources: readonly string[];
}

/** What the lab has been run on, oldest first. */
export const RELEASES: readonly Release[] = [
  { version: '12', codename: 'bookworm', kernel: '6.1', sources: ['6.1', '6.12'] },
  { version: '13', codename: 'trixie', kernel: '6.12', sources: ['6.12', '7.3'] },
];

/** `ID`, `VERSION_CODENAME`, `PRETTY_NAME` and so on of os-release(5). */
export function parseOsRelease(text: string): Record<string, string> {
  return Object.fromEntries(
    text.split('\n').flatMap((line) => {
      const m = /^([A-Z_]+)=(?:"(.*)"|'(.*)'|(.*))$/.exec(line.trim());
      return m ? [[m[1]!, m[2] ?? m[3] ?? m[4] ?? '']] : [];
    }),
  );
}

/** The release of a system by its os-release. Throws HT_UNSUPPORTED with what works there. */
export function releaseOf(osRelease: string): Release {
  const os = parseOsRelease(osRelease);
  const found = RELEASES.find((r) => os['ID'] === 'debian' && os['VERSION_CODENAME'] === r.codename);
  if (found !== undefined) return found;
  throw new HyperturtleError(
    'HT_UNSUPPORTED',
    unsupported(os['PRETTY_NAME'] || os['ID'] || 'another system'),
  );
}

const newest = RELEASES.at(-1)!;

/** The same line is in scripts/bootstrap.mjs, which runs before anything is compiled. */
function unsupported(system: string): string {
  const names = RELEASES.map((r) => r.version).join(' or ');
  const install = 'apt-get update && apt-get install -y --no-install-recommends npm ca-certificates';
  return (
    `the lab is made of packages of Debian ${names}, this is ${system}: here 'npm test -- unit' works, and the demo in a ` +
    `container (docker or podman): docker run --rm -it -v "$PWD:/src:z" -w /src debian:${newest.version} sh -c '${install} && npm run demo'`
  );
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

/** A release that came before the machine's. */
export function isOlder(codename: string): boolean {
  const order = (name: string): number => RELEASES.findIndex((r) => r.codename === name);
  return order(codename) < order(machineRelease().codename);
}

/**
 * Releases, each with its backports, for what the machine's apt has not: newest first. The machine's own is one of them where it
 * is the newest, as its apt may be without backports, and no other has what is in these.
 */
export function furtherReleases(machine: Release): Release[] {
  return RELEASES.filter((r) => r !== machine || r === newest).reverse();
}
