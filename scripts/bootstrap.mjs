#!/usr/bin/env node
// `npm run demo`, `npm test` and `npm run check` on a fresh clone: checks the machine, installs, compiles, then runs what
// was asked for. Plain JavaScript with no dependency, as nothing is installed yet when it starts.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { runSuites } from './suites.mjs';

const SELF = fileURLToPath(import.meta.url);
const ROOT = path.dirname(path.dirname(SELF));
const COMMANDS = ['demo', 'test', 'check'];
/** What this script starts of itself while it holds the lock of the clone. */
const LOCKED = 'prepare';
/** Status of flock when another has the lock. */
const HELD = 75;
const NODE_AT_LEAST = [20, 19];
/** As hyperturtle and shells have it. */
const INTERRUPTED = 130;
/** Ctrl-C, while one of our programs had the terminal. */
let interrupted = false;

class Refusal extends Error {}

function say(line) {
  process.stderr.write(`* ${line}\n`);
}

function checkMachine() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  const [wantMajor, wantMinor] = NODE_AT_LEAST;
  if (major < wantMajor || (major === wantMajor && minor < wantMinor))
    throw new Refusal(
      `Node ${NODE_AT_LEAST.join('.')} or newer needed, this is ${process.versions.node}: install a newer one`,
    );
  if (process.platform !== 'linux' || process.arch !== 'x64')
    throw new Refusal(
      `Linux on x86-64 needed, this is ${process.platform} on ${process.arch}: use such a machine or container`,
    );
}

const DEBIAN_PROGRAMS = ['apt-get', 'dpkg-deb'];

function isMissing(program) {
  return spawnSync(program, ['--version'], { stdio: 'ignore' }).error !== undefined;
}

/** Codenames of the releases that the lab has been run on (src/lab/debian.ts). */
const RELEASES = ['bookworm', 'trixie'];

/** Why the lab cannot be made of this machine's packages. The same line is in src/lab/debian.ts, for what is compiled. */
function whyNoLab() {
  const os = osRelease();
  if (os.ID !== 'debian' || !RELEASES.includes(os.VERSION_CODENAME)) {
    const install = 'apt-get update && apt-get install -y --no-install-recommends npm ca-certificates';
    return (
      `the lab is made of packages of Debian 12 or 13, this is ${os.PRETTY_NAME || os.ID || 'another system'}: here 'npm test -- unit' works, and the demo in a ` +
      `container (docker or podman): docker run --rm -it -v "$PWD:/src:z" -w /src debian:13 sh -c '${install} && npm run demo'`
    );
  }
  const missing = DEBIAN_PROGRAMS.find(isMissing);
  return missing && `${missing} not found: the lab is made of Debian packages: install it`;
}

function isDebian() {
  return whyNoLab() === undefined;
}

/** Only what runs the lab needs it. */
function checkDebian() {
  const why = whyNoLab();
  if (why !== undefined) throw new Refusal(why);
}

function osRelease() {
  for (const file of ['/etc/os-release', '/usr/lib/os-release']) {
    if (!statSync(file, { throwIfNoEntry: false })?.isFile()) continue;
    const lines = readFileSync(file, 'utf8').split('\n');
    return Object.fromEntries(
      lines.map((l) => /^([A-Z_]+)=["']?(.*?)["']?$/.exec(l.trim())?.slice(1) ?? ['', '']),
    );
  }
  return {};
}

function readJson(file) {
  try {
    return JSON.parse(readFileSync(path.join(ROOT, file), 'utf8'));
  } catch {
    return undefined;
  }
}

/** npm's own record of what it installed says the same as the lock file. */
function isInstalled() {
  const wanted = readJson('package-lock.json')?.packages;
  const found = readJson('node_modules/.package-lock.json')?.packages;
  if (wanted === undefined || found === undefined) return false;
  const names = Object.keys(wanted).filter((name) => name !== '');
  return names.every((name) =>
    found[name] === undefined
      ? wanted[name].optional === true
      : found[name].version === wanted[name].version && existsSync(path.join(ROOT, name, 'package.json')),
  );
}

/** Runs a program with our terminal; resolves to its exit status, 128 + signal number when it was ended by one. */
function run(program, args, options = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { cwd: ROOT, stdio: 'inherit', ...options });
    // a terminal sends Ctrl-C to the child as well; what kill(1) sends to us alone is passed on
    const ignore = () => {
      interrupted = true;
    };
    const forward = (signal) => {
      interrupted = true;
      child.kill(signal);
    };
    process.on('SIGTERM', forward).on('SIGHUP', forward).on('SIGINT', ignore);
    const finish = () => process.off('SIGTERM', forward).off('SIGHUP', forward).off('SIGINT', ignore);
    child.on('error', (e) => {
      finish();
      reject(e);
    });
    child.on('exit', (status, signal) => {
      finish();
      resolve(status ?? (signal === 'SIGINT' ? 130 : 143));
    });
  });
}

