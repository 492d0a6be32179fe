/** Processes on the host: identity that survives pid reuse, ending them for certain, the CPU time they used. */
import { readFileSync } from 'node:fs';
import { errnoCode } from './errors.ts';
import { waitFor } from './wait.ts';

/** One process forever: a pid alone is given to another one later. */
export interface ProcessId {
  pid: number;
  /** Since boot, in clock ticks; field 22 of /proc/PID/stat. */
  startTicks: string;
  bootId: string;
}

/** Ticks per second of /proc/PID/stat: fixed by the kernel's ABI on x86. */
const CLOCK_TICKS = 100;

function statFields(pid: number): string[] | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // the name, in parentheses, may hold anything
    return text.slice(text.lastIndexOf(')') + 2).split(' ');
  } catch (e) {
    if (errnoCode(e) === 'ENOENT' || errnoCode(e) === 'ESRCH') return undefined;
    throw e;
  }
}

function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}

/** The identity of a process that runs now, or undefined. */
export function identify(pid: number): ProcessId | undefined {
  const startTicks = statFields(pid)?.[19];
  return startTicks === undefined ? undefined : { pid, startTicks, bootId: bootId() };
}

export function isRunning(id: ProcessId): boolean {
  const fields = statFields(id.pid);
  return fields !== undefined && fields[0] !== 'Z' && fields[19] === id.startTicks && bootId() === id.bootId;
}

/** User and system time of all its threads, in seconds. Undefined when it has ended. */
export function cpuSeconds(id: ProcessId): number | undefined {
  if (!isRunning(id)) return undefined;
  const fields = statFields(id.pid);
  return fields && (Number(fields[11]) + Number(fields[12])) / CLOCK_TICKS;
}

/** SIGKILLs it, if it still is that process, and waits until it is gone. */
export async function killProcess(id: ProcessId): Promise<void> {
  if (!isRunning(id)) return;
  try {
    process.kill(id.pid, 'SIGKILL');
  } catch (e) {
    if (errnoCode(e) !== 'ESRCH') throw e;
  }
  await waitFor(`end of process ${id.pid}`, () => (isRunning(id) ? undefined : true), {
    timeoutMs: 20_000,
    intervalMs: 20,
  });
}
