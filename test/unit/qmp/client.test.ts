import { afterEach, describe, expect, it } from 'vitest';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { QmpClient } from '../../../src/qmp/client.ts';

const GREETING = { QMP: { version: { qemu: { major: 7, minor: 2, micro: 22 } }, capabilities: [] } };
const undo: (() => void)[] = [];
afterEach(() => {
  for (const u of undo.splice(0).reverse()) u();
});

/** A QEMU that answers each command by `answer` (undefined: never). */
async function fakeQemu(
  answer: (command: string, args: unknown, send: (m: unknown) => void) => unknown,
  greeting: unknown = GREETING,
): Promise<{ socketPath: string; dropClients: () => void }> {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'ht-qmp-'));
  const socketPath = path.join(dir, 'qmp');
  const clients = new Set<net.Socket>();
  const server = net.createServer((socket) => {
    clients.add(socket);
    const send = (m: unknown): void => void socket.write(`${JSON.stringify(m)}\n`);
    if (greeting !== null) send(greeting);
    let text = '';
    socket.on('error', () => {});
    socket.on('data', (d) => {
      text += d.toString();
      const lines = text.split('\n');
      text = lines.pop() ?? '';
      for (const line of lines) {
        const m = JSON.parse(line) as { execute: string; arguments: unknown; id: string };
        const r = m.execute === 'qmp_capabilities' ? { return: {} } : answer(m.execute, m.arguments, send);
        if (r !== undefined) send({ ...(r as object), id: m.id });
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  const dropClients = (): void => clients.forEach((c) => c.destroy());
  undo.push(
    () => rmSync(dir, { recursive: true }),
    dropClients,
    () => void server.close(),
  );
  return { socketPath, dropClients };
}

async function connect(socketPath: string): Promise<QmpClient> {
  const q = await QmpClient.connect(socketPath, { timeoutMs: 2000 });
  undo.push(() => q.close());
  return q;
}

describe('QmpClient', () => {
  it('negotiates and reads the version from the greeting', async () => {
    const { socketPath } = await fakeQemu(() => ({ return: {} }));
    expect((await connect(socketPath)).version).toBe('7.2.22');
  });

  it('gives each of several requests in flight its own answer', async () => {
    const { socketPath } = await fakeQemu((command, args) => ({ return: { command, args } }));
    const q = await connect(socketPath);
    const answers = await Promise.all([q.execute('a', { n: 1 }), q.execute('b', { n: 2 })]);
    expect(answers).toEqual([
      { command: 'a', args: { n: 1 } },
      { command: 'b', args: { n: 2 } },
    ]);
  });

  it("says what QEMU refused and why, as HT_QMP with QEMU's class", async () => {
    const { socketPath } = await fakeQemu(() => ({ error: { class: 'DeviceNotFound', desc: 'no nic9' } }));
    const q = await connect(socketPath);
    await expect(q.execute('device_del', { id: 'nic9' })).rejects.toMatchObject({
      code: 'HT_QMP',
      message: 'QEMU refused device_del: no nic9',
      detail: { class: 'DeviceNotFound' },
    });
  });

  it('ends a request at its deadline and still answers the next one', async () => {
    const { socketPath } = await fakeQemu((c) => (c === 'slow' ? undefined : { return: 'fast' }));
    const q = await connect(socketPath);
    await expect(q.execute('slow', {}, { timeoutMs: 30 })).rejects.toMatchObject({ code: 'HT_TIMEOUT' });
    expect(await q.execute('quick')).toBe('fast');
  });

  it('ends a request when its signal aborts', async () => {
    const { socketPath } = await fakeQemu(() => undefined);
    const q = await connect(socketPath);
    const abort = new AbortController();
    const r = q.execute('slow', {}, { signal: abort.signal });
    abort.abort(new Error('enough'));
    await expect(r).rejects.toThrow('enough');
  });

  it('waits for the event that was asked for and passes over others', async () => {
    const { socketPath } = await fakeQemu((_c, _a, send) => {
      send({ event: 'DEVICE_DELETED', data: { device: 'other' } });
      send({ event: 'DEVICE_DELETED', data: { device: 'arena' } });
      return { return: {} };
    });
    const q = await connect(socketPath);
    const gone = q.waitEvent('DEVICE_DELETED', (d) => d['device'] === 'arena', { timeoutMs: 1000 });
    await q.execute('device_del', { id: 'arena' });
    expect((await gone).data).toEqual({ device: 'arena' });
  });

  it('fails what is in flight when QEMU goes away', async () => {
    const { socketPath, dropClients } = await fakeQemu(() => undefined);
    const q = await connect(socketPath);
    const r = q.execute('query-status');
    dropClients();
    await expect(r).rejects.toMatchObject({ code: 'HT_QMP' });
    await expect(q.execute('query-status')).rejects.toMatchObject({ code: 'HT_QMP' });
  });

  it('says that nobody listens when there is no socket', async () => {
    await expect(QmpClient.connect('/nonexistent/qmp')).rejects.toMatchObject({
      code: 'HT_QMP',
      message: 'QMP /nonexistent/qmp: no QEMU listens there: is the machine running?',
    });
  });

  it('does not wait forever for a greeting that another client is keeping', async () => {
    const { socketPath } = await fakeQemu(() => undefined, null);
    await expect(QmpClient.connect(socketPath, { timeoutMs: 30 })).rejects.toMatchObject({
      code: 'HT_TIMEOUT',
    });
  });
});
