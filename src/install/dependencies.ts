/** npm packages that this one needs where it is installed: as they are copied into a Debian package, an image, the lab. */
import { cp, mkdir, readFile, realpath, stat } from 'node:fs/promises';
import path from 'node:path';
import { errnoCode, HyperturtleError } from '../core/errors.ts';

interface PackageJson {
  name?: string;
  version?: string;
  dependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
  os?: string[];
  cpu?: string[];
}

/** What is run; types, sources, maps and documentation of packages stay behind. */
const RUNTIME_FILE = /\.(c?js|mjs|json|node)$/;

/** What only command lines (proto-loader's) and types (protobufjs's) of dependencies need: nothing here runs it. */
const NOT_RUN = ['yargs', '@types/node'];

/** Copies the production dependencies for Linux on x86-64 and glibc, flat, as npm has them. */
export async function copyDependencies(projectRoot: string, to: string): Promise<void> {
  await mkdir(to, { recursive: true });
  const done = new Set<string>();
  const queue = Object.keys((await readPackage(projectRoot))?.dependencies ?? {});
  for (let name = queue.shift(); name !== undefined; name = queue.shift()) {
    if (done.has(name) || NOT_RUN.includes(name)) continue;
    done.add(name);
    const dir = path.join(projectRoot, 'node_modules', name);
    const found = await readPackage(dir);
    if (found === undefined)
      throw new HyperturtleError('HT_NOT_FOUND', `npm package ${name} is not installed: run npm ci`);
    queue.push(...Object.keys(found.dependencies ?? {}));
    for (const optional of Object.keys(found.optionalDependencies ?? {}))
      if (fits(await readPackage(path.join(projectRoot, 'node_modules', optional)))) queue.push(optional);
    await cp(await realpath(dir), path.join(to, name), { recursive: true, filter: isRuntime });
  }
}

function fits(p: PackageJson | undefined): boolean {
  return p !== undefined && (p.os ?? ['linux']).includes('linux') && (p.cpu ?? ['x64']).includes('x64');
}

async function isRuntime(file: string): Promise<boolean> {
  if (/[\\/](musl_x64|vendor)$/.test(file)) return false;
  return (await stat(file)).isDirectory() || RUNTIME_FILE.test(file);
}

/** Undefined where there is none. */
export async function readPackage(dir: string): Promise<PackageJson | undefined> {
  try {
    return JSON.parse(await readFile(path.join(dir, 'package.json'), 'utf8')) as PackageJson;
  } catch (e) {
    if (errnoCode(e) === 'ENOENT' || errnoCode(e) === 'ENOTDIR') return undefined;
    throw e;
  }
}
