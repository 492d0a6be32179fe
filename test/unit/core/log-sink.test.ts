/** Where a service's log goes: nothing of it stops the service, whatever becomes of the other end. */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  constants,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LogSink } from '../../../src/core/log-sink.ts';
import { waitFor } from '../../../src/core/wait.ts';

let dir: string;
let fds: number[];
let sink: LogSink | undefined;
beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), 'ht-log-'));
  fds = [];
});
afterEach(() => {
  sink?.close();
  sink = undefined;
  fds.forEach((fd) => closeSync(fd));
  rmSync(dir, { recursive: true });
});

const opened = (file: string, flags: number): number => {
  const fd = openSync(file, flags);
  fds.push(fd);
  return fd;
};
const soon = (what: string, holds: () => boolean): Promise<true> =>
  waitFor(what, () => (holds() ? true : undefined), { timeoutMs: 4000, intervalMs: 5 });

/** False when there was no room. */
function writeAll(fd: number, bytes: Buffer): boolean {
  try {
    writeSync(fd, bytes);
    return true;
  } catch {
    return false;
  }
}

describe('a log', () => {
  it('is appended to its file, which is made with its directory', async () => {
    const file = path.join(dir, 'a/b/log');
    sink = new LogSink(file);
    for (let i = 0; i < 1000; i++) sink.write(`line ${i}\n`);
    await soon('the lines', () => readFileSync(file, 'utf8').endsWith('line 999\n'));
    sink.write('the last\n');
    sink.flush();
    expect(readFileSync(file, 'utf8').split('\n')).toHaveLength(1002);
    sink.close();
    sink = new LogSink(file);
    sink.write('more\n');
    sink.flush();
    expect(readFileSync(file, 'utf8')).toMatch(/line 0\n[^]*the last\nmore\n$/);
  });

  it('that cannot be opened is one line with its path', () => {
    mkdirSync(path.join(dir, 'log'));
    expect(() => new LogSink(path.join(dir, 'log'))).toThrow(
      /log: the log cannot be opened: it is a directory/,
    );
  });

  it('that is a pipe without a reader is refused, not waited for', () => {
    const fifo = path.join(dir, 'fifo');
    execFileSync('mkfifo', [fifo]);
    expect(() => new LogSink(fifo)).toThrow(/fifo: the log cannot be opened/);
  });

  it('that is flushed while lines wait for room has these, before what came later', async () => {
    const fifo = path.join(dir, 'fifo');
    execFileSync('mkfifo', [fifo]);
    const reader = opened(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
    const writer = opened(fifo, constants.O_WRONLY | constants.O_NONBLOCK);
    const full = Buffer.alloc(65_536, '.');
    while (writeAll(writer, full));
    sink = new LogSink(writer);
    sink.write('first\n');
    await soon('no room has been found', () => sink?.stalled === true);
    const read = Buffer.alloc(1 << 20);
    readSync(reader, read);
    sink.write('second\n');
    sink.flush();
    const n = readSync(reader, read);
    expect(read.toString('latin1', 0, n)).toMatch(/first\nsecond\n$/);
  });

  it('on a full device loses its lines and says so once; the end of the process does not wait for room', async () => {
    const failures: unknown[] = [];
    sink = new LogSink(opened('/dev/full', constants.O_WRONLY), (e) => failures.push(e));
    sink.write('one\n');
    await soon('the failure', () => failures.length === 1);
    const begin = performance.now();
    for (let i = 0; i < 100; i++) {
      sink.write('more\n');
      sink.flush();
    }
    expect(performance.now() - begin).toBeLessThan(1000);
    expect(failures).toMatchObject([{ code: 'ENOSPC' }]);
  });

  it('whose reader stalls holds a few megabytes, and says afterwards how many lines were lost', async () => {
    const fifo = path.join(dir, 'fifo');
    execFileSync('mkfifo', [fifo]);
    const fd = opened(fifo, constants.O_RDWR | constants.O_NONBLOCK);
    sink = new LogSink(fd);
    const line = `${'x'.repeat(1023)}\n`;
    for (let i = 0; i < 8192; i++) sink.write(line);
    const begin = performance.now();
    sink.flush();
    expect(performance.now() - begin).toBeLessThan(4000);
    let text = '';
    const buffer = Buffer.alloc(1 << 20);
    await soon('what was lost', () => {
      try {
        text += buffer.toString('utf8', 0, readSync(fd, buffer));
      } catch {
        sink?.write('again\n'); // nothing is there: the next line is written
      }
      return text.includes('lines of the log were lost');
    });
    const lost = Number(/"lost":(\d+)/.exec(text)?.[1]);
    expect(lost + (text.match(/^x{1023}$/gm)?.length ?? 0)).toBeGreaterThanOrEqual(8190);
  });
});
