/** What is installed on a real machine, as data: files with their contents, for each role, from the package's own. */
import { PLACES } from '../core/default-paths.ts';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { errnoCode, HyperturtleError } from '../core/errors.ts';
import { fillIn } from './dkms.ts';

export type Role = 'host' | 'guest';

export interface InstallFile {
  /** On the machine. */
  path: string;
  mode: number;
  content: Buffer;
  /** The machine's owner edits it: it is never overwritten, and left when it was edited. */
  config: boolean;
}

/** Where things come from, and the little that differs between an npm and a Debian package. */
export interface InstallSource {
  packageRoot: string;
  version: string;
  /** What units start, such as `/usr/bin/hyperturtle`. */
  command: string;
  unitDir: string;
  udevDir: string;
  /** Manual pages and completion, made by the command line: path to text. */
  texts: ReadonlyMap<string, string>;
}

export const UNITS: Readonly<Record<Role, string>> = {
  host: 'hyperturtled.service',
  guest: 'hyperturtle-agent.service',
};
const CONFIGS: Readonly<Record<Role, string>> = { host: 'host.yaml', guest: 'guest.yaml' };
/** What the shipped units start. */
const UNIT_COMMAND = '/usr/bin/hyperturtle';
const PROGRAMS_DIR = PLACES.programs.path;

/** What packages of kernels and of their headers run. */
export const KERNEL_HOOKS = ['postinst.d', 'header_postinst.d'].map((d) => `/etc/kernel/${d}/hyperturtle`);

export const moduleSourceDir = (version: string): string => `/usr/src/hyperturtle-${version}`;

/** All files of a role, in the order of their paths. */
export async function filesOf(role: Role, source: InstallSource): Promise<InstallFile[]> {
  const all = [...(await ownFiles(role, source)), ...(await moduleFiles(source))];
  return all.sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** Without the modules' sources. */
export async function ownFiles(role: Role, source: InstallSource): Promise<InstallFile[]> {
  const shipped = (name: string): Promise<Buffer> =>
    readFile(path.join(source.packageRoot, 'dist-files', name));
  const unit = (await shipped(`systemd/${UNITS[role]}`)).toString('utf8');
  const files = [
    plain(`${source.unitDir}/${UNITS[role]}`, unit.replaceAll(UNIT_COMMAND, source.command)),
    { ...plain(`/etc/hyperturtle/${CONFIGS[role]}`, await shipped(`etc/${CONFIGS[role]}`)), config: true },
    ...Array.from(source.texts, ([at, text]) => plain(at, text)),
  ];
  if (role === 'host')
    files.push(plain(`${source.udevDir}/60-hyperturtle.rules`, await shipped('udev/60-hyperturtle.rules')));
  else files.push(...(await bpfPrograms(source.packageRoot)));
  return files;
}

/** For dkms: both modules, from one source tree, and what has it build them for kernels to come. */
export async function moduleFiles(source: InstallSource): Promise<InstallFile[]> {
  const to = moduleSourceDir(source.version);
  const files: InstallFile[] = [];
  for (const part of ['host', 'guest', 'include']) {
    const from = path.join(source.packageRoot, 'c', part);
    for (const name of await filesBelow(from))
      files.push(plain(`${to}/${part}/${name}`, await readFile(path.join(from, name))));
  }
  const dkms = async (name: string): Promise<string> =>
    fillIn(await readFile(path.join(source.packageRoot, 'dist-files/dkms', name), 'utf8'), source.version);
  for (const name of ['dkms.conf', 'Makefile', 'why-not-built'])
    files.push(plain(`${to}/${name}`, await dkms(name)));
  for (const at of KERNEL_HOOKS) files.push({ ...plain(at, await dkms('kernel-hook')), mode: 0o755 });
  return files;
}

/** The programs, compiled with the package: no machine that uses them needs clang. Throws HT_NOT_FOUND without them. */
export async function bpfPrograms(packageRoot: string): Promise<InstallFile[]> {
  const from = path.join(packageRoot, 'dist/bpf');
  const names = (await filesBelow(from)).filter((n) => n.endsWith('.bpf.o'));
  if (names.length === 0)
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `no compiled programs in ${from}: in a clone of the sources, 'npm run build:bpf' makes them`,
    );
  return Promise.all(
    names.map(async (n) => plain(`${PROGRAMS_DIR}/${n}`, await readFile(path.join(from, n)))),
  );
}

function plain(at: string, content: string | Buffer): InstallFile {
  return { path: at, mode: 0o644, content: Buffer.from(content), config: false };
}

/** Relative paths, sorted; nothing for a directory that is not there. */
async function filesBelow(dir: string): Promise<string[]> {
  try {
    const all = await readdir(dir, { recursive: true, withFileTypes: true });
    return all
      .filter((e) => e.isFile())
      .map((e) => path.relative(dir, path.join(e.parentPath, e.name)))
      .sort();
  } catch (e) {
    if (errnoCode(e) === 'ENOENT') return [];
    throw e;
  }
}
