import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { messageOf } from '../../src/core/errors.ts';
import { releaseOf } from '../../src/lab/debian.ts';
import { ROOT } from '../support/lab.ts';

const SYSTEMS = {
  'Ubuntu 24.04.1 LTS': 'ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n',
  'Fedora Linux 43 (Cloud Edition)': 'ID=fedora\nVERSION_ID=43\n',
  'Debian GNU/Linux 11 (bullseye)': 'ID=debian\nVERSION_CODENAME=bullseye\n',
};

const noRoot = process.getuid?.() === 0 ? '' : ' (skipped: not root, so nothing can be mounted)';

/** The demo on a machine that says of itself what `osRelease` says. */
function demoOn(osRelease: string): { status: number | null; stderr: string } {
  const dir = mkdtempSync(path.join(tmpdir(), 'other-system-'));
  try {
    const file = path.join(dir, 'os-release');
    writeFileSync(file, osRelease);
    const script =
      'mount --bind "$1" "$(readlink -f /etc/os-release)" && exec "$2" scripts/bootstrap.mjs demo';
    return spawnSync('unshare', ['--mount', 'sh', '-c', script, 'sh', file, process.execPath], {
      cwd: ROOT,
      encoding: 'utf8',
      timeout: 30_000,
    });
  } finally {
    rmSync(dir, { recursive: true });
  }
}

function refusal(osRelease: string): string {
  try {
    releaseOf(osRelease);
  } catch (e) {
    return messageOf(e);
  }
  throw new Error('not refused');
}

describe.skipIf(noRoot !== '')(`the demo on a system that is neither Debian 12 nor 13${noRoot}`, () => {
  test.each(Object.entries(SYSTEMS))(
    '%s: ends at once with one line: what works there, and the command for the rest',
    (name, text) => {
      const osRelease = `PRETTY_NAME="${name}"\n${text}`;
      const r = demoOn(osRelease);
      expect(r.stderr).toBe(`${refusal(osRelease)}\n`);
      expect(r.stderr).toContain(`this is ${name}: here 'npm test -- unit' works`);
      expect(r.stderr).toMatch(/docker run .* debian:13 .* npm run demo'\n$/);
      expect(r.status).toBe(2);
    },
  );
});
