import { afterEach, describe, expect, it } from 'vitest';
import { execFileSync } from 'node:child_process';
import { constants, mkdtempSync, openSync, rmSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { sleep } from '../../../src/core/wait.ts';
import { Channel } from '../../../src/lab/channel.ts';
import { L2Level } from '../../../src/lab/levels-l2.ts';

const undo: (() => void)[] = [];
afterEach(async () => {
  await sleep(40); // the channel's turn ends by itself
  for (const u of undo.splice(0)) u();
});

/** An L2's shell behind two pipes, which says `before` first and answers each command by `answer`. */
function fakeL2(before: string, answer: (command: string) => string): L2Level {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'ht-l2-'));
  const base = path.join(dir, 'l2.0');
  execFileSync('mkfifo', [`${base}.in`, `${base}.out`]);
  const open = (f: string): number => openSync(f, constants.O_RDWR | constants.O_NONBLOCK);
  const input = new net.Socket({ fd: open(`${base}.in`), readable: true, writable: false });
  const output = new net.Socket({ fd: open(`${base}.out`), readable: false, writable: true });
  undo.push(() => {
    input.destroy();
    output.destroy();
    rmSync(dir, { recursive: true, force: true });
  });
  output.write(before);
  input.setEncoding('utf8').on('data', (line: string) => {
    const m = /^run (\w+) (.*)\n$/.exec(line);
    if (m) output.write(answer(m[2]!).replaceAll('ID', m[1]!));
  });
  return new L2Level('L2.0', new Channel(base, 'L2.0'));
}

describe('L2Level.exec', () => {
  it('gives output and status', async () => {
    const l2 = fakeL2('', () => 'one\ntwo\n### done ID 5\n');
    const r = await l2.exec(['x']);
    expect([r.status, r.stdout.toString()]).toEqual([5, 'one\ntwo\n']);
  });

  it('passes each argument and variable through the shell as it is', async () => {
    let seen = '';
    const l2 = fakeL2('', (command) => ((seen = command), '### done ID 0\n'));
    await l2.exec(['echo', "it's", '$HOME'], { env: { A: 'b c' } });
    expect(seen).toBe("A='b c' echo 'it'\\''s' '$HOME'");
  });

  it('passes over what the pipe still held of others', async () => {
    const l2 = fakeL2('old\n### done 0123456789ab 0\n### L2 up 3.21\n', () => 'mine\n### done ID 0\n');
    expect((await l2.exec(['x'])).stdout.toString()).toBe('mine\n');
  });

  it('ends at its deadline when no L2 is there', async () => {
    const l2 = fakeL2('', () => '');
    await expect(l2.exec(['x'], { timeoutMs: 30 })).rejects.toMatchObject({ code: 'HT_TIMEOUT' });
  });
});
