/**
 * Debian's real libvirtd without systemd, on a machine of its own as far as it can tell: a mount and a network namespace
 * with its packages laid over this machine's files, an own /run, /dev and /var/lib/libvirt. Nothing of it is installed.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { waitFor } from '../../src/core/wait.ts';
import { cacheRoot } from '../../src/lab/xdg.ts';
import { compiledSources } from './compiled.ts';
import type { DaemonHarness } from './daemon-harness.ts';
import { debTree } from './deb-tree.ts';
import type { DebTree } from './deb-tree.ts';

const PACKAGES = ['libvirt-daemon', 'libvirt-daemon-driver-qemu', 'libvirt-clients', 'qemu-system-x86'];

/** The stock configuration alone: what it depends on is systemd's. */
const CONFIGURATION = 'libvirt-daemon-system';

/** libvirt and QEMU with all that this machine lacks of what they need, or why there is none. */
export function libvirtTree(): DebTree | string {
  if (process.getuid?.() !== 0) return 'root needed';
  if (existsSync(path.join(cacheRoot(), 'trees/libvirt'))) return debTree('libvirt', []);
  const plan = spawnSync('apt-get', ['install', '-s', '--no-install-recommends', ...PACKAGES], {
    encoding: 'utf8',
    timeout: 300_000,
  });
  const missing = [...plan.stdout.matchAll(/^Inst (\S+)/gm)].map((m) => m[1] ?? '');
  if (plan.status !== 0) return plan.stderr.trim().split('\n').at(-1) ?? 'apt-get failed';
  return missing.length === 0
    ? 'libvirt is installed on this machine: not touched'
    : debTree('libvirt', [...missing, CONFIGURATION]);
}

/** `$1`: the unpacked packages, `$2`: an empty directory, `$3`: kept between runs, `$4`: the daemon's run directory. */
const LAY_OVER = `set -e
T=$1; W=$2
mount --make-rprivate /
mount -t tmpfs t "$W"
over() {
  mkdir -p "$1" "$W/$3/u" "$W/$3/w"
  mount -t overlay o -o "lowerdir=$1:$2,upperdir=$W/$3/u,workdir=$W/$3/w" "$2"
}
for d in usr etc var; do over "$T/$d" "/$d" "$d"; done
L=usr/lib/x86_64-linux-gnu
if [ -d "$T/lib/x86_64-linux-gnu" ]; then over "$T/lib/x86_64-linux-gnu" "/$L" lib; fi
mount -t tmpfs t /run
mkdir "$W/dev"; mount -t tmpfs t "$W/dev"
for n in 'null 1 3' 'zero 1 5' 'full 1 7' 'random 1 8' 'urandom 1 9' 'tty 5 0' 'ptmx 5 2'; do
  set -- $n; mknod -m 666 "$W/dev/$1" c "$2" "$3"
done
mkdir "$W/dev/pts" "$W/dev/shm"
# libvirt moves each mount below /dev by its path: one that is hidden below another cannot be
awk '$2 ~ "^/dev(/|$)" { print $2 }' /proc/mounts | sort -r | while read -r m; do umount -l "$m"; done
mount --move "$W/dev" /dev
mount -t devpts d /dev/pts; mount -t tmpfs t /dev/shm
ip link set lo up
mkdir -p /run/libvirt /var/lib/libvirt/qemu /var/log/libvirt/qemu /var/cache/libvirt
`;
const SET_UP = `mount --bind "$1" /var/cache/libvirt
ln -s "$2" /run/hyperturtle
mount --bind "$3" /run/libvirt
# as the packages' own scripts do
echo libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin >> /etc/passwd
echo libvirt-qemu:x:64055: >> /etc/group
echo libvirt:x:64056: >> /etc/group
chown libvirt-qemu:libvirt-qemu /var/lib/libvirt/qemu; chmod 751 /var/lib/libvirt/qemu
ldconfig
echo ready
exec cat
`;

const QEMU_CONF = `
stdio_handler = "file"
security_driver = "none"
cgroup_controllers = [ "devices" ]
`;

export class LibvirtHost {
  readonly #holder: ChildProcess;
  readonly #pid: number;
  readonly #log: string;
  #libvirtd: ChildProcess | undefined;

