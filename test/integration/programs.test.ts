/** Our programs as they ship: how they start, with and without the bytecode beside them. */
import { spawnSync } from 'node:child_process';
import type { SpawnSyncReturns } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compiledSources } from '../support/compiled.ts';

const VERSION = (JSON.parse(readFileSync('package.json', 'utf8')) as { version: string }).version;
const WITH_BYTECODE = ['cli-main', 'cli-cni-main', 'host-daemon-check-thread', 'host-loader-worker'];

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

/** What `code` prints, an ES module that has `start.js` of the copy as `start`. */
function withStart(code: string): SpawnSyncReturns<string> {
  const start = pathToFileURL(path.join(own, 'core/start.js')).href;
  return node(['--input-type=module', '-e', `import * as start from ${JSON.stringify(start)};\n${code}`]);
}

describe('bytecode', () => {
  it('is beside every program that users start, and nothing else is', () => {
    const files = readdirSync(path.join(shipped, 'programs')).sort();
    expect(files.filter((f) => f.endsWith('.bytecode'))).toEqual(
      WITH_BYTECODE.map((n) => `${n}.bytecode`).sort(),
    );
    expect(files.filter((f) => !/\.(cjs|bytecode)$/.test(f))).toEqual([]);
  });

  it.each(WITH_BYTECODE)('of %s is taken by the Node that made it', (name) => {
    const r = withStart(
      `process.stdout.write(String(start.loadProgram('${name}').script.cachedDataRejected))`,
    );
    expect(r.stdout, r.stderr).toBe('false');
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
    const r = node([path.join(own, 'cli/main.js'), '--version']);
    expect([r.status, r.stdout, r.stderr]).toEqual([0, `${VERSION}\n`, '']);
  });
});

describe('a program whose work never ends', () => {
  it('says so when nothing is left to wait for, with status 13', () => {
    const r = withStart('start.runMain(() => new Promise(() => {}))');
    expect(r.status).toBe(13);
    expect(r.stderr).toContain('ended before its work was done');
  });

  it('is told from one whose work ended, and from one that failed', () => {
    expect(withStart('start.runMain(async () => {})').status).toBe(0);
    const failed = withStart("start.runMain(async () => { throw new Error('no luck'); })");
    expect([failed.status, failed.stderr.includes('no luck')]).toEqual([1, true]);
  });
});
