/**
 * The daemon's log: JSON lines. Each decision about what a VM asked for is one line of the child logger `audit`,
 * with the VM, the method, the outcome and why.
 */
import { pino } from 'pino';
import type { Logger } from 'pino';
import type { HostConfig } from './config.ts';

export type Log = Pick<Logger, 'trace' | 'debug' | 'info' | 'warn' | 'error'> & {
  child(bindings: Record<string, unknown>): Log;
};

export interface DaemonLog {
  readonly log: Log;
  setLevel(level: HostConfig['log']['level']): void;
  /** Writes what is still queued. */
  flush(): void;
}

/** Without a file: to standard output. */
export function openLog(config: HostConfig['log']): DaemonLog {
  // a reader that stalls must not stall the daemon: writing is asynchronous
  const destination = pino.destination({
    ...(config.file === undefined ? { dest: 1 } : { dest: config.file, mkdir: true }),
    sync: false,
  });
  const log = pino(
    {
      level: config.level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    destination,
  );
  return {
    log,
    setLevel: (level) => (log.level = level),
    flush: () => {
      try {
        destination.flushSync();
      } catch {
        // the reader has gone
      }
    },
  };
}

export const silentLog: Log = pino({ level: 'silent' });
