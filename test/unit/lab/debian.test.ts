import { describe, expect, test } from 'vitest';
import { furtherReleases, parseOsRelease, releaseOf, RELEASES } from '../../../src/lab/debian.ts';

const debian = (version: string, codename: string): string =>
  `PRETTY_NAME="Debian GNU/Linux ${version} (${codename})"\nVERSION_ID="${version}"\nVERSION_CODENAME=${codename}\nID=debian\n`;
const UBUNTU = 'PRETTY_NAME="Ubuntu 24.04.1 LTS"\nID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n';
const FEDORA = 'NAME="Fedora Linux"\nID=fedora\nPRETTY_NAME="Fedora Linux 43 (Cloud Edition)"\n';

describe('the release of a machine', () => {
  test('is read from its os-release, and says which kernel is its own', () => {
    expect(releaseOf(debian('12', 'bookworm')).kernel).toBe('6.1');
    expect(releaseOf(debian('13', 'trixie')).kernel).toBe('6.12');
  });

  test.each([
    ['Ubuntu 24.04.1 LTS', UBUNTU],
    ['Fedora Linux 43 (Cloud Edition)', FEDORA],
    ['Debian GNU/Linux 11 (bullseye)', debian('11', 'bullseye')],
    ['another system', ''],
  ])('%s is refused in one line that names it', (name, text) => {
    let message = '';
    try {
      releaseOf(text);
    } catch (e) {
      message = (e as Error).message;
    }
    expect(message).toContain(`packages of Debian 12 or 13, this is ${name}`);
    expect(message).not.toContain('\n');
  });

  test('says where else kernels come from, the newest first: its own backports where no release is newer', () => {
    expect(furtherReleases(RELEASES[0]!).map((r) => r.codename)).toEqual(['trixie']);
    expect(furtherReleases(RELEASES[1]!).map((r) => r.codename)).toEqual(['trixie', 'bookworm']);
  });
});

test('values of os-release may be quoted or bare', () => {
  expect(parseOsRelease('A="x y"\nB=z\nC=\'q\'\n# D=1\nrubbish\n')).toEqual({ A: 'x y', B: 'z', C: 'q' });
});
