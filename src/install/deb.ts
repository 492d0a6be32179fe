/**
 * The Debian packages, made with dpkg-deb from the same files that `install` writes: `hyperturtle` with both roles, and
 * `hyperturtle-dkms` with the modules' sources. The same sources and date give the same bytes.
 */
import { createHash } from 'node:crypto';
import { chmod, cp, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import { exec } from '../core/exec.ts';
import { HyperturtleError } from '../core/errors.ts';
import * as scripts from './deb-scripts.ts';
import { copyDependencies } from './dependencies.ts';
import { KERNEL_HOOKS, moduleFiles, ownFiles } from './files.ts';
import type { InstallFile, InstallSource } from './files.ts';

const APP = '/usr/lib/hyperturtle/app';
/** Files of dependencies that nothing here runs. */
const UNUSED = [
  ...[
    'koffi/src/koffi/src/trampolines.cjs',
    'koffi/cnoke.cjs',
    'yaml/bin.mjs',
    '@grpc/proto-loader/build/bin',
  ],
  ...['bin.js', 'test', 'benchmarks', 'examples', 'build'].map((n) => `pino/${n}`),
];

export interface DebSpec {
  packageRoot: string;
  version: string;
  /** Manual pages and completion, as for `install`. */
  texts: ReadonlyMap<string, string>;
  outDir: string;
  /** `Name <address>`. */
  maintainer: string;
  /** Modification time of all files in the packages, in seconds since 1970. */
  epochS: number;
  signal?: AbortSignal | undefined;
}

interface Control {
  name: string;
  architecture: 'amd64' | 'all';
  fields: Readonly<Record<string, string>>;
  description: readonly string[];
  scripts: Readonly<Record<string, string>>;
  overrides: readonly string[];
}

/** Paths of the packages made. Throws HT_NOT_FOUND without compiled programs or JavaScript. */
export async function buildDebs(spec: DebSpec): Promise<string[]> {
  const source: InstallSource = {
    packageRoot: spec.packageRoot,
    version: spec.version,
    command: '/usr/bin/hyperturtle',
    unitDir: '/lib/systemd/system',
    udevDir: '/lib/udev/rules.d',
    texts: new Map(),
  };
  return [await mainPackage(spec, source), await dkmsPackage(spec, source)];
}

function mainPackage(spec: DebSpec, source: InstallSource): Promise<string> {
  const control: Control = {
    name: 'hyperturtle',
    architecture: 'amd64',
    fields: {
      Depends: 'nodejs (>= 20.19), libbpf1, libc6',
      Recommends: `hyperturtle-dkms (= ${spec.version})`,
      // virsh, where the daemon follows libvirt
      Suggests: 'libvirt-clients',
    },
    description: [
      'fast nested virtualization on stock kernels',
      'A guest hypervisor gives its host small verified eBPF programs that answer',
      'events of its nested guests. This package has the daemon of the host, the',
      'agent of the guest hypervisor, their command line, and the programs.',
    ],
    scripts: { postinst: scripts.POSTINST, prerm: scripts.PRERM, postrm: scripts.POSTRM },
    overrides: scripts.OVERRIDES,
  };
  return pack(spec, control, async (tree) => {
    const files = [...(await ownFiles('host', source)), ...(await ownFiles('guest', source))];
    await writeFiles(tree, files);
    await copyApp(spec.packageRoot, path.join(tree, APP));
    await cp(path.join(spec.packageRoot, 'c'), path.join(tree, APP, 'c'), { recursive: true });
    const link = async (at: string, to: string): Promise<void> => {
      await mkdir(path.dirname(path.join(tree, at)), { recursive: true });
      await symlink(to, path.join(tree, at));
    };
    await link('/usr/bin/hyperturtle', '../lib/hyperturtle/app/dist/src/cli/main.cjs');
    await link('/usr/lib/cni/hyperturtle-cni', '../hyperturtle/app/dist/src/cli/cni-main.cjs');
    for (const [at, text] of spec.texts)
      await put(tree, at.endsWith('.1') ? `${at}.gz` : at, at.endsWith('.1') ? gzip(text) : text);
    const docs = path.join(spec.packageRoot, 'docs');
    for (const name of await readdir(docs))
      if (name.endsWith('.md') || name.endsWith('.svg'))
        await put(tree, `/usr/share/doc/hyperturtle/${name}`, await readFile(path.join(docs, name)));
    await put(
      tree,
      '/usr/share/doc/hyperturtle/copyright',
      await copyright(spec.packageRoot, path.join(tree, APP, 'node_modules')),
    );
  });
}

function dkmsPackage(spec: DebSpec, source: InstallSource): Promise<string> {
  const control: Control = {
    name: 'hyperturtle-dkms',
    architecture: 'all',
    fields: { Depends: 'dkms (>= 2.1.0.0)', Section: 'kernel' },
    description: [
      'fast nested virtualization on stock kernels (kernel modules)',
      'Sources of the modules hyperturtle_host (for a host) and hyperturtle_guest',
      '(for a guest hypervisor), which dkms builds for each installed kernel.',
    ],
    scripts: { postinst: scripts.dkmsPostinst(spec.version), prerm: scripts.dkmsPrerm(spec.version) },
    overrides: [],
  };
  return pack(spec, control, async (tree) => {
    await writeFiles(tree, await moduleFiles(source));
    await put(
      tree,
      '/usr/share/doc/hyperturtle-dkms/copyright',
      await copyright(spec.packageRoot, undefined),
    );
  });
}

async function pack(spec: DebSpec, control: Control, fill: (tree: string) => Promise<void>): Promise<string> {
  const tree = path.join(spec.outDir, `.${control.name}`);
  const deb = path.join(spec.outDir, `${control.name}_${spec.version}_${control.architecture}.deb`);
  try {
    await rm(tree, { recursive: true, force: true });
    await mkdir(path.join(tree, 'DEBIAN'), { recursive: true });
    await fill(tree);
    await put(tree, `/usr/share/doc/${control.name}/changelog.gz`, gzip(await changelog(spec, control.name)));
    if (control.overrides.length > 0)
      await put(
        tree,
        `/usr/share/lintian/overrides/${control.name}`,
        control.overrides.map((o) => `${o}\n`).join(''),
      );
    await writeControl(tree, spec, control);
    await exec('dpkg-deb', ['--root-owner-group', '-Zxz', '--build', tree, deb], {
      env: { ...process.env, SOURCE_DATE_EPOCH: String(spec.epochS) },
      timeoutMs: 300_000,
      signal: spec.signal,
    });
    return deb;
  } finally {
    await rm(tree, { recursive: true, force: true });
  }
}

async function writeControl(tree: string, spec: DebSpec, control: Control): Promise<void> {
  const sums: string[] = [];
  const conffiles: string[] = [];
  let bytes = 0;
  const all = await readdir(tree, { recursive: true, withFileTypes: true });
  for (const e of all.filter((f) => f.isFile())) {
    const file = path.join(e.parentPath, e.name);
    const content = await readFile(file);
    const name = path.relative(tree, file);
    bytes += Math.ceil(content.length / 1024) * 1024;
    sums.push(`${createHash('md5').update(content).digest('hex')}  ${name}`);
    if (name.startsWith('etc/')) conffiles.push(`/${name}`);
  }
  for (const e of all) if (!e.isSymbolicLink()) await chmod(path.join(e.parentPath, e.name), modeOf(e));
  const fields: Record<string, string> = {
    Package: control.name,
    Version: spec.version,
    Architecture: control.architecture,
    Maintainer: spec.maintainer,
    'Installed-Size': String(Math.ceil(bytes / 1024)),
    Section: 'admin',
    Priority: 'optional',
    ...control.fields,
  };
  const [short = '', ...long] = control.description;
  const text = [
    ...Object.entries(fields).map(([k, v]) => `${k}: ${v}`),
    `Description: ${short}`,
    ...long.map((l) => ` ${l}`),
  ];
  const meta = (name: string): string => path.join(tree, 'DEBIAN', name);
  await writeFile(meta('control'), `${text.join('\n')}\n`);
  await writeFile(
    meta('md5sums'),
    sums
      .sort()
      .map((s) => `${s}\n`)
      .join(''),
  );
  if (conffiles.length > 0)
    await writeFile(
      meta('conffiles'),
      conffiles
        .sort()
        .map((c) => `${c}\n`)
        .join(''),
    );
  for (const [name, script] of Object.entries(control.scripts)) {
    await writeFile(meta(name), script);
    await chmod(meta(name), 0o755);
  }
}

function modeOf(e: { isDirectory(): boolean; name: string; parentPath: string }): number {
  if (e.isDirectory() || KERNEL_HOOKS.some((at) => path.join(e.parentPath, e.name).endsWith(at)))
    return 0o755;
  return /^(main|cni-main)\.c?js$/.test(e.name) && e.parentPath.endsWith('/dist/src/cli') ? 0o755 : 0o644;
}

/** What is run: this package's JavaScript and the packages that it needs. Throws HT_NOT_FOUND when it is not compiled. */
export async function copyApp(packageRoot: string, to: string): Promise<void> {
  const from = path.join(packageRoot, 'dist/src');
  try {
    await cp(from, path.join(to, 'dist/src'), { recursive: true, filter: (f) => !/\.(map|d\.ts)$/.test(f) });
  } catch (e) {
    throw new HyperturtleError('HT_NOT_FOUND', `${from} is not compiled: npm run build`, { cause: e });
  }
  await cp(path.join(packageRoot, 'package.json'), path.join(to, 'package.json'));
  await copyDependencies(packageRoot, path.join(to, 'node_modules'));
  for (const name of UNUSED) await rm(path.join(to, 'node_modules', name), { recursive: true, force: true });
}

/** Ours, and the licences of what is packed with it, whole. */
async function copyright(packageRoot: string, modules: string | undefined): Promise<string> {
  const parts = [
    'Copyright (C) 2026 the authors of HyperTurtle',
    'Licence: Apache-2.0; the kernel modules and eBPF programs (c/) GPL-2.0-only.',
    'On Debian systems the texts are /usr/share/common-licenses/Apache-2.0 and /usr/share/common-licenses/GPL-2.',
  ];
  if (modules === undefined) return `${parts.join('\n')}\n`;
  const packages: string[] = [];
  for (const name of await readdir(modules))
    if (name.startsWith('@'))
      packages.push(...(await readdir(path.join(modules, name))).map((n) => `${name}/${n}`));
    else packages.push(name);
  for (const name of packages.sort()) {
    const dir = path.join(packageRoot, 'node_modules', name);
    const file = (await readdir(dir)).find((n) => /^licen[cs]e/i.test(n));
    const { license, version } = JSON.parse(await readFile(path.join(dir, 'package.json'), 'utf8')) as {
      license?: string;
      version: string;
    };
    parts.push('', `npm package ${name} ${version} (${license ?? 'see below'}), in ${APP}/node_modules:`, '');
    if (license === 'Apache-2.0') parts.push('The text is /usr/share/common-licenses/Apache-2.0.');
    else if (file !== undefined) parts.push((await readFile(path.join(dir, file), 'utf8')).trim());
  }
  for (const p of await bundled(packageRoot))
    if (!packages.includes(p.name))
      parts.push(
        '',
        `npm package ${p.name} ${p.version} (${p.license ?? 'see below'}), in the programs of ${APP}:`,
        '',
        p.license === 'Apache-2.0' ? 'The text is /usr/share/common-licenses/Apache-2.0.' : p.text.trim(),
      );
  return `${parts.join('\n')}\n`;
}

/** What scripts/bundle.mjs put into our programs, beside what is installed with them. */
async function bundled(
  packageRoot: string,
): Promise<{ name: string; version: string; license?: string; text: string }[]> {
  const text = await readFile(path.join(packageRoot, 'dist/src/licences.json'), 'utf8');
  return JSON.parse(text) as Awaited<ReturnType<typeof bundled>>;
}

async function changelog(spec: DebSpec, name: string): Promise<string> {
  const text = await readFile(path.join(spec.packageRoot, 'CHANGELOG.md'), 'utf8');
  const items = [...text.matchAll(/^- (.*(?:\n {2}.*)*)/gm)].map((m) => folded(m[1] ?? ''));
  const date = new Date(spec.epochS * 1000).toUTCString().replace('GMT', '+0000');
  return [
    `${name} (${spec.version}) unstable; urgency=medium`,
    '',
    ...items.map((i) => `  * ${i}`),
    '',
    ` -- ${spec.maintainer}  ${date}`,
    '',
  ].join('\n');
}

/** In lines that a changelog may have. */
function folded(text: string): string {
  const lines = [''];
  for (const word of text.split(/\s+/)) {
    const last = lines.at(-1) ?? '';
    if (last.length + word.length > 70) lines.push(word);
    else lines[lines.length - 1] = last === '' ? word : `${last} ${word}`;
  }
  return lines.join('\n    ');
}

const gzip = (content: string): Buffer => gzipSync(content, { level: 9 });

async function writeFiles(tree: string, files: readonly InstallFile[]): Promise<void> {
  for (const f of files) await put(tree, f.path, f.content);
}

async function put(tree: string, at: string, content: string | Buffer): Promise<void> {
  const file = path.join(tree, at);
  await mkdir(path.dirname(file), { recursive: true });
  await writeFile(file, content);
}
