/** What we make of QEMU's words about a migration: it has gone, or the VM goes on here, or nobody knows. */
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { QmpClient } from '../../../src/qmp/client.ts';
import { checkUri, isUncertain, migrate } from '../../../src/qmp/migration.ts';
import type { MigrationState } from '../../../src/qmp/migration.ts';
import { fakeQmp } from '../../support/fake-qmp.ts';
import type { FakeQmp } from '../../support/fake-qmp.ts';

const SPEC = { uri: 'unix:/run/there', answered: true, timeoutMs: 5000 };
const never = (): AbortSignal => new AbortController().signal;

describe('a migration', () => {
  let dir: string;
  let fake: FakeQmp;
  let qmp: QmpClient;
  let runs: string;
  let status: string;
  /** Called for each look at it. */
  let look: (n: number) => void;

  beforeEach(async () => {
    dir = mkdtempSync(path.join(os.tmpdir(), 'ht-migration-'));
    [runs, status, look] = ['running', 'none', () => {}];
    let looks = 0;
    fake = await fakeQmp(path.join(dir, 'qmp'), ({ execute }) => {
      switch (execute) {
        case 'query-status':
          return { result: { status: runs } };
        case 'migrate':
          status = 'active';
          return undefined;
        case 'query-migrate':
          if (status === 'active') look(++looks);
          return {
            result: {
              status,
              ...(status === 'failed' ? { 'error-desc': 'Unable to write to socket' } : {}),
              ...(status === 'completed' ? { downtime: 12, 'total-time': 900 } : {}),
              ram: { remaining: 3 << 20, total: 64 << 20, transferred: 61 << 20 },
            },
          };
        case 'migrate_cancel':
          if (status === 'active') status = 'cancelled';
          return undefined;
        case 'cont':
          runs = 'running';
          return undefined;
        default:
          return undefined;
      }
    });
    qmp = await QmpClient.connect(path.join(dir, 'qmp'));
  });
  afterEach(async () => {
    qmp.close();
    await fake.close();
    rmSync(dir, { recursive: true });
  });
  const asked = (): string[] => fake.calls.map((c) => c.execute);

  it('says how far it is and how it ended, and asks for the answer of the other end', async () => {
    look = (n) => {
      if (n === 2) [status, runs] = ['completed', 'postmigrate'];
    };
    const seen: MigrationState[] = [];
    const spec = { ...SPEC, downtimeMs: 50, mibPerS: 100 };
    const end = await migrate(qmp, spec, { signal: never(), onProgress: (s) => seen.push(s) });
    expect(end).toMatchObject({ status: 'completed', downtimeMs: 12, totalMs: 900, sentMib: 61 });
    expect(seen[0]).toMatchObject({ status: 'active', leftMib: 3, totalMib: 64, downtimeMs: null });
    const of = (command: string): unknown => fake.calls.find((c) => c.execute === command)?.arguments;
    expect(of('migrate-set-capabilities')).toEqual({
      capabilities: [{ capability: 'return-path', state: true }],
    });
    expect(of('migrate-set-parameters')).toEqual({ 'downtime-limit': 50, 'max-bandwidth': 100 << 20 });
    expect(asked()).not.toContain('cont');
  });

  it("throws QEMU's reason when it fails, and has a VM go on that QEMU left stopped", async () => {
    look = () => ([status, runs] = ['failed', 'finish-migrate']);
    await expect(migrate(qmp, SPEC, { signal: never(), onProgress: () => {} })).rejects.toThrow(
      /failed: Unable to write to socket/,
    );
    expect(asked()).toContain('cont');
    expect(runs).toBe('running');
  });

  it('leaves a VM stopped that was paused before', async () => {
    runs = 'paused';
    look = () => (status = 'failed');
    await expect(migrate(qmp, SPEC, { signal: never(), onProgress: () => {} })).rejects.toThrow(/failed/);
    expect(asked()).not.toContain('cont');
  });

  it.each(['deadline', 'signal'])('is given up at its %s', async (what) => {
    const stop = new AbortController();
    if (what === 'signal') look = () => stop.abort(new Error('enough'));
    const spec = what === 'deadline' ? { ...SPEC, timeoutMs: 1 } : SPEC;
    await expect(migrate(qmp, spec, { signal: stop.signal, onProgress: () => {} })).rejects.toThrow(
      what === 'deadline' ? /3 of 64 MiB are left/ : /enough/,
    );
    expect([status, runs]).toEqual(['cancelled', 'running']);
  });

  it('counts as done when it was too late to give it up', async () => {
    const stop = new AbortController();
    look = () => {
      stop.abort(new Error('enough'));
      [status, runs] = ['completed', 'postmigrate'];
    };
    // it says active once more
    const end = await migrate(qmp, SPEC, {
      signal: stop.signal,
      onProgress: () => {},
    });
    expect(end.status).toBe('completed');
  });

  it('is not certain when the connection breaks on the way', async () => {
    look = () => qmp.close();
    const e: unknown = await migrate(qmp, SPEC, { signal: never(), onProgress: () => {} }).catch(
      (x: unknown) => x,
    );
    expect(isUncertain(e)).toBe(true);
  });

  it.each(['inmigrate', 'postmigrate'])('is not begun of a VM that is %s', async (state) => {
    runs = state;
    await expect(migrate(qmp, SPEC, { signal: never(), onProgress: () => {} })).rejects.toThrow(
      /runs or is paused/,
    );
    expect(asked()).not.toContain('migrate');
  });
});

it('places to send a VM to are sockets, and never a shell', () => {
  for (const good of [
    'tcp:host-2.example:4444',
    'tcp:192.0.2.1:4444',
    'tcp:[2001:db8::1]:4444',
    'unix:/run/x',
  ])
    expect(checkUri(good)).toBe(good);
  for (const bad of [
    'exec:nc host 1',
    'fd:3',
    'file:/tmp/x',
    'unix:x',
    'tcp:host',
    'tcp::1',
    'tcp:a b:1',
    '',
  ])
    expect(() => checkUri(bad)).toThrow(/tcp:HOST:PORT or unix:\/PATH/);
});
