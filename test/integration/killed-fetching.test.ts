/** Killed while apt works for it: nothing of it goes on, so that the next start has apt's locks. */
import { spawn } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { expect, it, vi } from 'vitest';
import { compiledSources } from '../support/compiled.ts';

const alive = (pid: number): boolean => {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'latin1'));
  } catch {
    return false;
  }
};

it.each(['update', 'download'])(
  'apt-get %s ends with the process that asked for it',
  async (what) => {
    const debs = path.join(compiledSources(), 'lab/debs.js');
    const dir = mkdtempSync(path.join(os.tmpdir(), 'ht-apt-'));
    const pidFile = path.join(dir, 'pid');
    try {
      mkdirSync(path.join(dir, 'bin'));
      mkdirSync(path.join(dir, 'cache/apt/cache/archives'), { recursive: true });
      writeFileSync(
        path.join(dir, 'bin/apt-get'),
        `#!/bin/sh\necho $$ >${pidFile}.new && mv ${pidFile}.new ${pidFile}\nexec sleep 120\n`,
      );
      chmodSync(path.join(dir, 'bin/apt-get'), 0o755);
      const call = what === 'update' ? 'update()' : "download([{ name: 'a', version: '1' }], () => {})";
      const script = `import('${debs}').then(({ Apt }) => new Apt('${path.join(dir, 'cache')}').${call})`;
      const node = spawn(process.execPath, ['-e', script], {
        env: { ...process.env, PATH: `${path.join(dir, 'bin')}:${process.env['PATH'] ?? ''}` },
        stdio: 'ignore',
      });
      await vi.waitFor(() => expect(existsSync(pidFile)).toBe(true), 60_000);
      const apt = Number(readFileSync(pidFile, 'utf8'));
      expect(alive(apt)).toBe(true);
      node.kill('SIGKILL');
      try {
        await vi.waitFor(() => expect(alive(apt)).toBe(false), 10_000);
      } finally {
        if (alive(apt)) process.kill(apt, 'SIGKILL');
      }
    } finally {
      rmSync(dir, { recursive: true });
    }
  },
  300_000,
);
