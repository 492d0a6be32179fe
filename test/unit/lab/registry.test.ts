import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { identify, isRunning, killProcess } from '../../../src/core/process.ts';
import type { ProcessId } from '../../../src/core/process.ts';
import {
  checkLabName,
  claimLab,
  cleanDeadLabs,
  labsRoot,
  listRecords,
  readRecord,
  removeLab,
  saveRecord,
} from '../../../src/lab/registry.ts';
import { withFileLock } from '../../../src/core/file-lock.ts';

let state: string;
const children: ChildProcess[] = [];

beforeEach(() => {
  state = mkdtempSync(path.join(os.tmpdir(), 'ht-s-'));
  vi.stubEnv('XDG_STATE_HOME', state);
});

afterEach(() => {
  vi.unstubAllEnvs();
  for (const c of children.splice(0)) c.kill('SIGKILL');
  rmSync(state, { recursive: true });
});

function sleeper(): ProcessId {
  const child = spawn('sleep', ['60']);
  children.push(child);
  return identify(child.pid!)!;
}

async function deadProcess(): Promise<ProcessId> {
  const id = sleeper();
  const child = children.at(-1)!;
  child.kill('SIGKILL');
  await once(child, 'exit');
  return id;
}

describe('a lab in the registry', () => {
  it('is claimed by one only', async () => {
    await claimLab('a', 'detached', '6.1');
    await expect(claimLab('a', 'detached', '6.1')).rejects.toMatchObject({
      code: 'HT_BUSY',
      message:
        "lab 'a' is already up: use it, end it with 'hyperturtle lab down --name a', or choose another --name",
    });
    expect((await listRecords()).map((r) => r.name)).toEqual(['a']);
  });

  it('is claimed by one only when several try at the same moment', async () => {
    const results = await Promise.allSettled(['1', '2', '3'].map((k) => claimLab('a', 'owner', k)));
    expect(results.filter((r) => r.status === 'fulfilled')).toHaveLength(1);
  });

  it('stays while the one that starts it lives', async () => {
    await claimLab('a', 'detached', '6.1');
    expect(await cleanDeadLabs()).toEqual([]);
  });

  it('is removed when the one that started it died on the way', async () => {
    const record = await claimLab('a', 'detached', '6.1');
    const qemu = sleeper();
    await saveRecord({ ...record, owner: await deadProcess(), qemu });
    expect(await cleanDeadLabs()).toEqual(['a']);
    expect([existsSync(record.dir), isRunning(qemu)]).toEqual([false, false]);
  });

  it('outlives its starter when detached and up, and ends with it otherwise', async () => {
    const detached = await claimLab('a', 'detached', '6.1');
    const owned = await claimLab('b', 'owner', '6.1');
    const qemuA = sleeper();
    const qemuB = sleeper();
    const owner = await deadProcess();
    await saveRecord({ ...detached, state: 'up', owner, qemu: qemuA });
    await saveRecord({ ...owned, state: 'up', owner, qemu: qemuB });
    expect(await cleanDeadLabs()).toEqual(['b']);
    expect([isRunning(qemuA), isRunning(qemuB)]).toEqual([true, false]);
  });

  it('is removed when its QEMU is gone', async () => {
    const record = await claimLab('a', 'detached', '6.1');
    await saveRecord({ ...record, state: 'up', qemu: await deadProcess() });
    expect(await cleanDeadLabs()).toEqual(['a']);
    expect(await readRecord('a')).toBeUndefined();
  });

  it('is removed whole while somebody still makes locks in it, as what an interrupted command undoes does', async () => {
    for (let i = 0; i < 20; i++) {
      const record = await claimLab('a', 'owner', '6.1');
      for (let n = 0; n < 20; n++) writeFileSync(path.join(record.dir, `file${n}`), '');
      let over = false;
      const locking = (async () => {
        while (!over)
          await withFileLock(path.join(record.dir, 'l0.lock'), { timeoutMs: 1000 }, () =>
            Promise.resolve(),
          ).catch(() => {});
      })();
      await new Promise((r) => setTimeout(r, 2));
      await removeLab(record);
      over = true;
      await locking;
      expect(readdirSync(labsRoot())).toEqual([]);
    }
  });

  it('that somebody began to remove is removed by the next start', async () => {
    const { pid } = await deadProcess();
    for (const name of ['run-1-0', `b.gone-${pid}`, `c.new-${pid}`])
      mkdirSync(path.join(labsRoot(), name), { recursive: true });
    await claimLab('a', 'owner', '6.1');
    await cleanDeadLabs();
    expect(readdirSync(labsRoot())).toEqual(['a']);
  });

  it('has a name that is safe as a directory and short enough for sockets', () => {
    expect(checkLabName('my-lab-2')).toBe('my-lab-2');
    for (const bad of ['', '../x', 'A', 'x'.repeat(25), '-x'])
      expect(() => checkLabName(bad)).toThrow(/lab name/);
  });
});

describe('labsRoot', () => {
  it('is below XDG_STATE_HOME', () => {
    expect(labsRoot({ XDG_STATE_HOME: '/s' })).toBe('/s/hyperturtle/labs');
  });

  it('moves to the temporary directory when sockets would have too long names, one for each state directory', () => {
    const a = labsRoot({ XDG_STATE_HOME: `/${'a'.repeat(80)}` });
    const b = labsRoot({ XDG_STATE_HOME: `/${'b'.repeat(80)}` });
    expect(a.startsWith(os.tmpdir())).toBe(true);
    expect(a).not.toBe(b);
  });
});

describe('killProcess', () => {
  it('never kills another process that was given the same pid', async () => {
    const id = sleeper();
    await killProcess({ ...id, startTicks: '1' });
    expect(isRunning(id)).toBe(true);
    await killProcess(id);
    expect(isRunning(id)).toBe(false);
  });
});
