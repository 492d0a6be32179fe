/** Where files of this package's code are, whether this module runs by itself or as part of a bundle (scripts/bundle.mjs). */
import { existsSync } from 'node:fs';
import { join } from 'node:path';

/** The path of `name`, which is relative to `dist/src`: `host/loader/worker.js`. Bundled programs are as deep as this file. */
export function codeFile(name: string): string {
  return join(import.meta.dirname, '..', name);
}

/** The file to run a program by; `name`: `host/loader/worker`. Node starts a CommonJS file sooner, which only bundles have. */
export function programFile(name: string): string {
  const bundled = codeFile(`${name}.cjs`);
  return existsSync(bundled) ? bundled : codeFile(`${name}.js`);
}
