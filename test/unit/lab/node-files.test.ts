import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { exec } from '../../../src/core/exec.ts';
import { makeNodeStart, nodeFiles, startNode, startsSlowly } from '../../../src/lab/node-files.ts';

const there = new Set(['/usr/share/nodejs/undici/undici-fetch.js', '/usr/share/nodejs/acorn/dist/acorn.js']);
vi.mock('../../../src/lab/xdg.ts', () => ({ exists: (f: string) => Promise.resolve(there.has(f)) }));

describe("files that Debian's Node reads as it starts", () => {
  let dir: string;
  beforeEach(() => {
    dir = mkdtempSync(path.join(tmpdir(), 'ht-node-'));
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  it('are those that it names, once each, where they are there', async () => {
    const library = path.join(dir, 'libnode.so.115');
    const names = [...there, ...there, '/usr/share/nodejs/gone.js', '/usr/share/nodejs/../../../etc/x.js'];
    writeFileSync(library, Buffer.from(`\0ELF\xff\0${names.join('\0')}\0\xfe`, 'latin1'));
    expect(await nodeFiles([library])).toEqual([...there].sort());
  });

  it("are none for upstream's, which has them compiled in", async () => {
    expect(await nodeFiles([process.execPath])).toEqual([]);
  });
});

describe('a Node that compiles its own JavaScript at each start', () => {
  it('is told by how it was built', () => {
    expect([startsSlowly({ node_use_node_snapshot: false }), startsSlowly({})]).toEqual([true, true]);
    expect(startsSlowly({ node_use_node_snapshot: true })).toBe(false);
  });

  it('starts from a state that was made once, and from nothing where there is none', async () => {
    const state = /--snapshot-blob (\S+)/.exec(makeNodeStart(true))![1]!;
    const dir = mkdtempSync(path.join(tmpdir(), 'node-start-'));
    try {
      const here = path.join(dir, 'state');
      const main = path.join(dir, 'main.mjs');
      writeFileSync(main, 'console.log(process.execArgv.length, ...process.argv.slice(2));');
      const script = startNode(process.execPath, main, true).replaceAll(state, here);
      const started = async (): Promise<string> =>
        (await exec('sh', ['-c', script, 'sh', 'a b', 'c'])).stdout.toString();
      expect(await started()).toBe('0 a b c\n');
      await exec('sh', ['-c', makeNodeStart(true).replace(state, here).replace('node', process.execPath)]);
      expect(await started()).toBe('2 a b c\n');
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  it('is no matter of one that does not', () => {
    expect(startNode('/node', '/main.js', false)).toBe('exec /node /main.js "$@"\n');
    expect(makeNodeStart(false)).toBe('node -e 0');
  });
});