async function install() {
  if (isInstalled()) return;
  say('installing npm packages (npm ci)');
  // stdout belongs to what was asked for
  const status = await run('npm', ['ci', '--include=dev', '--no-audit', '--no-fund'], {
    stdio: ['inherit', 2, 2],
  });
  if (status !== 0)
    throw new Refusal(
      `npm ci failed (status ${status}): check the network and npm's registry, then run it again`,
    );
}

function sourcesHash() {
  const hash = createHash('sha256');
  const files = ['tsconfig.json', 'package-lock.json', 'scripts/bundle.mjs', 'scripts/learn.mjs'];
  for (const e of readdirSync(path.join(ROOT, 'src'), { recursive: true })) files.push(path.join('src', e));
  for (const f of files.sort())
    if (/\.(ts|json|mjs)$/.test(f)) hash.update(`${f}\0`).update(readFileSync(path.join(ROOT, f)));
  return hash.digest('hex');
}

async function build() {
  const stamp = path.join(ROOT, 'dist/.built-from');
  const hash = sourcesHash();
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === hash) return;
  say('compiling TypeScript');
  rmSync(stamp, { force: true });
  // types are `npm run check`'s work
  const tsc = path.join(ROOT, 'node_modules/typescript-7/bin/tsc');
  // the dashboard's page is compiled for browsers
  for (const project of [ROOT, path.join(ROOT, 'src/dashboard/page')]) {
    const status = await run(process.execPath, [tsc, '-p', project, '--noCheck'], {
      stdio: ['inherit', 2, 2],
    });
    if (status !== 0) throw new Refusal(`TypeScript does not compile (status ${status}): see above`);
  }
  const status = await run(process.execPath, [path.join(ROOT, 'scripts/bundle.mjs')], {
    stdio: ['inherit', 2, 2],
  });
  if (status !== 0) throw new Refusal(`the programs could not be bundled (status ${status}): see above`);
  writeFileSync(stamp, hash);
}

/** What integration tests call on this machine itself; the dashboard is tested in a real browser. */
const TEST_PACKAGES = [
  'binutils',
  'chromium',
  'fonts-dejavu-core',
  'git',
  'iproute2',
  'iputils-ping',
  'kmod',
  'libbpf1',
  'procps',
];

/** Those of TEST_PACKAGES that dpkg does not have. */
function missingPackages() {
  const query = ['-W', '-f', '${Package} ${db:Status-Status}\n', ...TEST_PACKAGES];
  const found = spawnSync('dpkg-query', query, { encoding: 'utf8' }).stdout ?? '';
  return TEST_PACKAGES.filter((name) => !found.split('\n').includes(`${name} installed`));
}

/** Installs them where that can be done; else the tests that need them say what they miss. */
async function installPrograms() {
  const missing = missingPackages();
  if (missing.length === 0 || process.getuid() !== 0) return;
  say(`installing for the tests (apt): ${missing.join(', ')}`);
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const options = { stdio: ['inherit', 2, 2], env };
  const install = ['install', '-y', '--no-install-recommends', '-qq', ...missing];
  // lists that are not there yet or too old are the usual reason for the first to fail
  if ((await run('apt-get', install, options)) === 0) return;
  await run('apt-get', ['update', '-qq'], options);
  if ((await run('apt-get', install, options)) !== 0)
    say('not installed: the tests that need them are skipped');
}

