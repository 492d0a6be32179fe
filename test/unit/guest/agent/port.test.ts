import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { once } from 'node:events';
import type { Readable } from 'node:stream';
import { openFds } from '../../../../src/bpf/fds.ts';
import { pidfdGetfd, pidfdOpen } from '../../../../src/bpf/sys.ts';
import { isHyperturtleError } from '../../../../src/core/errors.ts';
import { withDeadline } from '../../../../src/core/wait.ts';
import { PortStream, findChannel, openChannel } from '../../../../src/guest/agent/port.ts';

let dir: string;
let server: net.Server;
let far: net.Socket;
let port: PortStream;

/** A non-blocking descriptor with somebody at its other end, as a virtio-serial port has: one end of a socket. */
beforeEach(async () => {
  dir = mkdtempSync(path.join(tmpdir(), 'ht-port-'));
  const file = path.join(dir, 's');
  server = net.createServer();
  const accepted = new Promise<net.Socket>((resolve) => server.once('connection', resolve));
  await new Promise<void>((resolve) => server.listen(file, resolve));
  const near = net.connect(file);
  far = await accepted;
  await once(near, 'ready');
  const { fd } = (near as unknown as { _handle: { fd: number } })._handle;
  const self = pidfdOpen(process.pid);
  port = new PortStream(pidfdGetfd(self, fd, 'port under test'));
  self.close();
  near.destroy(); // the copy keeps the connection
});

afterEach(async () => {
  port.destroy();
  far.destroy();
  await new Promise((resolve) => server.close(resolve));
  rmSync(dir, { recursive: true, force: true });
  expect(openFds()).toEqual([]);
});

const soon = <T>(what: string, p: Promise<T>): Promise<T> => withDeadline(what, p, 5000);

/** The first `bytes` bytes; the stream stays open. */
function take(stream: Readable, bytes: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const parts: Buffer[] = [];
    let n = 0;
    stream.once('error', reject);
    stream.on('data', (part: Buffer) => {
      parts.push(part);
      n += part.length;
      if (n >= bytes) resolve(Buffer.concat(parts));
    });
  });
}

describe('a port', () => {
  test('carries megabytes both ways at once, whole and in order', async () => {
    const big = Buffer.alloc(3 << 20, 0).map((_, i) => (i * 31) & 0xff);
    const received = soon('what the port sent', take(far, big.length));
    const answered = soon('what the far end sent', take(port, big.length));
    port.write(big);
    far.write(big);
    expect((await received).equals(big)).toBe(true);
    expect((await answered).equals(big)).toBe(true);
  });

  test('waits for a far end that does not read, without spinning', async () => {
    const big = Buffer.alloc(8 << 20, 1);
    let written = false;
    port.write(big, () => (written = true));
    const cpu = process.cpuUsage();
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(written).toBe(false);
    // a busy loop would take all 300,000 microseconds
    expect(process.cpuUsage(cpu).user).toBeLessThan(150_000);
    await soon('the rest', take(far, big.length));
  });

  test('is destroyed when the far end closes, and says so', async () => {
    port.resume();
    const failed = once(port, 'error') as Promise<[Error]>;
    far.end();
    const [e] = await soon('the end', failed);
    expect(isHyperturtleError(e, 'HT_CHANNEL')).toBe(true);
    expect(port.destroyed).toBe(true);
  });

  test('is destroyed when the far end closes while a write waits and nobody reads', async () => {
    const failed = once(port, 'error') as Promise<[Error]>;
    let told: Error | null | undefined;
    port.write(Buffer.alloc(8 << 20, 1), (e) => (told = e));
    far.destroy();
    await soon('the end', failed);
    await new Promise((resolve) => setImmediate(resolve));
    expect(told).toBeInstanceOf(Error);
  });

  test('does not read ahead of a consumer that has paused', async () => {
    port.once('data', () => port.pause());
    let sent = 0;
    const chunk = Buffer.alloc(256 << 10);
    while (sent < 64 && far.write(chunk)) sent++;
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(port.readableLength).toBeLessThanOrEqual(256 << 10);
  });
});

describe('finding the channel', () => {
  test('a port that no udev has linked is found by its name in sysfs', () => {
    const sys = path.join(dir, 'sys');
    mkdirSync(path.join(sys, 'vport2p1'), { recursive: true });
    writeFileSync(path.join(sys, 'vport2p1/name'), 'org.hyperturtle.v1\n');
    expect(findChannel('/dev/virtio-ports/org.hyperturtle.v1', sys)).toEqual({
      path: '/dev/vport2p1',
      kind: 'port',
    });
    expect(findChannel('/dev/virtio-ports/org.other', sys)).toBeUndefined();
  });

  test('a path that is not there says who provides it', async () => {
    const signal = AbortSignal.timeout(5000);
    await expect(openChannel(path.join(dir, 'none'), signal)).rejects.toMatchObject({ code: 'HT_NOT_FOUND' });
    writeFileSync(path.join(dir, 'plain'), '');
    await expect(openChannel(path.join(dir, 'plain'), signal)).rejects.toMatchObject({ code: 'HT_CHANNEL' });
  });
});
