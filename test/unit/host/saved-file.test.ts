/** The file of a saved VM: whole or not there, and known by its content. */
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { SavedFile, checkSaved, readSaved, savedState, startAgain } from '../../../src/host/saved-file.ts';

const COMMAND = ['qemu-system-x86_64', '-m', '1G'];
const STATE = Buffer.from('state of a machine '.repeat(10_000));

describe('the file of a saved VM', () => {
  let dir: string;
  let file: string;
  beforeEach(() => {
    dir = mkdtempSync(path.join(os.tmpdir(), 'ht-saved-'));
    file = path.join(dir, 'vm');
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  const save = async (chunks: readonly Buffer[]): Promise<void> => {
    const saved = await SavedFile.create(file);
    try {
      await saved.take(Readable.from(chunks), { vm: 'build1', command: COMMAND });
      await saved.keep();
    } finally {
      await saved.discard();
    }
  };

  it('gives back what was saved', async () => {
    await save([STATE.subarray(0, 70_000), STATE.subarray(70_000)]);
    expect(readdirSync(dir)).toEqual(['vm']);
    const head = await readSaved(file);
    expect(head).toMatchObject({ vm: 'build1', command: COMMAND, bytes: STATE.length });
    await checkSaved(file, head);
    const parts: Buffer[] = [];
    for await (const part of savedState(file)) parts.push(part);
    expect(Buffer.concat(parts).equals(STATE)).toBe(true);
  });

  it('has no name before it is whole, and leaves nothing when it is not', async () => {
    const saved = await SavedFile.create(file);
    await saved.take(Readable.from([STATE]), { vm: 'build1', command: COMMAND });
    expect(existsSync(file)).toBe(false);
    await saved.discard();
    expect(readdirSync(dir)).toEqual([]);
    await expect(save([])).rejects.toMatchObject({ code: 'HT_INTEGRITY' });
    expect(readdirSync(dir)).toEqual([]);
  });

  it('is never written over another one', async () => {
    await save([STATE]);
    await expect(SavedFile.create(file)).rejects.toMatchObject({ code: 'HT_EXISTS' });
    await expect(SavedFile.create(path.join(dir, 'no', 'such'))).rejects.toThrow(/cannot be made/);
    await expect(readSaved(path.join(dir, 'none'))).rejects.toMatchObject({ code: 'HT_NOT_FOUND' });
  });

  it.each<[string, (bytes: Buffer) => Buffer]>([
    ['a bit is another', (b) => Buffer.concat([b.subarray(0, -1), Buffer.from([b.at(-1)! ^ 4])])],
    ['it ends too soon', (b) => b.subarray(0, -1)],
    ['something follows', (b) => Buffer.concat([b, b.subarray(0, 1)])],
    ['it is another file', () => Buffer.from('QEVM')],
    ['its head is cut', (b) => b.subarray(0, 40)],
    ['it is empty', () => Buffer.alloc(0)],
  ])('is refused when %s', async (_, change) => {
    await save([STATE]);
    writeFileSync(file, change(readFileSync(file)));
    await expect(readSaved(file).then((head) => checkSaved(file, head))).rejects.toMatchObject({
      code: 'HT_INTEGRITY',
      message: expect.stringContaining(file) as string,
    });
  });
});

it('what to start again is the same QEMU without the arena, which waits', () => {
  const arena = [
    ...['-object', 'memory-backend-file,id=hyperturtle-memory,mem-path=/run/x,size=16M,share=on'],
    ...['-device', 'pcie-root-port,id=hyperturtle-port,chassis=250'],
    ...['-device', 'ivshmem-plain,id=hyperturtle-arena,memdev=hyperturtle-memory,bus=hyperturtle-port'],
  ];
  const json = ['-device', '{"driver":"ivshmem-plain","id":"hyperturtle-arena"}'];
  const other = ['-object', 'memory-backend-file,id=ram,mem-path=/hyperturtle-memory'];
  expect(startAgain([...COMMAND, ...arena, ...json, ...other, '-incoming', 'tcp:0:1'])).toEqual([
    ...COMMAND,
    ...['-device', 'pcie-root-port,id=hyperturtle-port,chassis=250'],
    ...other,
    ...['-incoming', 'defer'],
  ]);
});
