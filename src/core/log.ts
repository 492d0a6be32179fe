/** The log of a service: JSON lines, safe to read on a terminal no matter who the words in them came from. */
import { pino } from 'pino';
import type { Logger } from 'pino';
import type { LogLevel } from './log-levels.ts';
import { errnoCode } from './errors.ts';
import { fileError } from './files.ts';
import { LogSink } from './log-sink.ts';
import { writeErr } from './output.ts';
import { visibleJson } from './visible.ts';

export interface JsonLog {
  readonly log: Logger;
  /** Writes what is still queued. */
  readonly flush: () => void;
}

/** Without a file: to standard output. Throws HT_NO_SPACE and HT_KERNEL when the file cannot be opened. */
export function jsonLog(level: LogLevel, file?: string): JsonLog {
  // a reader that stalls must not stall the service: writing is asynchronous
  const sink = new LogSink(file ?? 1, (e) => {
    // nobody reads a pipe that is closed, and who closed it knows
    if (errnoCode(e) === 'EPIPE') return;
    writeErr(
      `hyperturtle: ${fileError(e, 'the log cannot be written', file ?? 'standard output').message}\n`,
    );
  });
  const log = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    { write: (line) => sink.write(visibleJson(line)) },
  );
  return { log, flush: () => sink.flush() };
}
