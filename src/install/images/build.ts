/**
 * Container images of the agent and the device plugin: Debian's C libraries and busybox, the Node.js that runs this program,
 * and this package, as the Debian package has it. Both are the same files; they differ in what they start.
 */
import { createHash } from 'node:crypto';
import {
  chmod,
  copyFile,
  lstat,
  mkdir,
  mkdtemp,
  readFile,
  readdir,
  rename,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import path from 'node:path';
import { HyperturtleError, messageOf } from '../../core/errors.ts';
import { exec } from '../../core/exec.ts';
import { copyApp } from '../deb.ts';
import { bpfPrograms } from '../files.ts';
import { OciLayout } from './oci.ts';
import type { Layer } from './oci.ts';

export interface ImagesSpec {
  packageRoot: string;
  version: string;
  /** Is made; nothing may be there. */
  outDir: string;
  /** An official build of Node.js or one like it, which needs the C and C++ libraries alone. */
  node: string;
  /** Directory of .deb files; undefined: apt gets those of this machine's release. */
  debs: string | undefined;
  /** Directory with KERNEL/hyperturtle_guest.ko for an image of the guest module; undefined: none is made. */
  modules?: string | undefined;
  /** Date of all files, in seconds since 1970. */
  epochS: number;
  signal?: AbortSignal | undefined;
}

/** What the images consist of. */
export interface Contents {
  debian: { name: string; version: string; sha256: string }[];
  node: { version: string; sha256: string };
  npm: { name: string; version: string; license: string }[];
  /** Bytes, compressed. */
  layers: { from: string; digest: string; size: number }[];
}

const PACKAGES = ['libc6', 'libgcc-s1', 'libstdc++6', 'busybox-static'];
/** Libraries that those packages have. */
const LIBRARIES = /^(lib(c|dl|m|pthread|rt|util|resolv|gcc_s|stdc\+\+)\.so\.\d+|ld-linux-x86-64\.so\.2)$/;
/** Programs that pods call by name; busybox has them all. */
const APPLETS = [
  ...['[', 'cat', 'chmod', 'chroot', 'cp', 'insmod', 'ls', 'mkdir', 'mount', 'mv', 'printf', 'readlink'],
  ...['rm', 'sh', 'sleep', 'test', 'umount', 'uname', 'env', 'echo'],
];
/** Documentation and translations; licences stay. */
const LEFT_OUT = [
  'usr/share/man',
  'usr/share/locale',
  'usr/share/lintian',
  'usr/share/info',
  'usr/lib/x86_64-linux-gnu/gconv',
];
/** As nodes have it after the pod's first containers have run, too. */
const APP = 'opt/hyperturtle';

/** The layout's names of images. Throws HT_EXISTS, HT_PACKAGES, HT_UNSUPPORTED for a Node.js that needs more libraries. */
export async function buildImages(spec: ImagesSpec): Promise<{ names: string[]; contents: Contents }> {
  const { outDir, version, epochS, signal } = spec;
  await mkdir(path.dirname(outDir), { recursive: true });
  const staging = await mkdtemp(`${outDir}.`);
  try {
    const layout = path.join(staging, 'layout');
    const oci = await OciLayout.create(layout);
    const debian = await debianTree(spec, path.join(staging, 'debian'));
    const node = await addNode(spec, path.join(staging, 'package'));
    const npm = await addPackage(spec, path.join(staging, 'package'));
    const from = { epochS, signal };
    const base = await oci.layer(path.join(staging, 'debian'), {
      ...from,
      from: `Debian: ${PACKAGES.join(' ')}`,
    });
    const about = { debian, node, npm };
    const listed = path.join(staging, 'package/usr/share/hyperturtle/contents.json');
    await mkdir(path.dirname(listed), { recursive: true });
    await writeFile(listed, `${JSON.stringify(about, null, 2)}\n`);
    await normalizeModes(path.join(staging, 'package'));
    const own = await oci.layer(path.join(staging, 'package'), {
      ...from,
      from: `hyperturtle ${version}, Node.js ${node.version}`,
    });
    const names = await addImages(oci, [base, own], spec);
    const layers = [base, own];
    if (spec.modules !== undefined) {
      await addModules(spec.modules, path.join(staging, 'modules'));
      const modules = await oci.layer(path.join(staging, 'modules'), { ...from, from: 'guest modules' });
      names.push(await addModuleImage(oci, [base, modules], spec));
      layers.push(modules);
    }
    await oci.close();
    const contents = {
      ...about,
      layers: layers.map((l) => ({ from: l.from, digest: l.digest, size: l.size })),
    };
    await rename(layout, outDir).catch((e: unknown) => {
      throw new HyperturtleError(
        'HT_EXISTS',
        `${outDir}: a directory that is not there expected: ${messageOf(e)}`,
      );
    });
    return { names, contents };
  } finally {
    await rm(staging, { recursive: true, force: true });
  }
}

async function addImages(oci: OciLayout, layers: readonly Layer[], spec: ImagesSpec): Promise<string[]> {
  const { version, epochS } = spec;
  const names = {
    'hyperturtle-agent': ['guest', 'agent'],
    'hyperturtle-device-plugin': ['kubernetes', 'device-plugin'],
  };
  for (const [name, command] of Object.entries(names))
    await oci.image({
      name: `${name}:${version}`,
      layers,
      entrypoint: [`/${APP}/${version}/bin/node`, `/${APP}/${version}/dist/src/cli/main.cjs`],
      command,
      path: `/${APP}/${version}/bin:/usr/bin:/bin`,
      labels: {
        'org.opencontainers.image.title': name,
        'org.opencontainers.image.version': version,
        'org.opencontainers.image.licenses': 'Apache-2.0 AND GPL-2.0-only',
      },
      epochS,
    });
  return Object.keys(names).map((name) => `${name}:${version}`);
}

const MODULE = 'hyperturtle_guest.ko';

async function addModules(dir: string, tree: string): Promise<void> {
  const kernels = (await readdir(dir)).sort();
  for (const kernel of kernels) {
    const to = path.join(tree, 'modules', kernel);
    await mkdir(to, { recursive: true });
    await copyFile(path.join(dir, kernel, MODULE), path.join(to, MODULE)).catch((e: unknown) => {
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        `--modules: ${dir}/${kernel}/${MODULE} expected: ${messageOf(e)}`,
      );
    });
  }
  if (kernels.length === 0)
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `--modules: ${dir}/KERNEL/${MODULE} expected, ${dir} is empty`,
    );
  await normalizeModes(tree);
}

