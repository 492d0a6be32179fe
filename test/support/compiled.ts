/**
 * The project's own JavaScript, bundled as it ships, for tests that start it as a process: Node 20 does not run
 * TypeScript. Compiled without types being checked, once for each state of the sources, below node_modules so that
 * packages are found.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import ts from 'typescript';

const ROOT = path.resolve(import.meta.dirname, '../..');
const CACHE = path.join(ROOT, 'node_modules/.cache/hyperturtle-compiled');
const KEEP = 3;
/** Another test run may still start processes from an old one. */
const KEEP_MS = 3_600_000;

/** The folder that stands for `dist/src`: `path.join(compiledSources(), 'cli/main.js')`. */
export function compiledSources(): string {
  const files = readdirSync(path.join(ROOT, 'src'), { recursive: true, encoding: 'utf8' })
    .filter((f) => f.endsWith('.ts'))
    .sort();
  const bundle = path.join(ROOT, 'scripts/bundle.mjs');
  const hash = createHash('sha256').update(process.version).update(readFileSync(bundle));
  hash.update(readFileSync(path.join(ROOT, 'scripts/learn.mjs')));
  const texts = files.map((f) => {
    const text = readFileSync(path.join(ROOT, 'src', f), 'utf8');
    hash.update(f).update('\0').update(text).update('\0');
    return [f, text] as const;
  });
  const dir = path.join(CACHE, hash.digest('hex').slice(0, 16));
  const out = path.join(dir, 'dist/src');
  if (existsSync(out)) return out;
  mkdirSync(CACHE, { recursive: true });
  const staging = mkdtempSync(path.join(CACHE, 'staging-'));
  const read = ts.readConfigFile(path.join(ROOT, 'tsconfig.json'), (f) => ts.sys.readFile(f));
  const parsed = ts.parseJsonConfigFileContent(read.config, ts.sys, ROOT).options;
  // file by file TypeScript does not see that package.json says ES modules
  const options: ts.CompilerOptions = {
    ...parsed,
    module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
  };
  for (const [f, text] of texts) {
    const to = path.join(staging, 'dist/src', f.replace(/\.ts$/, '.js'));
    mkdirSync(path.dirname(to), { recursive: true });
    const fileName = path.join(ROOT, 'src', f);
    writeFileSync(to, ts.transpileModule(text, { compilerOptions: options, fileName }).outputText);
  }
  execFileSync(process.execPath, [bundle, path.join(staging, 'dist/src')]);
  cpSync(path.join(ROOT, 'package.json'), path.join(staging, 'package.json'));
  try {
    renameSync(staging, dir);
  } catch {
    rmSync(staging, { recursive: true }); // another test file was faster
  }
  prune();
  return out;
}

function prune(): void {
  const dirs = readdirSync(CACHE)
    .filter((d) => !d.startsWith('staging-'))
    .map((d) => path.join(CACHE, d))
    .sort((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs);
  const old = dirs.slice(KEEP).filter((d) => Date.now() - statSync(d).mtimeMs > KEEP_MS);
  for (const d of old) rmSync(d, { recursive: true, force: true });
}
