/** Our programs as they ship: how they start, with and without the bytecode beside them. */
import { spawnSync } from 'node:child_process';
import type { SpawnSyncReturns } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compiledSources } from '../support/compiled.ts';

const VERSION = (JSON.parse(readFileSync('package.json', 'utf8')) as { version: string }).version;
const NOWHERE = '/nonexistent/none';

interface Started {
  parts: { name: string; bytes: number; rejected: boolean | undefined }[];
  /** Node's own modules. */
  builtins: string[];
}

let shipped: string;
/** A copy that a test may spoil. */
let own: string;
beforeAll(() => {
  shipped = compiledSources();
  const root = mkdtempSync(path.join(path.dirname(path.dirname(path.dirname(shipped))), 'staging-programs-'));
  own = path.join(root, 'dist/src');
  cpSync(path.dirname(path.dirname(shipped)), root, { recursive: true });
}, 120_000);
afterAll(() => rmSync(path.dirname(path.dirname(own)), { recursive: true, force: true }));

const node = (args: readonly string[]): SpawnSyncReturns<string> =>
  spawnSync(process.execPath, args, { encoding: 'utf8', timeout: 60_000 });

/** Starts a program of the shipped ones, and gives what had been loaded when it ended. */
function started(program: string, ...args: string[]): Started {
  const start = pathToFileURL(path.join(shipped, 'core/start.js')).href;
  const code = `import { startProgram, loadedParts } from ${JSON.stringify(start)};
    import { writeSync, statSync } from 'node:fs';
    import path from 'node:path';
    process.on('exit', () => {
      const parts = loadedParts().map(({ script, bytecode }) => ({
        name: path.basename(bytecode, '.bytecode'),
        bytes: statSync(bytecode.replace(/bytecode$/, 'cjs')).size,
        rejected: script.cachedDataRejected,
      }));
      const builtins = process.moduleLoadList.flatMap((m) => /^NativeModule (.*)/.exec(m)?.[1] ?? []);
      writeSync(3, JSON.stringify({ parts, builtins }));
    });
    startProgram(${JSON.stringify(program)});`;
  const r = spawnSync(process.execPath, ['--input-type=module', '-', ...args], {
    input: code,
    encoding: 'utf8',
    stdio: ['pipe', 'pipe', 'pipe', 'pipe'],
    timeout: 60_000,
  });
  expect(r.output[3], r.stderr).toMatch(/^\{/);
  return JSON.parse(r.output[3] ?? '') as Started;
}

const STARTS: [string, ...string[]][] = [
  ['cli/main', 'status', '--socket', NOWHERE],
  ['cli/main', 'load', NOWHERE, '--link', '--socket', NOWHERE],
  ['cli/main', 'guest', 'agent', '--config', NOWHERE],
  ['cli/main', 'host', 'daemon', '--config', NOWHERE],
  ['cli/main', 'guest', 'status'],
  ['cli/cni-main'],
  ['host/daemon/check-thread'],
  ['host/loader/worker'],
];

describe('bytecode', () => {
  it('is beside parts of programs, and nothing else is', () => {
    const files = readdirSync(path.join(shipped, 'programs'));
    const parts = new Set(files.filter((f) => f.endsWith('.cjs')));
    const others = files.filter((f) => !parts.has(f));
    expect(others.length).toBeGreaterThan(50);
    expect(others.filter((f) => !parts.has(f.replace(/bytecode$/, 'cjs')))).toEqual([]);
  });

  it.each(STARTS)('of all that %s %s %s loads is there, and taken by the Node that made it', (...start) => {
    const { parts } = started(...start);
    expect(parts.length).toBeGreaterThan(1);
    expect(parts.filter((p) => p.rejected !== false)).toEqual([]);
  });

  it.each([
    ['missing', (file: string) => rmSync(file)],
    ['cut off', (file: string) => writeFileSync(file, readFileSync(file).subarray(0, 1000))],
    ['of something else', (file: string) => writeFileSync(file, Buffer.alloc(5000, 0xa5))],
    ['empty', (file: string) => writeFileSync(file, '')],
  ])('that is %s keeps no program from starting', (_what, spoil) => {
    const file = path.join(own, 'programs/cli-main.bytecode');
    expect(existsSync(path.join(shipped, 'programs/cli-main.bytecode'))).toBe(true);
    cpSync(path.join(shipped, 'programs/cli-main.bytecode'), file);
    spoil(file);
    for (const main of ['cli/main.cjs', 'cli/main.js']) {
      const r = node([path.join(own, main), '--version']);
      expect([r.status, r.stdout, r.stderr]).toEqual([0, `${VERSION}\n`, '']);
    }
  });
});

/** Emulated, each page that a start touches and each file that it reads counts: docs/testing.md. */
describe('a start loads what it needs', () => {
  const bytes = (s: Started): number => s.parts.reduce((sum, p) => sum + p.bytes, 0);

  it.each([
    ['--version', 200],
    ['status', 460],
    ['guest status', 250],
    ['load x --link', 500],
  ])('hyperturtle %s: at most %i KiB, nothing of other rooms, and no part of Node for later', (line, kib) => {
    const s = started(
      'cli/main',
      ...line.split(' '),
      ...(/^(load|status)/.test(line) ? ['--socket', NOWHERE] : []),
    );
    expect(bytes(s)).toBeGreaterThan(50 << 10);
    expect(bytes(s)).toBeLessThan(kib << 10);
    expect(
      s.parts
        .map((p) => p.name)
        .filter((n) => /^((bench|fuzz|lab|testbed|report|host)-|shared-(yaml|log))/.test(n)),
    ).toEqual([]);
    expect(
      s.builtins.filter((m) => /^(child_process|crypto|http|worker_threads|zlib|fs\/promises)$/.test(m)),
    ).toEqual([]);
  });
});

describe('a program whose work never ends', () => {
  /** An ES module whose work ends as `promise` does. */
  function withMain(promise: string): SpawnSyncReturns<string> {
    const file = pathToFileURL(path.join(shipped, 'core/run-main.js')).href;
    const code = `import { runMain } from ${JSON.stringify(file)};\nrunMain(() => ${promise});`;
    return node(['--input-type=module', '-e', code]);
  }

  it('says so when nothing is left to wait for, with status 13', () => {
    const r = withMain('new Promise(() => {})');
    expect(r.status).toBe(13);
    expect(r.stderr).toContain('ended before its work was done');
  });

  it('is told from one whose work ended, and from one that failed', () => {
    expect(withMain('Promise.resolve()').status).toBe(0);
    const failed = withMain("Promise.reject(new Error('no luck'))");
    expect([failed.status, failed.stderr.includes('no luck')]).toEqual([1, true]);
  });
});