  private constructor(holder: ChildProcess, log: string) {
    this.#holder = holder;
    this.#pid = holder.pid ?? 0;
    this.#log = log;
  }

  /** Its libvirtd is not started. `h`: the daemon of this host, which is started in it as well. */
  static async make(tree: DebTree, h: DaemonHarness, uuid: string): Promise<LibvirtHost> {
    const kept = path.join(cacheRoot(), 'libvirt-capabilities');
    const empty = h.at('over');
    const sockets = h.at('run-libvirt');
    for (const d of [kept, empty, sockets, h.at('run')]) mkdirSync(d, { recursive: true });
    execFileSync('chmod', ['755', h.dir]);
    const script = `${LAY_OVER}set -- "$KEPT" "$RUN" "$SOCKETS"\n${SET_UP}`;
    const holder = spawn(
      'setpriv',
      ['--pdeathsig', 'KILL', 'unshare', '-m', '-n', 'sh', '-c', script, 'sh', tree.root, empty],
      {
        stdio: ['pipe', 'pipe', 'inherit'],
        env: { ...process.env, KEPT: kept, RUN: h.at('run'), SOCKETS: sockets },
      },
    );
    const host = new LibvirtHost(holder, h.at('libvirtd.log'));
    const said = await Promise.race([
      once(holder.stdout, 'data').then(([text]) => String(text)),
      once(holder, 'exit').then(() => 'ended'),
    ]);
    if (said !== 'ready\n') throw new Error(`no machine for libvirt: ${said}`);
    h.startIn(host.#enter, ['mknod']);
    host.write('/etc/libvirt/qemu.conf', `${host.read('/etc/libvirt/qemu.conf')}${QEMU_CONF}`);
    host.write(
      '/etc/libvirt/libvirtd.conf',
      `host_uuid = "${uuid}"\nlog_outputs = "3:stderr"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\n`,
    );
    return host;
  }

  get #enter(): string[] {
    return ['nsenter', '-t', String(this.#pid), '-m', '-n'];
  }

  /** A program in it. */
  run(program: string, ...args: string[]): { status: number | null; stdout: string; stderr: string } {
    const [enter = '', ...more] = this.#enter;
    return spawnSync(enter, [...more, program, ...args], { encoding: 'utf8', timeout: 120_000, env: ENV() });
  }

  /** Output of a command that must succeed. */
  must(program: string, ...args: string[]): string {
    const r = this.run(program, ...args);
    if (r.status !== 0)
      throw new Error(`${program} ${args.join(' ')}: ${r.status}: ${r.stderr}${r.stdout}\n${this.log()}`);
    return r.stdout;
  }

  virsh(...args: string[]): string {
    return this.must('virsh', '-q', '-c', 'qemu:///system', ...args);
  }

  cli(...args: string[]): { status: number | null; stdout: string; stderr: string } {
    return this.run(process.execPath, path.join(compiledSources(), 'cli/main.js'), ...args);
  }

  read(file: string): string {
    return this.must('cat', file);
  }

  write(file: string, text: string): void {
    const [enter = '', ...more] = this.#enter;
    execFileSync(enter, [...more, 'sh', '-c', 'cat > "$1"', 'sh', file], { input: text });
  }

  log(): string {
    if (!existsSync(this.#log)) return '';
    const lines = readFileSync(this.#log, 'utf8').split('\n');
    return lines
      .filter((l) => !/ethtool|dnsmasq|DBus|dmi/i.test(l))
      .slice(-12)
      .join('\n');
  }

  get libvirtdPid(): number {
    return this.#libvirtd?.pid ?? 0;
  }

  async startLibvirtd(): Promise<void> {
    const [enter = '', ...more] = this.#enter;
    const script = 'exec setpriv --pdeathsig KILL libvirtd >> "$1" 2>&1';
    const child = spawn(enter, [...more, 'sh', '-c', script, 'sh', this.#log], {
      stdio: 'ignore',
      env: ENV(),
    });
    this.#libvirtd = child;
    await waitFor(
      'libvirtd',
      () => {
        if (child.exitCode !== null) throw new Error(`libvirtd ended: ${this.log()}`);
        return this.run('virsh', '-q', '-c', 'qemu:///system', 'list').status === 0 ? true : undefined;
      },
      { timeoutMs: 120_000, intervalMs: 100 },
    );
  }

  async endLibvirtd(signal: NodeJS.Signals): Promise<void> {
    const child = this.#libvirtd;
    this.#libvirtd = undefined;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
  }

  /** Process of the domain's QEMU; undefined: none. */
  qemu(domain: string): number | undefined {
    const r = this.run('cat', `/run/libvirt/qemu/${domain}.pid`);
    return r.status === 0 ? Number(r.stdout) : undefined;
  }

  /** With all of its domains. */
  async end(): Promise<void> {
    await this.endLibvirtd('SIGKILL');
    // driver.pid is libvirtd's own, which has ended
    const list =
      'cd /run/libvirt/qemu; for f in *.pid; do [ "$f" = driver.pid ] || { cat "$f"; echo; }; done';
    const pids = this.run('sh', '-c', list)
      .stdout.split('\n')
      .filter((p) => /^\d+$/.test(p));
    for (const pid of pids.map(Number))
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // it has ended before
      }
    await waitFor('QEMUs', () => pids.every((pid) => !existsSync(`/proc/${pid}`)) || undefined, {
      timeoutMs: 10_000,
    });
    const ended = once(this.#holder, 'exit');
    this.#holder.kill('SIGKILL');
    await ended;
    removeCgroups();
  }
}

const ENV = (): NodeJS.ProcessEnv => ({ ...process.env, LC_ALL: 'C' });

/** libvirtd leaves the directory of all machines. */
function removeCgroups(): void {
  for (const root of ['/sys/fs/cgroup/unified', '/sys/fs/cgroup']) {
    const machine = path.join(root, 'machine');
    if (!existsSync(machine)) continue;
    const below = readdirSync(machine, { recursive: true, withFileTypes: true })
      .filter((e) => e.isDirectory())
      .map((e) => path.join(e.parentPath, e.name));
    for (const d of [...below.sort().reverse(), machine]) spawnSync('rmdir', [d], { stdio: 'ignore' });
  }
}

/**
 * Boot sector of a guest that does what an operating system does with ACPI: it powers itself off when the button is
 * pressed, and lets go of devices that QEMU asks it for. Ports as QEMU has them for q35 (hw/acpi/ich9.c, pcihp.c).
 */
export function writeGuest(file: string): void {
  const code = [
    ...[0x66, 0x31, 0xc0], // xor eax, eax
    ...[0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef], // PM1_EN: the power button
    // again:
    ...[0xfb, 0xf4], // sti; hlt: until the next tick
    ...[0xba, 0x00, 0x06, 0xed, 0xf6, 0xc4, 0x01], // PM1_STS: test ah, 1
    ...[0x75, 0x29], // jnz off
    ...[0x66, 0x31, 0xc9], // xor ecx, ecx
    // bus:
    ...[0x66, 0x89, 0xc8, 0xba, 0xd0, 0x0c, 0x66, 0xef], // select bus ecx
    ...[0xba, 0xc4, 0x0c, 0x66, 0xed], // which slots are to be let go
    ...[0x66, 0x85, 0xc0, 0x74, 0x05], // none: next
    ...[0xba, 0xc8, 0x0c, 0x66, 0xef], // eject
    ...[0x41, 0x83, 0xf9, 0x20, 0x72, 0xe2], // next: inc cx; cmp cx, 32; jb bus
    ...[0xeb, 0xd0], // jmp again
  ];
  const again = 10;
  const off = code.length;
  const at = (opcode: number, operand: number): number =>
    code.findIndex((b, i) => b === opcode && code[i + 1] === operand);
  const jnz = at(0x75, 0x29);
  code[jnz + 1] = off - (jnz + 2);
  const jb = at(0x72, 0xe2);
  code[jb + 1] = 256 + (code.indexOf(0xc9) + 1) - (jb + 2);
  code[off - 1] = 256 + again - off;
  code.push(0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xeb, 0xfe); // off: PM1_CNT: S5
  // SeaBIOS boots no disk that is much smaller
  const disk = Buffer.alloc(1 << 20);
  disk.set(code);
  disk.writeUInt16LE(0xaa55, 510);
  rmSync(file, { force: true });
  writeFileSync(file, disk, { mode: 0o644 });
}
