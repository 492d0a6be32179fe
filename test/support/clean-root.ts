/**
 * A minimal Debian 12 in a directory, and throw-away machines of it: a container with systemd as its first process, no
 * network, and all that it writes in memory. Made with debootstrap the first time, which takes minutes.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { waitFor } from '../../src/core/wait.ts';
import { makeDebianRoot, ROOT_ENV as ENV } from './debian-root.ts';

const SUITE = 'bookworm';
/** What our packages depend on but for Node.js, a kernel's headers to build for, and what the test looks with. */
const INCLUDE = [
  ...['systemd', 'systemd-sysv', 'udev', 'kmod', 'libbpf1', 'dkms', 'gcc', 'make', 'libc6-dev', 'man-db'],
  'linux-headers-cloud-amd64',
];

export function makeCleanRoot(): string {
  return makeDebianRoot({ suite: SUITE, name: SUITE, include: INCLUDE, install: ['lintian'] });
}

/** `$1`: the root, `$2`: an empty directory, `$3`: files for /var/tmp, `$4`: the node program. */
const BOOT = `set -e
mount -t tmpfs t "$2"; mkdir "$2/upper" "$2/work" "$2/m"; m=$2/m
mount -t overlay o -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$m"
cp "$3"/* "$m/var/tmp"; cp "$4" "$m/var/tmp/node"
mount -t proc proc "$m/proc"; mount -t sysfs -o ro sysfs "$m/sys"
mount -t tmpfs t "$m/run"; mount -t tmpfs t "$m/tmp"; mount -t tmpfs t "$m/dev"
mount -t tmpfs t "$m/sys/fs/cgroup"; mkdir "$m/sys/fs/cgroup/unified"
mount -t cgroup2 c "$m/sys/fs/cgroup/unified"; mount -t bpf b "$m/sys/fs/bpf"
for n in 'null 1 3' 'zero 1 5' 'full 1 7' 'random 1 8' 'urandom 1 9' 'tty 5 0'; do
  set -- $n; mknod -m 666 "$m/dev/$1" c "$2" "$3"
done
mkdir "$m/dev/pts"; mount -t devpts -o newinstance,ptmxmode=666 d "$m/dev/pts"; ln -s pts/ptmx "$m/dev/ptmx"
echo 0123456789abcdef0123456789abcdef > "$m/etc/machine-id"
for u in systemd-udevd.service getty.target apt-daily.timer apt-daily-upgrade.timer man-db.timer; do
  ln -sf /dev/null "$m/etc/systemd/system/$u"
done
exec chroot "$m" env -i container=test ${ENV} /lib/systemd/systemd --unit=multi-user.target --log-target=null
`;

export class CleanMachine {
  readonly #unshare: ChildProcess;
  readonly #pid: number;

  private constructor(unshare: ChildProcess, pid: number) {
    this.#unshare = unshare;
    this.#pid = pid;
  }

  /** Boots. `dir`: empty, below which it mounts for itself; `files`: a directory whose files it has in /var/tmp. */
  static async boot(root: string, dir: string, files: string): Promise<CleanMachine> {
    const unshare = ['--mount', '--pid', '--fork', '--kill-child', '--uts', '--ipc', '--net', '--cgroup'];
    const node = execFileSync('readlink', ['-f', process.execPath], { encoding: 'utf8' }).trim();
    const child = spawn(
      'setpriv',
      [
        ...['--pdeathsig', 'KILL', 'unshare', ...unshare],
        ...['sh', '-c', BOOT, 'boot', root, dir, files, node],
      ],
      { stdio: ['ignore', 'ignore', 'inherit'] },
    );
    const first = await waitFor(
      'the first process of the container',
      () => {
        if (child.exitCode !== null) throw new Error(`the container ended with status ${child.exitCode}`);
        const of = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').trim().split(' ')[0];
        return of === undefined || of === '' ? undefined : Number(of);
      },
      { timeoutMs: 20_000 },
    );
    const machine = new CleanMachine(child, first);
    await waitFor(
      'systemd',
      () => (/running|degraded/.test(machine.run('systemctl is-system-running').text) ? true : undefined),
      { timeoutMs: 60_000, intervalMs: 300 },
    );
    return machine;
  }

  /** A shell script inside. */
  run(script: string): { status: number | null; text: string } {
    const enter = ['-t', String(this.#pid), '-m', '-u', '-i', '-n', '-p', '-C', '-r', '-w'];
    const r = spawnSync('nsenter', [...enter, 'env', '-i', ...ENV.split(' '), 'sh', '-c', script], {
      encoding: 'utf8',
      timeout: 240_000,
    });
    return { status: r.status, text: r.stdout + r.stderr };
  }

  /** Output of a script that must succeed. */
  must(script: string): string {
    const r = this.run(script);
    if (r.status !== 0) throw new Error(`${script}: status ${r.status}: ${r.text}`);
    return r.text;
  }

  async end(): Promise<void> {
    const ended = new Promise((resolve) => this.#unshare.once('exit', resolve));
    this.#unshare.kill('SIGKILL');
    await ended;
  }
}
