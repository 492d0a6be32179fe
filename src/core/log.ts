/** The log of a service: JSON lines, safe to read on a terminal whoever the words in them came from. */
import { pino } from 'pino';
import type { Logger } from 'pino';
import type { LogLevel } from './log-levels.ts';
import { visibleJson } from './visible.ts';

export interface JsonLog {
  readonly log: Logger;
  /** Writes what is still queued. */
  readonly flush: () => void;
}

/** Without a file: to standard output. */
export function jsonLog(level: LogLevel, file?: string): JsonLog {
  // a reader that stalls must not stall the service: writing is asynchronous
  const destination = pino.destination({
    ...(file === undefined ? { dest: 1 } : { dest: file, mkdir: true }),
    sync: false,
  });
  const log = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    { write: (line) => destination.write(visibleJson(line)) },
  );
  return {
    log,
    flush: () => {
      try {
        destination.flushSync();
      } catch {
        // the reader has gone, or nothing was written yet
      }
    },
  };
}
