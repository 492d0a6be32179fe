/** Our JavaScript for the payload: compiled from the sources when they are there, else as installed; and what it depends on. */
import { cp, mkdir, readFile, realpath, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { exec } from '../core/exec.ts';
import { errnoCode, HyperturtleError, messageOf } from '../core/errors.ts';
import { hashTree } from './build.ts';
import type { BuildContext, Built } from './build.ts';
import { cacheEntry, contentKey, exists } from './xdg.ts';

interface PackageJson {
  name?: string;
  version?: string;
  dependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
  os?: string[];
  cpu?: string[];
}

/** The directory of our package.json: this file is below it, as source or compiled. */
export async function findProjectRoot(): Promise<string> {
  for (let dir = path.dirname(fileURLToPath(import.meta.url)); ; dir = path.dirname(dir)) {
    const found = await readPackage(dir);
    if (found?.name === 'hyperturtle' && (await exists(path.join(dir, 'c')))) return dir;
    if (dir === path.dirname(dir))
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        'the package of hyperturtle has no c/ directory: install it again',
      );
  }
}

/** TypeScript projects: the dashboard's page is compiled for browsers. */
const PROJECTS = ['.', 'src/dashboard/page'];

/** A directory to become `dist/src`. Does not check types: that is `npm run check`'s work. */
export async function buildApp(c: BuildContext): Promise<Built> {
  const tsc = path.join(c.projectRoot, 'node_modules/typescript-7/bin/tsc');
  const src = path.join(c.projectRoot, 'src');
  if (!(await exists(tsc)) || !(await exists(src))) {
    const dir = path.join(c.projectRoot, 'dist/src');
    return { dir, key: contentKey(await hashTree(dir, /\.(c?js|bytecode)$/)) };
  }
  const script = (name: string): string => path.join(c.projectRoot, 'scripts', name);
  const bundle = script('bundle.mjs');
  const key = contentKey([
    await hashTree(src, /\.ts$/),
    ...(await Promise.all(
      PROJECTS.map((p) => readFile(path.join(c.projectRoot, p, 'tsconfig.json'), 'utf8')),
    )),
    await readFile(bundle, 'utf8'),
    await readFile(script('learn.mjs'), 'utf8'),
    process.version, // its bytecode is in it
  ]);
  const spec = { folder: 'builds', name: 'app', key, keep: 4, signal: c.signal };
  const dir = await cacheEntry(c.cacheRoot, spec, async (staging) => {
    const out = `${staging}.out`;
    try {
      await rm(out, { recursive: true, force: true });
      for (const project of PROJECTS)
        await exec(
          process.execPath,
          [
            ...[tsc, '-p', path.join(c.projectRoot, project)],
            ...['--noCheck', '--incremental', 'false', '--outDir', out],
          ],
          { cwd: c.projectRoot, timeoutMs: 300_000, signal: c.signal },
        );
      await exec(process.execPath, [bundle, path.join(out, 'src')], { timeoutMs: 300_000, signal: c.signal });
      await rename(path.join(out, 'src'), staging);
    } catch (e) {
      if (c.signal?.aborted) throw e;
      throw new HyperturtleError('HT_BUILD', `TypeScript does not compile: ${messageOf(e)}`, { cause: e });
    } finally {
      await rm(out, { recursive: true, force: true });
    }
  });
  return { dir, key };
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

async function readPackage(dir: string): Promise<PackageJson | undefined> {
  try {
    return JSON.parse(await readFile(path.join(dir, 'package.json'), 'utf8')) as PackageJson;
  } catch (e) {
    if (errnoCode(e) === 'ENOENT' || errnoCode(e) === 'ENOTDIR') return undefined;
    throw e;
  }
}
