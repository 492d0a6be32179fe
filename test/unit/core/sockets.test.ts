/** Unix sockets with a name: what stands there is looked at before anything is removed, bound or connected to. */
import { execFileSync, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openFds } from '../../../src/bpf/fds.ts';
import { claimSocket, connectSocket, dial, listenAt } from '../../../src/core/sockets.ts';

let dir: string;
let servers: net.Server[];
beforeEach(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'ht-sockets-'));
  servers = [];
});
afterEach(async () => {
  for (const s of servers) await new Promise((resolve) => s.close(resolve));
  rmSync(dir, { recursive: true });
  expect(openFds()).toEqual([]);
});

const signal = AbortSignal.timeout(30_000);
const spec = { signal, taken: 'somebody else is there' };
const at = (name: string): string => path.join(dir, name);

async function listening(file: string): Promise<net.Server> {
  const server = net.createServer((s) => s.destroy());
  servers.push(server);
  await listenAt(server, file, spec);
  return server;
}

/** A socket file whose process has ended without removing it. */
function abandon(file: string): void {
  const listen = 'net.createServer().listen(process.argv[1], () => process.kill(process.pid, "SIGKILL"))';
  spawnSync(process.execPath, ['-e', listen, file]);
}

const made: readonly (readonly [what: string, make: (file: string) => void])[] = [
  ['a regular file', (f) => writeFileSync(f, 'precious')],
  ['a directory', (f) => mkdirSync(f)],
  ['a named pipe', (f) => execFileSync('mkfifo', [f])],
  ['a symbolic link', (f) => symlinkSync('/not/there', f)],
  ['a symbolic link', (f) => (writeFileSync(at('precious'), ''), symlinkSync(at('precious'), f))],
];

describe('where a socket is to be made', () => {
  it.each(made)('%s stays, and is named', async (what, make) => {
    make(at('s'));
    const before = readdirSync(dir);
    const refusal = expect.stringContaining(
      `${at('s')}: a socket is to be made there, ${what} found`,
    ) as string;
    await expect(listening(at('s'))).rejects.toMatchObject({ code: 'HT_KERNEL', message: refusal });
    await expect(claimSocket(at('s'), spec)).rejects.toMatchObject({ code: 'HT_KERNEL' });
    expect(readdirSync(dir)).toEqual(before);
    if (what === 'a regular file') expect(readFileSync(at('s'), 'utf8')).toBe('precious');
  });

  it('an abandoned socket makes way, one with somebody behind it does not', async () => {
    abandon(at('s'));
    expect(statSync(at('s')).isSocket()).toBe(true);
    await listening(at('s'));
    expect(statSync(at('s')).mode & 0o777).toBe(0o600);
    await expect(listening(at('s'))).rejects.toMatchObject({ code: 'HT_BUSY', message: spec.taken });
    (await connectSocket(at('s'), signal)).destroy();
  });

  it('a directory that takes no socket is an error of the file system', async () => {
    await expect(listening('/proc/none/s')).rejects.toMatchObject({ code: 'HT_KERNEL' });
    await expect(listening(at('s/\0'))).rejects.toMatchObject({ code: 'HT_USAGE' });
  });
});

describe('a path that is too long for a socket', () => {
  const long = (): string => at('x'.repeat(107 - Buffer.byteLength(dir)));

  it('is refused with the limit, by listeners and connects alike, and nothing of a cut-off name is made', async () => {
    const said = { code: 'HT_USAGE', message: expect.stringContaining('at most 107 bytes') as string };
    await expect(listening(long())).rejects.toMatchObject(said);
    await expect(claimSocket(long(), spec)).rejects.toMatchObject(said);
    await expect(connectSocket(long(), signal)).rejects.toMatchObject(said);
    expect(() => dial(long())).toThrow(/at most 107 bytes/);
    expect(readdirSync(dir)).toEqual([]);
  });

  it('is not that with one byte less', async () => {
    await listening(long().slice(0, -1));
    const socket = dial(long().slice(0, -1));
    await once(socket, 'connect');
    socket.destroy();
  });

  it('nothing in src/ connects or listens by itself', () => {
    const src = path.resolve(import.meta.dirname, '../../../src');
    const own = readdirSync(src, { recursive: true, encoding: 'utf8' })
      .filter((f) => f.endsWith('.ts') && f !== 'core/sockets.ts')
      .filter((f) =>
        /net\.(connect|createConnection)\((?!\{ host)/.test(readFileSync(path.join(src, f), 'utf8')),
      );
    expect(own).toEqual([]);
  });
});

describe('connecting', () => {
  it.each(made.filter(([what]) => !what.includes('link')))('to %s says so', async (what, make) => {
    make(at('s'));
    await expect(connectSocket(at('s'), signal)).rejects.toMatchObject({
      code: 'HT_CHANNEL',
      message: `${at('s')}: a socket expected, ${what} found`,
    });
  });

  it('to nothing says so', async () => {
    await expect(connectSocket(at('s'), signal)).rejects.toMatchObject({ code: 'HT_NOT_FOUND' });
  });

  it('is given up with the signal', async () => {
    const stop = new AbortController();
    stop.abort(new Error('enough'));
    await expect(connectSocket(at('s'), stop.signal)).rejects.toThrow('enough');
  });
});