/** It has a shell and insmod; the pod that it is in says what is run. */
async function addModuleImage(oci: OciLayout, layers: readonly Layer[], spec: ImagesSpec): Promise<string> {
  const name = `hyperturtle-module:${spec.version}`;
  await oci.image({
    name,
    layers,
    entrypoint: ['/bin/sh'],
    command: [],
    path: '/usr/bin:/bin',
    labels: {
      'org.opencontainers.image.title': 'hyperturtle-module',
      'org.opencontainers.image.version': spec.version,
      'org.opencontainers.image.licenses': 'GPL-2.0-only',
    },
    epochS: spec.epochS,
  });
  return name;
}

/** Unpacks the packages; no script of theirs runs. */
async function debianTree(spec: ImagesSpec, tree: string): Promise<Contents['debian']> {
  const { signal } = spec;
  await mkdir(tree, { recursive: true });
  const dir = spec.debs ?? `${tree}-debs`;
  if (spec.debs === undefined) {
    await mkdir(dir, { recursive: true });
    await exec('apt-get', ['-q', 'download', ...PACKAGES.map((p) => `${p}:amd64`)], {
      cwd: dir,
      timeoutMs: 300_000,
      signal,
    }).catch((e: unknown) => {
      throw new HyperturtleError(
        'HT_PACKAGES',
        `apt-get download ${PACKAGES.join(' ')}: on Debian, after 'apt-get update', or give --debs: ${messageOf(e)}`,
        { cause: e },
      );
    });
  }
  const found: Contents['debian'] = [];
  for (const file of (await readdir(dir)).filter((n) => n.endsWith('.deb')).sort()) {
    const deb = path.join(dir, file);
    const { stdout } = await exec('dpkg-deb', ['-W', '--showformat=${Package} ${Version}', deb], {
      timeoutMs: 30_000,
      signal,
    });
    const [name = '', version = ''] = stdout.toString('utf8').trim().split(' ');
    await exec('dpkg-deb', ['-x', deb, tree], { timeoutMs: 60_000, signal });
    found.push({
      name,
      version,
      sha256: createHash('sha256')
        .update(await readFile(deb))
        .digest('hex'),
    });
  }
  const lacking = PACKAGES.filter((p) => !found.some((f) => f.name === p));
  if (lacking.length > 0)
    throw new HyperturtleError('HT_PACKAGES', `${dir}: no package ${lacking.join(', ')}`);
  for (const name of LEFT_OUT) await rm(path.join(tree, name), { recursive: true, force: true });
  await addApplets(tree);
  return found;
}

