/**
 * The daemon's log: JSON lines. Each decision about what a VM asked for is one line of the child logger `audit`,
 * with the VM, the method, the outcome and why.
 */
import type { Logger } from 'pino';
import { jsonLog } from '../core/log.ts';
import type { HostConfig } from './config.ts';

export type Log = Pick<Logger, 'trace' | 'debug' | 'info' | 'warn' | 'error'> & {
  child(bindings: Record<string, unknown>): Log;
};

export interface DaemonLog {
  readonly log: Log;
  setLevel(level: HostConfig['log']['level']): void;
  /** Writes what is still queued. */
  readonly flush: () => void;
}

/** Without a file: to standard output. */
export function openLog(config: HostConfig['log']): DaemonLog {
  const { log, flush } = jsonLog(config.level, config.file);
  return { log, setLevel: (level) => (log.level = level), flush };
}
