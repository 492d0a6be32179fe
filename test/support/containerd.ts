/**
 * Debian's containerd, unpacked beside the lab's packages, in a mount namespace of its own: its CNI client looks into
 * /etc/cni/net.d and /opt/cni/bin and nowhere else, which are made-up ones there.
 */
import { spawn, spawnSync } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { waitFor, withDeadline } from '../../src/core/wait.ts';
import { debTree, makeRootfs } from './deb-tree.ts';
import type { DebTree } from './deb-tree.ts';

const PACKAGES = ['containerd', 'runc', 'libseccomp2', 'containernetworking-plugins', 'busybox-static'];

/** The unpacked packages, or why there are none. Fetches them the first time. */
export function containerdTree(): DebTree | string {
  if (process.getuid?.() !== 0) return 'not root: containers cannot be made';
  const tree = debTree('containerd', PACKAGES);
  if (typeof tree === 'string') return tree;
  const { root, env } = tree;
  const works = spawnSync(path.join(root, 'usr/bin/ctr'), ['--version'], { env, encoding: 'utf8' });
  return works.status === 0 ? tree : `containerd does not start: ${works.stderr.trim()}`;
}

export class Containerd {
  readonly dir: string;
  readonly #tree: DebTree;
  readonly #env: NodeJS.ProcessEnv;
  readonly #daemon: ChildProcess;
  #containers = 0;

  private constructor(tree: DebTree, dir: string, env: NodeJS.ProcessEnv, daemon: ChildProcess) {
    this.#tree = tree;
    this.dir = dir;
    this.#env = env;
    this.#daemon = daemon;
  }

  /** `plugin`: what containerd executes as hyperturtle-cni; `env`: with what more in its environment. */
  static async start(
    tree: DebTree,
    plugin: string,
    env: Readonly<Record<string, string>>,
  ): Promise<Containerd> {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'ht-containerd-'));
    const at = (...p: string[]): string => path.join(dir, ...p);
    const usr = path.join(tree.root, 'usr');
    makeRootfs(tree, at('rootfs'));
    for (const d of ['bin', 'net.d', 'etc']) mkdirSync(at(d), { recursive: true });
    writeFileSync(
      at('bin/hyperturtle-cni'),
      `#!/bin/sh\nunset LD_LIBRARY_PATH\nexec ${process.execPath} ${plugin}\n`,
      { mode: 0o755 },
    );
    writeFileSync(
      at('config.toml'),
      `version = 2
root = "${at('root')}"
state = "${at('state')}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "${at('sock')}"
`,
    );
    writeFileSync(
      at('start.sh'),
      `set -e
mount -t tmpfs none /opt
mkdir -p /opt/cni/bin
cp ${usr}/lib/cni/* ${at('bin')}/* /opt/cni/bin
mount -t tmpfs none ${at('etc')}
mkdir ${at('etc')}/upper ${at('etc')}/work
mount -t overlay none -o lowerdir=/etc,upperdir=${at('etc')}/upper,workdir=${at('etc')}/work /etc
mkdir -p /etc/cni
ln -s ${at('net.d')} /etc/cni/net.d
ulimit -n 1024
exec containerd -c ${at('config.toml')}
`,
    );
    const all = {
      ...tree.env,
      ...env,
      PATH: `${usr}/sbin:${usr}/bin:${process.env['PATH'] ?? ''}`,
    };
    const daemon = spawn('unshare', ['--mount', 'sh', at('start.sh')], {
      env: all,
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let said = '';
    daemon.stderr.on('data', (part: Buffer) => (said = (said + part.toString()).slice(-4000)));
    const self = new Containerd(tree, dir, all, daemon);
    try {
      await waitFor(
        'containerd',
        () => {
          if (daemon.exitCode !== null) throw new Error(`containerd: ${said}`);
          return existsSync(at('sock')) || undefined;
        },
        { timeoutMs: 30_000, intervalMs: 50 },
      );
    } catch (e) {
      await self.close();
      throw e;
    }
    return self;
  }

  /** The network that containers get: containerd takes the first file. */
  network(name: string, plugin: Readonly<Record<string, unknown>>, cniVersion = '1.0.0'): void {
    const list = { cniVersion, name, plugins: [{ type: 'hyperturtle-cni', ...plugin }] };
    writeFileSync(path.join(this.dir, 'net.d/10-test.conflist'), JSON.stringify(list));
  }

  /** Runs a container to its end: what it said. */
  run(script: string): { status: number | null; text: string } {
    const id = `c${++this.#containers}`;
    return this.#ctr(
      'run',
      '--rm',
      '--cni',
      '--rootfs',
      path.join(this.dir, 'rootfs'),
      id,
      '/bin/sh',
      '-c',
      script,
    );
  }

  #ctr(...args: string[]): { status: number | null; text: string } {
    const ctr = path.join(this.#tree.root, 'usr/bin/ctr');
    const where = ['--mount', '-t', String(this.#daemon.pid), ctr, '-a', path.join(this.dir, 'sock')];
    const r = spawnSync('nsenter', [...where, ...args], {
      env: this.#env,
      encoding: 'utf8',
      timeout: 60_000,
    });
    return { status: r.status, text: r.stdout + r.stderr };
  }

  /** Shims end with their containers; what stays mounted was in the namespace that goes with the daemon. */
  async close(): Promise<void> {
    if (this.#daemon.exitCode === null && this.#daemon.signalCode === null) {
      const ended = once(this.#daemon, 'exit');
      this.#daemon.kill('SIGTERM');
      await withDeadline('end of containerd', ended, 20_000).catch(() => this.#daemon.kill('SIGKILL'));
    }
    for (const mount of readFileSync('/proc/self/mounts', 'utf8').split('\n'))
      if (mount.includes(this.dir)) throw new Error(`still mounted: ${mount}`);
    rmSync(this.dir, { recursive: true, force: true });
  }
}
