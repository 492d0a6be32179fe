import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { nodeFiles } from '../../../src/lab/node-files.ts';

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