async function addApplets(tree: string): Promise<void> {
  await mkdir(path.join(tree, 'bin'), { recursive: true });
  const inUsr = await lstat(path.join(tree, 'bin/busybox')).then(
    () => false,
    () => true,
  );
  for (const name of APPLETS)
    await symlink(inUsr ? '/usr/bin/busybox' : 'busybox', path.join(tree, 'bin', name));
  for (const d of ['proc', 'sys', 'dev', 'tmp', 'run', 'etc', 'host', 'node'])
    await mkdir(path.join(tree, d), { recursive: true });
  await writeFile(path.join(tree, 'etc/passwd'), 'root:x:0:0:root:/:/bin/sh\n');
  await writeFile(path.join(tree, 'etc/group'), 'root:x:0:\n');
  await normalizeModes(tree);
}

/** Libraries that this Node.js needs beside those of the image: none for an official build, some for Debian's. */
export async function librariesLacking(node: string, signal?: AbortSignal): Promise<string[]> {
  const { stdout } = await exec('ldd', [node], { timeoutMs: 30_000, signal });
  return stdout
    .toString('utf8')
    .split('\n')
    .map((l) => path.basename(l.trim().split(' ')[0] ?? ''))
    .filter((n) => n !== '' && !n.startsWith('linux-vdso') && !LIBRARIES.test(n));
}

async function addNode({ node, version, signal }: ImagesSpec, tree: string): Promise<Contents['node']> {
  const needed = await librariesLacking(node, signal);
  if (needed.length > 0)
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      `${node} needs ${needed.join(', ')}: give --node an official build of Node.js, which needs the C and C++ libraries alone`,
    );
  const told = await exec(node, ['--version'], { timeoutMs: 30_000, signal });
  const to = path.join(tree, APP, version, 'bin/node');
  await mkdir(path.dirname(to), { recursive: true });
  await copyFile(node, to);
  await chmod(to, 0o755);
  const sha256 = createHash('sha256')
    .update(await readFile(node))
    .digest('hex');
  return { version: told.stdout.toString('utf8').trim().replace(/^v/, ''), sha256 };
}

async function addPackage({ packageRoot, version }: ImagesSpec, tree: string): Promise<Contents['npm']> {
  const app = path.join(tree, APP, version);
  await copyApp(packageRoot, app);
  await symlink(version, path.join(tree, APP, 'current'));
  for (const f of await bpfPrograms(packageRoot)) {
    await mkdir(path.dirname(path.join(tree, f.path)), { recursive: true });
    await writeFile(path.join(tree, f.path), f.content);
  }
  await mkdir(path.join(tree, 'usr/bin'), { recursive: true });
  await symlink(`/${APP}/current/dist/src/cli/main.cjs`, path.join(tree, 'usr/bin/hyperturtle'));
  const modules = path.join(app, 'node_modules');
  const names: string[] = [];
  for (const name of (await readdir(modules)).sort())
    if (name.startsWith('@'))
      names.push(...(await readdir(path.join(modules, name))).sort().map((n) => `${name}/${n}`));
    else names.push(name);
  return Promise.all(
    names.map(async (name) => {
      const about = JSON.parse(await readFile(path.join(modules, name, 'package.json'), 'utf8')) as {
        version: string;
        license?: string;
      };
      return { name, version: about.version, license: about.license ?? 'unknown' };
    }),
  );
}

/** Only what matters of a mode, whatever umask the tree was made with. */
async function normalizeModes(tree: string): Promise<void> {
  const all = await readdir(tree, { recursive: true, withFileTypes: true });
  for (const e of all) {
    const at = path.join(e.parentPath, e.name);
    if (e.isSymbolicLink()) continue;
    const { mode } = await lstat(at);
    await chmod(
      at,
      e.isDirectory() || (mode & 0o111) !== 0 || /\/cli\/(cni-)?main\.c?js$/.test(at) ? 0o755 : 0o644,
    );
  }
  await chmod(tree, 0o755);
}
