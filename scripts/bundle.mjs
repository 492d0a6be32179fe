#!/usr/bin/env node
// Makes the programs of a compiled dist/src start fast: each becomes one file, beside a few that several need, in place of
// one for each module that it loads. The other files stay as they are. `node scripts/bundle.mjs DIR`, for any directory
// that stands for dist/src.
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import path from 'node:path';
import { rolldown } from 'rolldown';

/** Programs and threads, as people and src/core/code-file.ts name them. */
const PROGRAMS = [
  'cli/main',
  'cli/cni-main',
  'host/daemon/check-thread',
  'host/loader/worker',
  'bench/control/process',
];
/** One below dist/src, as src/core/code-file.ts wants it. */
const CHUNKS = 'chunks';
/** Native code, and packages that look for files of their own. */
const APART = ['koffi', 'pino', 'prom-client'];

const dir = path.resolve(process.argv[2] ?? 'dist/src');
const staging = mkdtempSync(path.join(path.dirname(dir), '.bundle-'));
try {
  const bundle = await rolldown({
    input: Object.fromEntries(PROGRAMS.map((name) => [name, path.join(dir, `${name}.js`)])),
    platform: 'node',
    external: APART,
    // a tree without node_modules above it is bundled as well
    resolve: { modules: [path.join(import.meta.dirname, '../node_modules'), 'node_modules'] },
  });
  await bundle.write({
    dir: staging,
    format: 'esm',
    entryFileNames: '[name].js',
    chunkFileNames: `${CHUNKS}/[name]-[hash].js`,
    comments: { legal: true, annotation: false, jsdoc: false },
  });
  rmSync(path.join(dir, CHUNKS), { recursive: true, force: true });
  cpSync(staging, dir, { recursive: true });
} finally {
  rmSync(staging, { recursive: true, force: true });
}
