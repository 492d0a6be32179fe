/** The outer machine's QEMU, and how it is told to end. */
import { HyperturtleError } from '../core/errors.ts';
import { waitFor } from '../core/wait.ts';
import { QmpClient } from '../qmp/client.ts';
import type { ToolProgram } from './artifacts.ts';
import { startChild } from './emulator.ts';
import type { Emulator } from './emulator.ts';
import { isRunning, killProcess } from '../core/process.ts';
import type { ProcessId } from '../core/process.ts';

export interface QemuStart {
  program: ToolProgram;
  args: readonly string[];
  /** Its own messages. */
  logPath: string;
  qmpSocket: string;
  lifetime: 'owner' | 'detached';
  signal?: AbortSignal | undefined;
}

export interface QemuProcess extends Emulator {
  qmp(): Promise<QmpClient>;
}

export async function startQemu(s: QemuStart): Promise<QemuProcess> {
  const { id, check } = await startChild({ name: 'QEMU', ...s });
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
