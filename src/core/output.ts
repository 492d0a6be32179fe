/** Standard output and error that cannot be written: a reader that has gone, a full disk. */
import { ERROR_CODES, errnoCode } from './errors.ts';
import { fileError } from './files.ts';

let failed = false;

/**
 * For a program's start. A reader that has seen enough (`| head`) ends it without an error. Any other failure of standard
 * output is one line on standard error and status 5: a command that cleans up at SIGTERM is ended by one, so that it does.
 * Standard error that fails is let go: there is nobody left to tell.
 */
export function guardOutput(name: string): void {
  process.stderr.on('error', () => {});
  process.stdout.on('error', (e) => {
    if (errnoCode(e) === 'EPIPE') process.exit();
    if (failed) return;
    failed = true;
    process.stderr.write(`${name}: ${fileError(e, 'cannot be written', 'standard output').message}\n`);
    if (process.listenerCount('SIGTERM') === 0) process.exit(ERROR_CODES.HT_NO_SPACE);
    process.kill(process.pid, 'SIGTERM');
  });
  process.on('exit', () => {
    if (failed) process.exitCode = ERROR_CODES.HT_NO_SPACE;
  });
}
