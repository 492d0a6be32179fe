/** Debian's podman with its CNI backend, unpacked beside the lab's packages: a container engine that we did not write. */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { busyboxOf, debTree, makeRootfs } from './deb-tree.ts';

/** What podman needs and a small machine may lack. */
const PACKAGES = [
  ...['podman', 'conmon', 'runc', 'containernetworking-plugins', 'busybox-static'],
  ...['libgpgme11t64|libgpgme11', 'libassuan9|libassuan0', 'libsubid5|libsubid4'],
  ...['libdevmapper1.02.1', 'libseccomp2', 'libsqlite3-0', 'libgpg-error0'],
];

export interface PodmanTree {
  root: string;
  env: NodeJS.ProcessEnv;
}

/** The unpacked packages, or why there are none. Fetches them the first time. */
export function podmanTree(): PodmanTree | string {
  if (process.getuid?.() !== 0) return 'not root: containers cannot be made';
  const tree = debTree('podman', PACKAGES);
  if (typeof tree === 'string') return tree;
  const { root, env } = tree;
  const program = path.join(root, 'usr/bin/podman');
  const works = spawnSync(program, ['--version'], { env, encoding: 'utf8' });
  if (works.status !== 0) return `podman does not start: ${works.stderr.trim()}`;
  if (readFileSync(program).includes(WITHOUT_CNI)) return `${works.stdout.trim()} is built without CNI`;
  return { root, env };
}

/** What a podman says that is asked for it and has it not: Debian 13's. */
const WITHOUT_CNI = 'cni support is not enabled in this build';

export class Podman {
  readonly dir = mkdtempSync(path.join(os.tmpdir(), 'ht-podman-'));
  readonly #tree: PodmanTree;
  readonly #env: NodeJS.ProcessEnv;

  /** `plugin`: what the runtime executes as hyperturtle-cni; `env`: with what more in its environment. */
  constructor(tree: PodmanTree, plugin: string, env: Readonly<Record<string, string>>) {
    this.#tree = tree;
    const at = (...p: string[]): string => path.join(this.dir, ...p);
    for (const d of ['net.d', 'bin']) mkdirSync(at(d), { recursive: true });
    makeRootfs(tree, at('rootfs'));
    writeFileSync(
      at('bin/hyperturtle-cni'),
      `#!/bin/sh\nunset LD_LIBRARY_PATH\nexec ${process.execPath} ${plugin}\n`,
    );
    chmodSync(at('bin/hyperturtle-cni'), 0o755);
    const usr = (p: string): string => path.join(tree.root, 'usr', p);
    writeFileSync(
      at('containers.conf'),
      `[network]
network_backend="cni"
network_config_dir="${at('net.d')}"
cni_plugin_dirs=["${at('bin')}","${usr('lib/cni')}"]
[engine]
cgroup_manager="cgroupfs"
events_logger="file"
runtime="runc"
conmon_path=["${usr('bin/conmon')}"]
[engine.runtimes]
runc=["${usr('sbin/runc')}"]
[containers]
log_driver="k8s-file"
default_ulimits=["nofile=1024:20000","nproc=1024:4096"]
`,
    );
    writeFileSync(
      at('storage.conf'),
      `[storage]\ndriver="vfs"\nrunroot="${at('run')}"\ngraphroot="${at('storage')}"\n`,
    );
    this.#env = {
      ...tree.env,
      ...env,
      CONTAINERS_CONF: at('containers.conf'),
      CONTAINERS_STORAGE_CONF: at('storage.conf'),
    };
  }

  /** A network of one plugin, as /etc/cni/net.d has them. */
  network(name: string, plugin: Readonly<Record<string, unknown>>, cniVersion = '1.0.0'): void {
    const list = { cniVersion, name, plugins: [{ type: 'hyperturtle-cni', ...plugin }] };
    writeFileSync(path.join(this.dir, 'net.d', `${name}.conflist`), JSON.stringify(list));
  }

  /** Starts a container that sleeps: its id. Throws what podman said when it could not. */
  start(network: string): string {
    const rootfs = path.join(this.dir, 'rootfs');
    const r = this.podman('run', '-d', '--network', network, '--rootfs', rootfs, '/bin/sleep', '60');
    if (r.status !== 0) throw new Error(r.text);
    return r.text.trim().split('\n').at(-1) ?? '';
  }

  /**
   * A shell in the container's network namespace. (By `podman run` or `exec` it would take 20 s wherever process 1 does
   * not reap: podman waits so long for conmon.)
   */
  inside(id: string, script: string): { status: number | null; text: string } {
    const pid = this.podman('inspect', '--format', '{{.State.Pid}}', id).text.trim();
    const r = spawnSync('nsenter', ['--net', '-t', pid, busyboxOf(this.#tree), 'sh', '-c', script], {
      encoding: 'utf8',
      timeout: 20_000,
    });
    return { status: r.status, text: r.stdout + r.stderr };
  }

  /** Ends and removes it. */
  stop(id: string): void {
    const r = this.podman('rm', '-f', '-t', '0', id);
    if (r.status !== 0) throw new Error(r.text);
  }

  podman(...args: string[]): { status: number | null; text: string } {
    const r = spawnSync(path.join(this.#tree.root, 'usr/bin/podman'), args, {
      env: this.#env,
      encoding: 'utf8',
      timeout: 60_000,
    });
    return { status: r.status, text: r.stdout + r.stderr };
  }

  close(): void {
    this.podman('rm', '-fa', '-t', '0');
    rmSync(this.dir, { recursive: true, force: true });
  }
}
