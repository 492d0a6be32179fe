#!/usr/bin/env node
// Makes the programs of a compiled dist/src start fast: dist/src/programs gets their code as scripts, each a part that some
// start needs as a whole, beside most of them the bytecode of what starts run; and the file that people and
// src/core/code-file.ts name starts that (src/core/start.ts). The other files stay as they are.
// dist/src/licences.json has the licences of the npm packages that are in them.
// `node scripts/bundle.mjs DIR`, for any directory that stands for dist/src.
import {
  chmodSync,
  cpSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { isBuiltin } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { rolldown } from 'rolldown';
import { learn } from './learn.mjs';

/** Programs and threads. */
const PROGRAMS = [
  'cli/main',
  'cli/cni-main',
  'host/daemon/check-thread',
  'host/loader/worker',
  'guest/launch/supervisor',
  'bench/control/process',
  'bench/fleet/process',
  'bench/vms/process',
];
/** Native code. */
const APART = ['koffi'];
/** Node's modules that take long to load and that most starts only mention. None is called or extended as it is imported. */
const SELDOM = [
  'child_process',
  'cluster',
  'crypto',
  'http',
  'https',
  'readline',
  'tls',
  'worker_threads',
  'zlib',
];
const WANTED = '\0wanted:';
/** Packages that extend or copy those modules as they are loaded, which is late and seldom: they have them as they are. */
const EXTEND =
  /[\\/]node_modules[\\/](?:@kubernetes|@opentelemetry|agent-base|hpagent|node-fetch|openid-client|socks|socks-proxy-agent|whatwg-url|tr46)[\\/]/;
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
  ['cli/main', 'vmm', '--dir', 'NONE', '--', 'NONE'],
];
const START_MS = 60_000;

const PACKAGE = path.dirname(import.meta.dirname);
const dir = path.resolve(process.argv[2] ?? 'dist/src');

/** What stands where a program's own compiled module was, and beside it for Node to start without its loader of ES modules. */
function writeStarters(name) {
  const file = path.join(dir, name);
  const root = path.posix.relative(path.posix.dirname(name), '.');
  const [firstLine] = readFileSync(`${file}.js`, 'utf8').split('\n', 1);
  const shebang = firstLine.startsWith('#!') ? `${firstLine}\n` : '';
  const start = `startProgram('${name}');\n`;
  writeFileSync(`${file}.js`, `${shebang}import { startProgram } from '${root}/core/start.js';\n${start}`);
  writeFileSync(`${file}.cjs`, `${shebang}require('${root}/programs/start.cjs').${start}`);
}

/**
 * Node's modules and native code are loaded when the first of our modules that wants them is, not all as the program starts:
 * each import of one becomes that of a CommonJS module which requires it, those of SELDOM when something of it is used.
 */
const whenWanted = {
  name: 'when-wanted',
  resolveId(source, importer) {
    if (!isBuiltin(source) && !APART.includes(source)) return null;
    const wanted = (importer?.startsWith(WANTED) ?? false) || EXTEND.test(importer ?? '');
    return wanted ? { id: source, external: true } : { id: `${WANTED}${source}`, moduleSideEffects: false };
  },
  load(id) {
    if (!id.startsWith(WANTED)) return null;
    const source = id.slice(WANTED.length);
    const required = `require(${JSON.stringify(source)})`;
    if (!SELDOM.includes(source.replace(/^node:/, ''))) return `module.exports = ${required};`;
    // the first look at a property puts the module in this place
    return `module.exports = Object.create(new Proxy({}, {
	get(_, key) {
		const wanted = ${required};
		Object.setPrototypeOf(module.exports, wanted);
		return wanted[key];
	}
}));`;
  },
};

/**
 * The bundler copies a CommonJS module, export by export, for each module that imports it. An object that inherits the
 * exports is as good, and is made at once.
 */
function inherited(code) {
  const copied = /^var __toESM = [^]*? mod\)\);$/m;
  if (!copied.test(code)) throw new Error('the bundler imports CommonJS in another way now: see inherited()');
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

