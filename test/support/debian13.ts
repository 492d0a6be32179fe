/** A command of this project in a fresh clone on a Debian 13 in a directory, as a newcomer there gives it. Needs root. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { loadavg } from 'node:os';
import path from 'node:path';
import { makeDebianRoot, ROOT_ENV, rootDir } from './debian-root.ts';
import { ROOT } from './lab.ts';

export const USERS = [
  { user: 'root', home: '/root' },
  { user: 'turtle', home: '/home/turtle' },
] as const;

/** `$1`: the root, `$2`: a directory for what is written, `$3`: home, `$4`: user, `$5`: command. The clone is in `$2/home`. */
const IN_ROOT = `set -e
mkdir "$2/upper" "$2/work" "$2/m" "$2/tmp"; m=$2/m
mount -t overlay o -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$m"
mount -t proc proc "$m/proc"; mount --rbind /dev "$m/dev"; mount --rbind /sys "$m/sys"; mount -t tmpfs t "$m/run"
# directories of the machine's own file system: an overlay can be no layer of a container's
chmod 1777 "$2/tmp"; mount --bind "$2/tmp" "$m/tmp"
mkdir -p "$m$3"; mount --bind "$2/home" "$m$3"
cp /etc/resolv.conf "$m/etc/resolv.conf"
# what this machine trusts, a proxy of its own maybe
cp /etc/ssl/certs/ca-certificates.crt "$m/etc/ssl/certs/"
if [ "$4" != root ]; then chroot "$m" useradd -M -d "$3" "$4"; chroot "$m" chown -R "$4" "$3"; fi
printf '#!/bin/sh\\ncd "%s/hyperturtle" && %s\\n' "$3" "$5" > "$m/run/newcomer"
chmod 755 "$m/run/newcomer"
id=$(chroot "$m" id -u "$4")
# not chroot: what enters a mount namespace, as tests of containers do, would be outside
mkdir -p "$m/run/before"; cd "$m"; pivot_root . run/before
exec chroot . sh -c 'umount -l /run/before; exec env -i ${ROOT_ENV} HOME="$1" NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt setpriv --reuid "$2" --regid "$2" --clear-groups /run/newcomer' newcomer "$3" "$id"
`;

export interface Ran {
  status: number | null;
  stdout: string;
  stderr: string;
  /** A file of the clone. */
  read(file: string): string;
}

/** The machine, with its own npm and Node.js, and a directory for all that is written there. */
export function debian13(): {
  /** What it prints is passed on as it comes. Ended by force after `timeoutMs`: then `status` is null. */
  run(user: (typeof USERS)[number], command: string, timeoutMs: number): Promise<Ran>;
  remove(): void;
} {
  const root = makeDebianRoot({
    suite: 'trixie',
    name: 'trixie-npm',
    include: ['ca-certificates'],
    install: ['npm'],
  });
  const dir = mkdtempSync(path.join(path.dirname(rootDir('x')), 'run-'));
  return {
    async run({ user, home }, command, timeoutMs) {
      const own = mkdtempSync(path.join(dir, `${user}-`));
      const clone = path.join(own, 'home/hyperturtle');
      mkdirSync(path.dirname(clone));
      execFileSync('git', ['clone', '-q', '--no-hardlinks', ROOT, clone]);
      const before = performance.now();
      const unshare = ['--mount', '--pid', '--fork', '--kill-child', 'sh', '-c', IN_ROOT, 'newcomer'];
      // a kill -9 of the tests ends all that runs there, too
      const inRoot = ['--pdeathsig', 'KILL', 'unshare', ...unshare, root, own, home, user, command];
      const child = spawn('setpriv', inRoot, {
        stdio: ['ignore', 'pipe', 'pipe'],
        timeout: timeoutMs,
        killSignal: 'SIGKILL',
      });
      const text = { stdout: '', stderr: '' };
      for (const name of ['stdout', 'stderr'] as const)
        child[name].setEncoding('utf8').on('data', (s: string) => {
          text[name] += s;
          process.stdout.write(s);
        });
      const [status] = (await once(child, 'close')) as [number | null];
      const seconds = Math.round((performance.now() - before) / 1000);
      process.stdout.write(`\n  as ${user}: ${seconds} s in all, load ${loadavg()[0]!.toFixed(1)}\n`);
      return {
        status,
        ...text,
        read: (file) => readFileSync(path.join(clone, file), 'utf8'),
      };
    },
    remove: () => rmSync(dir, { recursive: true, force: true }),
  };
}
