/**
 * Runs the guest of c/l2/exits_guest.bare.c in this machine to its end: whatever it exits for is what its steps ask
 * for. On turtlefs it is registered, so that programs know which L2 it is.
 */
import { readFileSync } from 'node:fs';
import { HyperturtleError } from '../core/errors.ts';
import { withDeadline } from '../core/wait.ts';
import { L2Machine } from './l2-machine.ts';
import { FAST_FIRMWARE, L2_RUN_DIR } from './l2-spec.ts';
import { RAM_KINDS } from '../guest/vmm/arguments.ts';
import type { RamKind } from '../guest/vmm/arguments.ts';

export interface ExitsGuestSpec {
  name: string;
  /** As its header describes them. */
  steps: string;
  ram: string;
  memMib: number;
  kernel: string;
  qemu: string;
  registeredBy: 'self' | 'agent';
  timeoutMs: number;
  signal?: AbortSignal | undefined;
}

const STATUS_DONE = 33;

/** What it says, line by line. Throws HT_COMMAND_FAILED when it does not come to its end, HT_TIMEOUT. */
export async function runExitsGuest(spec: ExitsGuestSpec): Promise<string[]> {
  const { timeoutMs, signal } = spec;
  const ram = RAM_KINDS.find((k): k is RamKind => k === spec.ram);
  if (!ram)
    throw new HyperturtleError(
      'HT_USAGE',
      `RAM: one of ${RAM_KINDS.join(', ')} expected, '${spec.ram}' found`,
    );
  const l2 = await L2Machine.start(
    {
      name: spec.name,
      memMib: spec.memMib,
      ram,
      kernel: spec.kernel,
      append: spec.steps,
      machine: 'pc',
      firmware: FAST_FIRMWARE,
      console: { kind: 'socket', path: `${L2_RUN_DIR}/${spec.name}/console` },
      qemu: spec.qemu,
      exitDevice: true,
    },
    { registeredBy: spec.registeredBy, signal },
  );
  try {
    const said = (): string => readFileSync(l2.files.serial, 'utf8');
    const status = await withDeadline(`guest ${spec.name}`, l2.ended, timeoutMs, signal).catch(
      (e: unknown) => {
        throw new HyperturtleError('HT_TIMEOUT', `${String(e)}; it said: ${said().slice(-500)}`, {
          cause: e,
        });
      },
    );
    const lines = said().split('\n').slice(0, -1);
    if (status === STATUS_DONE && lines.pop() === 'end') return lines;
    throw new HyperturtleError(
      'HT_COMMAND_FAILED',
      `guest ${spec.name}: QEMU ended with status ${status}; it said: ${lines.slice(-5).join(' | ')}`,
    );
  } finally {
    await l2.stop();
  }
}