/** What a command's module is the door of is named after it, and what several need after one of its modules. */
const partName = ({ isDynamicEntry, facadeModuleId, name }) =>
  isDynamicEntry && facadeModuleId?.startsWith(`${dir}/`)
    ? `${path.relative(dir, facadeModuleId).replaceAll('/', '-').replace(/\.js$/, '')}.cjs`
    : `shared-${name}.cjs`;

/** Of this one a tenth is used, and its modules do nothing but define. */
const DEFINES = /[\\/]node_modules[\\/]@kubernetes[\\/]client-node[\\/]/;

const bundler = (input, plugins) =>
  rolldown({
    input,
    platform: 'node',
    plugins,
    // its paths lead to types
    tsconfig: false,
    treeshake: { moduleSideEffects: (id) => (DEFINES.test(id) ? false : undefined) },
    // a tree without node_modules above it is bundled as well
    resolve: { modules: [path.join(PACKAGE, 'node_modules'), 'node_modules'] },
  });

/** All programs at once, as they share parts; and what starts them. */
async function bundle(to) {
  const starting = await bundler(path.join(dir, 'core/start.js'), []);
  await starting.write({ format: 'cjs', file: path.join(to, 'start.cjs') });
  const made = await bundler(
    Object.fromEntries(PROGRAMS.map((p) => [p.replaceAll('/', '-'), path.join(dir, `${p}.js`)])),
    [whenWanted],
  );
  const { output } = await made.generate({
    format: 'cjs',
    entryFileNames: '[name].cjs',
    chunkFileNames: partName,
    comments: { legal: true, annotation: false, jsdoc: false },
  });
  for (const { fileName, name, code } of output) {
    const own = name === 'rolldown-runtime' ? inherited(code) : code;
    // src/core/start.ts calls it
    const script = `(function (exports, require, module, __filename, __dirname) {${own.replace(/^#!.*/, '')}\n})`;
    writeFileSync(path.join(to, fileName), ascii(script));
  }
  return licencesOf(output.flatMap((part) => part.moduleIds ?? []));
}

/** Licences of the npm packages that these modules are of: [{name, version, license, text}], by name. */
function licencesOf(modules) {
  const roots = modules.flatMap(
    (id) => /^[^\0]*[\\/]node_modules[\\/](?:@[^\\/]+[\\/])?[^.\\/][^\\/]*/.exec(id)?.[0] ?? [],
  );
  return [...new Set(roots)].sort().map((root) => {
    const { name, version, license } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'));
    const file = readdirSync(root).find((n) => /^licen[cs]e/i.test(n));
    return {
      name,
      version,
      license,
      text: file === undefined ? '' : readFileSync(path.join(root, file), 'utf8'),
    };
  });
}

/** Adds bytecode to the parts in `programs`: they start where all is around them that is when they are installed. */
function addBytecode(programs) {
  const root = mkdtempSync(path.join(tmpdir(), 'hyperturtle-bundle-'));
  try {
    const src = path.join(root, 'dist/src');
    cpSync(path.join(dir, 'core'), path.join(src, 'core'), { recursive: true });
    cpSync(programs, path.join(src, 'programs'), { recursive: true });
    cpSync(path.join(PACKAGE, 'package.json'), path.join(root, 'package.json'));
    symlinkSync(path.join(PACKAGE, 'node_modules'), path.join(root, 'node_modules'));
    for (const start of STARTS) learn(start, src, START_MS);
    for (const name of readdirSync(path.join(src, 'programs')))
      if (name.endsWith('.bytecode')) cpSync(path.join(src, 'programs', name), path.join(programs, name));
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

const staging = mkdtempSync(path.join(path.dirname(dir), '.bundle-'));
chmodSync(staging, 0o755);
try {
  const licences = await bundle(staging);
  addBytecode(staging);
  rmSync(path.join(dir, 'programs'), { recursive: true, force: true });
  renameSync(staging, path.join(dir, 'programs'));
  for (const name of PROGRAMS) writeStarters(name);
  writeFileSync(path.join(dir, 'licences.json'), `${JSON.stringify(licences, null, 1)}\n`);
} finally {
  rmSync(staging, { recursive: true, force: true });
}