/** Fetches and builds the lab's parts with progress, so that no test waits for a download. */
async function prepareLab() {
  say('preparing the lab: packages, tools, images');
  const load = (file) => import(path.join(ROOT, 'dist/src', file));
  const { prepareArtifacts } = await load('lab/prepare.js');
  const { defaultKernel } = await load('lab/debian.js');
  const { createProgress } = await load('core/progress.js');
  const { abortOnSignals } = await load('core/lifecycle.js');
  const signals = abortOnSignals();
  try {
    const artifacts = await prepareArtifacts({
      kernel: defaultKernel(),
      progress: createProgress(),
      signal: signals.signal,
    });
    await artifacts.buildPayload();
    await artifacts.bochs();
  } finally {
    signals.dispose();
  }
}

/** Steps that write into the clone. */
async function prepare(steps) {
  if (steps.includes('install')) await install();
  if (steps.includes('build')) await build();
  return 0;
}

/**
 * One run at a time in a clone: a second one would take node_modules from under the first. Who has the lock is the process
 * that does the work, so it is held as long as that goes on, also after a kill -9 of the one that began.
 */
async function prepareAlone(steps) {
  if (isMissing('flock')) return prepare(steps);
  const locked = (options) =>
    run('flock', ['--no-fork', ...options, ROOT, process.execPath, SELF, LOCKED, ...steps]);
  const status = await locked(['--nonblock', '--conflict-exit-code', String(HELD)]);
  if (status !== HELD) return status;
  say('another run prepares this clone: waiting for it, half an hour at most');
  const waited = await locked(['--timeout', '1800', '--conflict-exit-code', String(HELD)]);
  if (waited === HELD)
    throw new Refusal('another run still prepares this clone: end it, then run this again');
  return waited;
}

/** `npm run test:packages` makes packages of what is compiled, the programs among it. */
async function buildBpf() {
  const status = await run(process.execPath, [path.join(ROOT, 'scripts/build-bpf.mjs')], {
    stdio: ['inherit', 2, 2],
  });
  if (status !== 0) throw new Refusal(`the eBPF programs do not compile (status ${status}): see above`);
}

function test(args) {
  let made;
  const lab = () => (made ??= prepareLab());
  return runSuites(ROOT, args, {
    run,
    say,
    explain: (e) => (expected(e) ? e.message : e.stack),
    prepare: {
      lab: () => {
        checkDebian();
        return lab();
      },
      // the integration tests compile eBPF with the lab's clang: without it they would be skipped
      compiler: () => (isDebian() ? lab() : undefined),
      programs: () => (isDebian() ? installPrograms() : undefined),
      bpf: buildBpf,
    },
  });
}

function expected(e) {
  return e instanceof Refusal || e?.name === 'HyperturtleError';
}

async function main([command, ...args]) {
  if (!COMMANDS.includes(command) && command !== LOCKED)
    throw new Refusal(`usage: node scripts/bootstrap.mjs ${COMMANDS.join('|')} [arguments]`);
  checkMachine();
  if (command === 'demo') checkDebian();
  if (command === LOCKED) return prepare(args);
  const prepared = await prepareAlone(command === 'check' ? ['install'] : ['install', 'build']);
  if (prepared !== 0) return prepared;
  if (command === 'check') return run(process.execPath, [path.join(ROOT, 'scripts/check.mjs'), ...args]);
  if (command === 'test') return test(args);
  return run(process.execPath, [path.join(ROOT, 'dist/src/cli/main.js'), 'demo', ...args]);
}

main(process.argv.slice(2)).then(
  (status) => {
    process.exitCode = status;
  },
  (e) => {
    process.stderr.write(interrupted ? 'interrupted\n' : `${expected(e) ? e.message : e.stack}\n`);
    process.exitCode = interrupted ? INTERRUPTED : e instanceof Refusal ? 2 : 1;
  },
);
