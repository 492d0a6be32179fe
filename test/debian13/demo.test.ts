/**
 * What a newcomer does on Debian 13: a fresh clone, `npm run demo`, as root and as an ordinary user. The machine is a
 * Debian 13 in a directory, with its own npm and Node.js; all that is written there is thrown away.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { loadavg } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makeDebianRoot, ROOT_ENV, rootDir, whyNoRoot } from '../support/debian-root.ts';
import { ROOT } from '../support/lab.ts';

const why = whyNoRoot();
const DEMO_MS = 3_000_000;

/** `$1`: the root, `$2`: a directory for what is written, `$3`: a clone, `$4`: home, `$5`: user. */
const DEMO = `set -e
mkdir "$2/upper" "$2/work" "$2/m"; m=$2/m
mount -t overlay o -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$m"
mount -t proc proc "$m/proc"; mount --rbind /dev "$m/dev"; mount -t tmpfs t "$m/run"
cp /etc/resolv.conf "$m/etc/resolv.conf"
# what this machine trusts, a proxy of its own maybe
cp /etc/ssl/certs/ca-certificates.crt "$m/etc/ssl/certs/"
mkdir -p "$m$4"; mv "$3" "$m$4/hyperturtle"
if [ "$5" != root ]; then chroot "$m" useradd -d "$4" "$5"; chroot "$m" chown -R "$5" "$4"; fi
cat > "$m/run/demo" <<END
#!/bin/sh
cd "$4/hyperturtle" && npm run demo && echo DEMO OK && cat report.html > /dev/null
END
chmod 755 "$m/run/demo"
id=$(chroot "$m" id -u "$5")
exec chroot "$m" env -i ${ROOT_ENV} HOME="$4" NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt setpriv --reuid "$id" --regid "$id" --clear-groups /run/demo
`;

let root: string;
let dir: string;
describe.skipIf(why !== undefined)(`on Debian 13${why === undefined ? '' : ` (skipped: ${why})`}`, () => {
  beforeAll(() => {
    root = makeDebianRoot({
      suite: 'trixie',
      name: 'trixie-npm',
      include: ['ca-certificates'],
      install: ['npm'],
    });
    dir = mkdtempSync(path.join(path.dirname(rootDir('x')), 'run-'));
  });
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  it.each([
    { user: 'root', home: '/root' },
    { user: 'turtle', home: '/home/turtle' },
  ])('the demo of a fresh clone runs to its end as $user', ({ user, home }) => {
    const own = path.join(dir, user);
    mkdirSync(own);
    const clone = path.join(own, 'clone');
    execFileSync('git', ['clone', '-q', '--no-hardlinks', ROOT, clone]);
    const before = performance.now();
    const unshare = ['--mount', '--pid', '--fork', '--kill-child', 'sh', '-c', DEMO, 'demo'];
    const r = spawnSync('unshare', [...unshare, root, own, clone, home, user], {
      encoding: 'utf8',
      timeout: DEMO_MS,
      maxBuffer: 64 << 20,
    });
    const seconds = Math.round((performance.now() - before) / 1000);
    process.stdout.write(
      `${r.stderr}${r.stdout}\n  as ${user}: ${seconds} s in all, load ${loadavg()[0]!.toFixed(1)}\n`,
    );
    expect(r.stdout, r.stderr.slice(-2000)).toContain('DEMO OK');
    expect(r.status).toBe(0);
    expect(readFileSync(path.join(own, 'upper', home, 'hyperturtle/report.html'), 'utf8')).toContain('6.12.');
  });
});
