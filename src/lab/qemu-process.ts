/**
 * Starts the outer QEMU so that it ends when it should: with this process, however that ends (a parent-death
 * signal, set by setpriv), or on its own when the lab is to stay.
 */
import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { HyperturtleError, errnoCode } from '../core/errors.ts';
import { waitFor } from '../core/wait.ts';
import { QmpClient } from '../qmp/client.ts';
import type { ToolProgram } from './artifacts.ts';
import { identify, isRunning, killProcess } from './process.ts';
import type { ProcessId } from './process.ts';

export interface QemuStart {
  program: ToolProgram;
  args: readonly string[];
  /** Its own messages. */
  logPath: string;
  qmpSocket: string;
  lifetime: 'owner' | 'detached';
  signal?: AbortSignal | undefined;
}

export interface QemuProcess {
  id: ProcessId;
  /** Throws when it has ended. */
  check(): void;
  qmp(): Promise<QmpClient>;
  /** Ends it: by QMP, or for certain. */
  end(): Promise<void>;
}

export async function startQemu(s: QemuStart): Promise<QemuProcess> {
  // env(1) sets the program's environment only after setpriv, a program of the host, has been loaded
  const env = Object.entries(s.program.env)
    .filter(([k, v]) => v !== undefined && process.env[k] !== v)
    .map(([k, v]) => `${k}=${v ?? ''}`);
  const command = ['env', ...env, s.program.bin, ...s.program.args, ...s.args];
  if (s.lifetime === 'owner') command.unshift('setpriv', '--pdeathsig', 'KILL');
  const log = openSync(s.logPath, 'a');
  const child = spawn(command[0]!, command.slice(1), { detached: true, stdio: ['ignore', log, log] });
  closeSync(log);
  let ended: string | undefined;
  child.on('error', (e) => {
    ended = errnoCode(e) === 'ENOENT' ? `program '${command[0]}' not found (package util-linux)` : e.message;
  });
  child.on('exit', (code, signal) => {
    ended ??= signal ? `ended by ${signal}` : `ended with status ${code}`;
  });
  child.unref();
  const check = (): void => {
    if (ended === undefined) return;
    const tail = readFileSync(s.logPath, 'utf8').trim().split('\n').slice(-5).join('; ');
    throw new HyperturtleError('HT_BOOT_FAILED', `QEMU ${ended}${tail ? `: ${tail}` : ''}`);
  };
  const id = child.pid === undefined ? undefined : identify(child.pid);
  if (!id) {
    await waitFor('start of QEMU', () => ended, { timeoutMs: 5000, intervalMs: 5 });
    check();
    throw new HyperturtleError('HT_BOOT_FAILED', 'QEMU did not start');
  }
  const qmp = async (): Promise<QmpClient> => QmpClient.connect(s.qmpSocket, { signal: s.signal });
  const process_: QemuProcess = { id, check, qmp, end: () => endQemu(id, s.qmpSocket) };
  try {
    await waitFor(
      'QEMU ready for commands',
      async () => {
        check();
        try {
          (await qmp()).close();
          return true;
        } catch (e) {
          if (e instanceof HyperturtleError && e.code === 'HT_QMP') return undefined;
          throw e;
        }
      },
      { timeoutMs: 30_000, intervalMs: 20, signal: s.signal },
    );
  } catch (e) {
    await killProcess(id);
    throw e;
  }
  return process_;
}

/** Quits it by QMP; SIGKILL when that does not end it within 2 s. */
export async function endQemu(id: ProcessId, qmpSocket: string): Promise<void> {
  if (!isRunning(id)) return;
  try {
    using q = await QmpClient.connect(qmpSocket, { timeoutMs: 1000 });
    await q.execute('quit', {}, { timeoutMs: 1000 });
    await waitFor('end of QEMU', () => (isRunning(id) ? undefined : true), {
      timeoutMs: 2000,
      intervalMs: 10,
    });
  } catch {
    // it doesn't listen, or stopped listening: the certain way follows
  }
  await killProcess(id);
}
