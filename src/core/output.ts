/**
 * Standard output and error: the only place that writes to them (ESLint, hyperturtle/output). Text is written as it can be
 * seen, no matter who it came from; and what happens when it cannot be written: a reader that has gone, a full disk.
 */
import { errnoCode } from './errors.ts';
import { EXIT_STATUS } from './exit-status.ts';
import { fileError } from './files.ts';
import { visible, visibleJson } from './visible.ts';

/** Results, of one or more lines. */
export function writeOut(text: string): void {
  process.stdout.write(visible(text));
}

/** Everything else that a person is told. */
export function writeErr(text: string): void {
  process.stderr.write(visible(text));
}

/** One line of JSON. */
export function writeJson(json: string): void {
  process.stdout.write(`${visibleJson(json)}\n`);
}

/** Sequences of our own that draw a live table. The text between them must have been made visible. */
export function writeScreen(drawn: string): void {
  process.stdout.write(drawn);
}

/**
 * Bytes as they are, for a command whose purpose is to be the terminal of another program, as `ssh` is: `lab exec`,
 * `lab console`, `run`. Who starts such a program sees what it writes.
 */
export function passThrough(bytes: Uint8Array, to: 'stdout' | 'stderr'): void {
  process[to].write(bytes);
}

let failed = false;
let unread = 0;

/** Until it is disposed of, a reader that goes does not end this program: for work that must not be left half-done. */
export function goOnUnread(): Disposable {
  unread++;
  return { [Symbol.dispose]: () => void unread-- };
}

/**
 * For a program's start. A reader that has seen enough (`| head`) ends it without an error. Any other failure of standard
 * output is one line on standard error and status 5: a command that cleans up at SIGTERM is ended by one, so that it does.
 * Standard error that fails is let go: there is nobody left to tell.
 */
export function guardOutput(name: string): void {
  process.stderr.on('error', () => {});
  process.stdout.on('error', (e) => {
    if (errnoCode(e) === 'EPIPE') {
      if (unread === 0) process.exit();
      return;
    }
    if (failed) return;
    failed = true;
    writeErr(`${name}: ${fileError(e, 'cannot be written', 'standard output').message}\n`);
    if (process.listenerCount('SIGTERM') === 0) process.exit(EXIT_STATUS.HT_NO_SPACE.status);
    process.kill(process.pid, 'SIGTERM');
  });
  process.on('exit', () => {
    if (failed) process.exitCode = EXIT_STATUS.HT_NO_SPACE.status;
  });
}
