/** Finds out whether a QEMU has the arena that is offered, and plugs it where a root port is configured for it. */
import { HyperturtleError } from '../../core/errors.ts';
import { findArena, plugArenaOver } from '../arena-plug.ts';
import type { QmpExecutor } from '../qemu-devices.ts';
import type { VmArena } from './arena.ts';
import type { ProcessRecord } from './process-record.ts';

const QMP_TIMEOUT_MS = 30_000;

export interface SettleOptions {
  /** What runs the VM. */
  process: { pid: number; startTicks: number };
  /** Which process has which arena, as an earlier daemon wrote it down. */
  record: ProcessRecord | undefined;
  /** Root port; undefined: the arena is never plugged. */
  bus: string | undefined;
  signal: AbortSignal;
}

/** Whether it has it. Throws HT_QMP with QEMU's words, HT_BUSY for a VM that was started with another arena. */
export async function settleArena(
  qmp: QmpExecutor,
  arena: VmArena,
  { process, record, bus, signal }: SettleOptions,
): Promise<'had' | 'plugged' | 'without'> {
  const found = await findArena(qmp, arena.link);
  const recorded =
    record?.pid === process.pid &&
    record.startTicks === process.startTicks &&
    record.arenaMapId === arena.mapId;
  // what a process opened when it began is what was offered then
  const fromStart = found?.hotPlugged === false && process.startTicks > arena.madeAtTicks;
  // memory without its device: a daemon died between the two
  const whole = found && (found.device !== undefined || !found.hotPlugged);
  if (whole && (recorded || fromStart)) return 'had';
  if (found && !found.hotPlugged)
    throw new HyperturtleError(
      'HT_BUSY',
      `the arena that this VM was started with (object ${found.memory}) is not the one that is offered now: start the VM again`,
    );
  if (bus === undefined) return 'without';
  // nobody has it mapped: what an L1 that let it go left in it is no offer for the next
  if (found?.device === undefined) await arena.wipe();
  await plugArenaOver(qmp, {
    devicePath: arena.link,
    bytes: arena.bytes,
    bus,
    timeoutMs: QMP_TIMEOUT_MS,
    signal,
  });
  return 'plugged';
}
