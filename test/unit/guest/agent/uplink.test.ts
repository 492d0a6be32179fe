/** The connection to the host by itself: nobody asks anything, so that only the connection can notice. */
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
import { waitFor } from '../../../../src/core/wait.ts';
import { Uplink } from '../../../../src/guest/agent/uplink.ts';
import { FakeHost } from '../../../support/fake-host.ts';

const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

test('a host that took the port up without its having looked closed is greeted at once, as it says so', async () => {
  const dir = mkdtempSync(path.join(tmpdir(), 'ht-uplink-'));
  const host = new FakeHost(path.join(dir, 'host'));
  // stands between them as QEMU does: the near connection outlives the far one
  let near: net.Socket | undefined;
  let far: net.Socket | undefined;
  const connectFar = (): void => {
    far = net.connect(host.socket);
    far.on('error', () => {});
    far.on('data', (bytes) => near?.write(bytes));
  };
  const relay = net.createServer((socket) => {
    near = socket;
    near.on('error', () => {});
    near.on('data', (bytes) => far?.write(bytes));
  });
  const stop = new AbortController();
  const sessions: string[] = [];
  const uplink = new Uplink({
    port: path.join(dir, 'relay'),
    version: '0.0.0',
    log,
    // no ping finds out in the time of this test
    times: { retryMinMs: 5, retryMaxMs: 20, pingEveryMs: 60_000 },
    onSession: async (_, welcome, signal) => {
      sessions.push(welcome.daemon.instance);
      await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
    },
    onNotify: () => {},
  });
  let running: Promise<void> | undefined;
  try {
    await host.start();
    await new Promise<void>((resolve) => relay.listen(path.join(dir, 'relay'), resolve));
    connectFar();
    running = uplink.run(stop.signal);
    for (let round = 1; round <= 3; round++) {
      const { instance } = host;
      await waitFor(`session ${round}`, () => (sessions.at(-1) === instance ? true : undefined), {
        timeoutMs: 4000,
        intervalMs: 3,
      });
      expect(sessions.length).toBe(round);
      if (round === 3) break;
      await host.restart();
      connectFar();
    }
  } finally {
    stop.abort();
    await running;
    far?.destroy();
    near?.destroy();
    await new Promise((resolve) => relay.close(resolve));
    await host.kill();
    rmSync(dir, { recursive: true, force: true });
  }
});

test('tries at once when there is a sign of a host, however long it would have waited', async () => {
  const dir = mkdtempSync(path.join(tmpdir(), 'ht-uplink-'));
  const host = new FakeHost(path.join(dir, 'host'));
  const stop = new AbortController();
  let sessions = 0;
  const uplink = new Uplink({
    port: host.socket,
    version: '0.0.0',
    log,
    times: { retryMinMs: 60_000, retryMaxMs: 60_000, pingEveryMs: 60_000 },
    onSession: async (_, __, signal) => {
      sessions++;
      await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
    },
    onNotify: () => {},
  });
  const running = uplink.run(stop.signal);
  try {
    await waitFor('the first try', () => uplink.status.state === 'waiting' || undefined, { timeoutMs: 4000 });
    await host.start();
    uplink.hurry();
    await waitFor('a session', () => sessions === 1 || undefined, { timeoutMs: 4000, intervalMs: 3 });
  } finally {
    stop.abort();
    await running;
    await host.kill();
    rmSync(dir, { recursive: true, force: true });
  }
});
