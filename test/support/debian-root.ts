/** A Debian of any release in a directory, made with debootstrap from the mirror that this machine's apt uses. Needs root. */
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import path from 'node:path';
import { cacheRoot } from '../../src/lab/xdg.ts';
import { debTree } from './deb-tree.ts';

export const ROOT_ENV =
  'PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive TERM=dumb LC_ALL=C.UTF-8';

export const rootDir = (name: string): string => path.join(cacheRoot(), 'roots', name);

/** Why none can be made here. */
export function whyNoRoot(): string | undefined {
  if (process.getuid?.() !== 0) return 'not root: no container can be made';
  return undefined;
}

/** The directory `name` of the cache; made the first time, which takes minutes. */
export function makeDebianRoot(o: {
  suite: string;
  name: string;
  /** Packages that debootstrap sees to: it knows no alternatives and no virtual packages. */
  include: readonly string[];
  /** What apt installs after that, without recommendations. */
  install: readonly string[];
}): string {
  const done = rootDir(o.name);
  if (existsSync(done)) return done;
  const tree = debTree('debootstrap', ['debootstrap']);
  if (typeof tree === 'string') throw new Error(tree);
  const staging = `${done}.staging`;
  rmSync(staging, { recursive: true, force: true });
  mkdirSync(path.dirname(staging), { recursive: true });
  execFileSync(
    path.join(tree.root, 'usr/sbin/debootstrap'),
    ['--variant=minbase', `--include=${o.include.join(',')}`, o.suite, staging, mirror()],
    {
      env: { ...process.env, DEBOOTSTRAP_DIR: path.join(tree.root, 'usr/share/debootstrap') },
      stdio: ['ignore', 'ignore', 'inherit'],
      timeout: 1_500_000,
    },
  );
  copyFileSync('/etc/resolv.conf', path.join(staging, 'etc/resolv.conf'));
  const chroot = `mount -t proc proc ${staging}/proc && mount --rbind /dev ${staging}/dev && exec chroot ${staging} env -i ${ROOT_ENV} sh -c`;
  const install = `apt-get -qq update && apt-get -qq install --no-install-recommends ${o.install.join(' ')} && apt-get clean`;
  execFileSync('unshare', ['--mount', '--pid', '--fork', 'sh', '-c', `${chroot} '${install}'`], {
    stdio: ['ignore', 'ignore', 'inherit'],
    timeout: 900_000,
  });
  renameSync(staging, done);
  return done;
}

/** The one that this machine's apt has Debian from. */
function mirror(): string {
  const format = ['indextargets', '--format', '$(REPO_URI) $(ORIGIN) $(LABEL)', 'Created-By: Packages'];
  const lines = spawnSync('apt-get', format, { encoding: 'utf8' }).stdout.split('\n');
  const found = lines.find((l) => l.endsWith(' Debian Debian'))?.split(' ')[0];
  if (found === undefined) throw new Error('no archive of Debian in the lists of apt: run apt-get update');
  return found;
}
