#!/usr/bin/env node
// Makes the programs of a compiled dist/src start fast: each becomes one CommonJS file in dist/src/programs, beside it the
// bytecode of what its starts run, and the file that people and src/core/code-file.ts name starts that (src/core/start.ts).
// The other files stay as they are. `node scripts/bundle.mjs DIR`, for any directory that stands for dist/src.
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { rolldown } from 'rolldown';

/** Programs and threads. */
const PROGRAMS = [
  'cli/main',
  'cli/cni-main',
  'host/daemon/check-thread',
  'host/loader/worker',
  'guest/launch/supervisor',
  'bench/control/process',
];
/** Native code. */
const APART = ['koffi'];
const WANTED = '\0wanted:';
/** The largest that a process may have is one less. */
const NO_PID = String(2 ** 22);
/** Starts whose code is worth having as bytecode. Each ends before it does anything: NONE is a path where nothing is. */
const STARTS = [
  ['cli/main', 'status', '--socket', 'NONE'],
  ['cli/main', 'load', 'NONE', '--link', '--socket', 'NONE'],
  ['cli/main', 'guest', 'agent', '--config', 'NONE'],
  ['cli/main', 'host', 'daemon', '--config', 'NONE'],
  ['cli/main', 'guest', 'status'],
  ['cli/main', 'guest', 'register', '--pid', NO_PID],
  ['cli/main', 'guest', 'l2', 'run', '--name', 'NONE'],
  ['cli/main', 'host', 'attach', '--qmp', 'NONE', '--program', 'NONE'],
  ['cli/main', 'host', 'vm', 'list', '--socket', 'NONE'],
  ['cli/cni-main'],
  ['host/daemon/check-thread'],
  ['host/loader/worker'],
  ['guest/launch/supervisor'],
];
const START_MS = 60_000;

const dir = path.resolve(process.argv[2] ?? 'dist/src');

/** What stands where a program's own compiled module was. */
function starter(name, firstLine) {
  const start = path.posix.join(path.relative(path.dirname(name), '.') || '.', 'core/start.js');
  return `${firstLine.startsWith('#!') ? `${firstLine}\n` : ''}import { startProgram } from '${start}';\nstartProgram('${name}');\n`;
}

/**
 * Node's modules and native code are loaded when the first of our modules that wants them is, not all as the program starts:
 * each import of one becomes that of a CommonJS module which requires it.
 */
const whenWanted = {
  name: 'when-wanted',
  resolveId(source, importer) {
    if (!isBuiltin(source) && !APART.includes(source)) return null;
    const wanted = importer?.startsWith(WANTED) ?? false;
    return wanted ? { id: source, external: true } : { id: `${WANTED}${source}`, moduleSideEffects: false };
  },
  load(id) {
    if (!id.startsWith(WANTED)) return null;
    return `module.exports = require(${JSON.stringify(id.slice(WANTED.length))});`;
  },
};

/**
 * The bundler copies a CommonJS module, export by export, for each module that imports it. An object that inherits the
 * exports is as good, and is made at once.
 */
function inherited(code) {
  const copied = /^var __toESM = [^]*? mod\)\);$/m;
  if (/__toESM\(/.test(code) && !copied.test(code))
    throw new Error('the bundler imports CommonJS in another way now: see inherited()');
  const heir = `var __toESM = (mod, isNodeMode) => {
	const own = !isNodeMode && mod?.__esModule && __hasOwnProp.call(mod, "default");
	return Object.create(mod, { default: { value: own ? mod.default : mod } });
};`;
  return code.replace(copied, () => heir);
}

/**
 * Text of one byte a character is read and kept as it is; a single other character makes V8 keep all of it in two. What is
 * outside ASCII is in literals and comments, where an escape is as good.
 */
const ascii = (code) =>
  code.replace(/[^\0-\x7f]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);

async function bundle(name, file) {
  const made = await rolldown({
    input: path.join(dir, `${name}.js`),
    platform: 'node',
    plugins: [whenWanted],
    // a tree without node_modules above it is bundled as well
    resolve: { modules: [path.join(import.meta.dirname, '../node_modules'), 'node_modules'] },
  });
  const { output } = await made.generate({
    format: 'cjs',
    codeSplitting: false,
    comments: { legal: true, annotation: false, jsdoc: false },
  });
  writeFileSync(file, ascii(inherited(output[0].code.replace(/^#!.*/, ''))));
}

/** Runs the program with these arguments and keeps the bytecode of what ran, with what was kept before. */
function learn([name, ...args], none) {
  const start = JSON.stringify(pathToFileURL(path.join(dir, 'core/start.js')).href);
  const learner = `
    const { loadProgram, programFiles } = await import(${start});
    const { writeFileSync } = await import('node:fs');
    const { script, run } = loadProgram('${name}');
    process.on('exit', () => writeFileSync(programFiles('${name}').bytecode, script.createCachedData()));
    run();`;
  const given = args.map((a) => (a === 'NONE' ? none : a));
  spawnSync(process.execPath, ['--input-type=module', '-e', learner, 'hyperturtle', ...given], {
    env: { ...process.env, NODE_NO_WARNINGS: '1' },
    stdio: 'ignore',
    timeout: START_MS,
  });
}

const staging = mkdtempSync(path.join(path.dirname(dir), '.bundle-'));
chmodSync(staging, 0o755);
try {
  for (const name of PROGRAMS) await bundle(name, path.join(staging, `${name.replaceAll('/', '-')}.cjs`));
  rmSync(path.join(dir, 'programs'), { recursive: true, force: true });
  renameSync(staging, path.join(dir, 'programs'));
  for (const name of PROGRAMS) {
    const file = path.join(dir, `${name}.js`);
    writeFileSync(file, starter(name, readFileSync(file, 'utf8').split('\n', 1)[0]));
  }
  for (const start of STARTS) learn(start, path.join(dir, 'programs/none/none'));
} finally {
  rmSync(staging, { recursive: true, force: true });
}
