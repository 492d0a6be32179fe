/** Our JavaScript for the payload: compiled from the sources when they are there, else as installed. */
import { readFile, rename } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { exec } from '../core/exec.ts';
import { HyperturtleError, messageOf } from '../core/errors.ts';
import { readPackage } from '../install/dependencies.ts';
import { hashTree } from './build.ts';
import type { BuildContext, Built } from './build.ts';
import { cacheEntry, contentKey, exists, withWorkDirectory } from './xdg.ts';

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
  const compile = async (staging: string, out: string): Promise<void> => {
    try {
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
    }
  };
  const dir = await cacheEntry(c.cacheRoot, spec, (staging) =>
    withWorkDirectory(staging, 'out', (out) => compile(staging, out)),
  );
  return { dir, key };
}
