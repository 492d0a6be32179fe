/** Two agents on one machine. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chownSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Agent } from '../../../../src/guest/agent/agent.ts';
import { holdPort, holdState, portName } from '../../../../src/guest/agent/alone.ts';
import { AgentConfig } from '../../../../src/guest/agent/config.ts';

let dir: string;
beforeEach(() => (dir = mkdtempSync(path.join(os.tmpdir(), 'ht-alone-'))));
afterEach(() => rmSync(dir, { recursive: true, force: true }));
const never = new AbortController().signal;
const log = { info: () => {}, warn: () => {}, error: () => {}, debug: () => {}, trace: () => {} };

const listening = async (name: string): Promise<net.Server> => {
  const server = net.createServer().listen(`\0${name}`);
  await once(server, 'listening');
  return server;
};

describe('a second agent with a socket of its own', () => {
  it('is refused while the state directory is another’s, and starts when that one has stopped', async () => {
    const start = (socket: string): Promise<Agent> =>
      Agent.start({
        config: AgentConfig().parse({
          state: path.join(dir, 'state'),
          socket: path.join(dir, socket),
          port: path.join(dir, 'none'),
        }),
        version: '0',
        log: log,
        module: false,
      });
    const first = await start('a.sock');
    await expect(start('b.sock')).rejects.toMatchObject({
      code: 'HT_BUSY',
      message: expect.stringMatching(/state: another agent keeps its state there: stop it first/) as string,
    });
    await first.stop();
    await (await start('b.sock')).stop();
  });

  it('is refused while the port is another’s, naming its process', async () => {
    mkdirSync(path.join(dir, '4711/fd'), { recursive: true });
    symlinkSync('/dev/null', path.join(dir, '4711/fd/7'));
    symlinkSync('/dev/null', path.join(dir, 'port'));
    await expect(holdPort(path.join(dir, 'port'), dir)).rejects.toThrow(
      /port: process 4711 has it open, and only one agent may: stop that one first/,
    );
    for (const free of ['/dev/zero', '/dev/not-there']) await (await holdPort(free, dir)).release();
  });

  it.each([
    ['a directory', () => dir],
    ['a regular file', () => path.join(dir, 'file')],
  ])('is refused where the port is %s', async (what, port) => {
    writeFileSync(path.join(dir, 'file'), '');
    await expect(holdPort(port())).rejects.toMatchObject({
      code: 'HT_KERNEL',
      message: expect.stringContaining(`a unix socket expected, ${what} found`) as string,
    });
  });

  it('is refused while the port is another’s that is a unix socket, or not there yet, by whichever of its names', async () => {
    const port = path.join(dir, 'port.sock');
    const before = await holdPort(port);
    await expect(holdPort(port)).rejects.toMatchObject({ code: 'HT_BUSY' });
    const name = portName(port);
    await before.release();
    const server = net.createServer().listen(port);
    await once(server, 'listening');
    symlinkSync(port, path.join(dir, 'other-name'));
    const child = spawn(process.execPath, [
      '-e',
      `require('net').createServer().listen('\\0${name}', () => console.log('held'))`,
    ]);
    try {
      await once(child.stdout, 'data');
      await expect(holdPort(path.join(dir, 'other-name'))).rejects.toMatchObject({
        code: 'HT_BUSY',
        message: expect.stringContaining(
          `other-name: process ${child.pid} has it open, and only one agent may`,
        ) as string,
      });
    } finally {
      child.kill('SIGKILL');
      await once(child, 'close');
      server.close();
    }
    await (await holdPort(port)).release();
  });

  it.skipIf(process.getuid?.() !== 0)(
    'is not stopped by a socket in flight, nor by a longer name, and is by any process of root’s',
    async () => {
      const port = path.join(dir, 'port.sock');
      const longer = await listening(`${portName(port)}x`);
      const name = await listening(portName(port));
      const inode = readFileSync('/proc/net/unix', 'latin1')
        .split('\n')
        .find((l) => new RegExp(`@${portName(port)}@*$`).test(l))
        ?.split(/\s+/)[6];
      mkdirSync(path.join(dir, 'net'));
      writeFileSync(path.join(dir, 'net/unix'), readFileSync('/proc/net/unix'));
      // in flight: no process has it
      await (await holdPort(port, dir)).release();
      mkdirSync(path.join(dir, '4711/fd'), { recursive: true });
      symlinkSync(`socket:[${inode}]`, path.join(dir, '4711/fd/7'));
      await expect(holdPort(port, dir)).rejects.toThrow(/process 4711 has it open/);
      for (const server of [longer, name]) server.close();
    },
  );

  it('keeps nothing of its own beside a port, and is not stopped by a user without rights', async () => {
    const port = path.join(dir, 'port.sock');
    const held = await holdPort(port);
    expect(readdirSync(dir)).toEqual([]);
    const inode = readFileSync('/proc/net/unix', 'latin1')
      .split('\n')
      .find((l) => l.includes(portName(port)))
      ?.split(/\s+/)[6];
    // /proc as it is when process 4711 of another user has that socket
    mkdirSync(path.join(dir, 'net'));
    writeFileSync(path.join(dir, 'net/unix'), readFileSync('/proc/net/unix'));
    mkdirSync(path.join(dir, '4711/fd'), { recursive: true });
    symlinkSync(`socket:[${inode}]`, path.join(dir, '4711/fd/7'));
    await expect(holdPort(port, dir)).rejects.toThrow(/process 4711 has it open/);
    if (process.getuid?.() === 0) {
      chownSync(path.join(dir, '4711'), 65534, 65534);
      await (await holdPort(port, dir)).release();
    }
    await held.release();
  });

  it('is refused where its lock cannot have the name that it needs', async () => {
    const long = path.join(dir, 'd'.repeat(120));
    await expect(holdState(long, never)).rejects.toMatchObject({
      code: 'HT_USAGE',
      message: expect.stringMatching(/agent\.lock: at most 107 bytes for a socket expected/) as string,
    });
    expect(readdirSync(dir)).toEqual([]);
  });

  it('is not refused by what a killed agent left', async () => {
    const held = await holdState(dir, never);
    await held.release();
    await (await holdState(dir, never)).release();
  });
});
