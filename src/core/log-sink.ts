/**
 * Where lines of a log go: a descriptor that may be a file on a full disk, a pipe whose reader stalls or has gone. None of that
 * stops a service or grows its memory: lines are lost, and said to be lost once there is room. (Not pino's own destination, whose
 * flushSync tries without end where no space is left, also at the end of the process: sonic-boom 4.2.)
 */
import { closeSync, constants, openSync, write, writeSync } from 'node:fs';
import path from 'node:path';
import { errnoCode } from './errors.ts';
import { fileError, makeDirectory } from './files.ts';

const APPENDING = constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_NONBLOCK;
const QUEUE_BYTES_MAX = 4 << 20;
const CHUNK_BYTES = 64 << 10;
const RETRY_MS = 100;
/** For the reader of a pipe to make room when the process ends. */
const LAST_MS = 1000;

export class LogSink {
  readonly #fd: number;
  readonly #own: boolean;
  /** Told of the first failure since the last success. */
  readonly #onFailure: (e: unknown) => void;
  #queue: Buffer[] = [];
  #bytes = 0;
  #busy = false;
  #scheduled = false;
  #failed = false;
  #lost = 0;
  /** What is left of the lines that come next, while there was no room. */
  #waiting: { rest: Buffer; timer: NodeJS.Timeout } | undefined;

  /** `to`: a descriptor that stays open, or a file to append to, made with its directory. Throws HT_NO_SPACE and HT_KERNEL. */
  constructor(to: number | string, onFailure: (e: unknown) => void = () => {}) {
    this.#onFailure = onFailure;
    this.#own = typeof to === 'string';
    if (typeof to === 'number') this.#fd = to;
    else {
      makeDirectory(path.dirname(to));
      try {
        // a named pipe that nobody reads is refused, not waited for
        this.#fd = openSync(to, APPENDING, 0o644);
      } catch (e) {
        throw fileError(e, 'the log cannot be opened', to);
      }
    }
    open.add(this);
    if (open.size === 1) process.on('exit', flushAll);
  }

  write(line: string): void {
    const bytes = Buffer.from(line);
    if (this.#bytes + bytes.length > QUEUE_BYTES_MAX) {
      this.#lost++;
      return;
    }
    this.#queue.push(bytes);
    this.#bytes += bytes.length;
    if (this.#scheduled) return;
    // a moment later, so that lines are written together, and by flush() where the process ends now
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#pump();
    });
  }

  /** Lines that were to be written wait for room. */
  get stalled(): boolean {
    return this.#waiting !== undefined;
  }

  /**
   * Writes what is queued, as far as that can be done now. Lines that the kernel is being asked to take just now are not
   * queued any more: where it has no room for them they come after these, or not at all when the process ends.
   */
  flush(): void {
    const end = performance.now() + LAST_MS;
    const waiting = this.#waiting;
    if (waiting) {
      clearTimeout(waiting.timer);
      this.#waiting = undefined;
      this.#busy = false;
    }
    for (let chunk = waiting?.rest; ; ) {
      chunk ??= this.#queue.length > 0 ? this.#take() : undefined;
      if (!chunk) return;
      for (let at = 0; at < chunk.length; )
        try {
          at += writeSync(this.#fd, chunk, at);
        } catch (e) {
          if (!isBusy(e) || performance.now() > end) return this.#fail(e, chunk);
          Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
        }
      chunk = undefined;
    }
  }

  close(): void {
    this.flush();
    open.delete(this);
    if (open.size === 0) process.off('exit', flushAll);
    if (this.#own && !this.#busy) closeSync(this.#fd);
  }

  /** Some lines as one, so that few calls are made. */
  #take(): Buffer {
    let n = 0;
    let bytes = 0;
    while (n < this.#queue.length && (n === 0 || bytes + this.#queue[n]!.length <= CHUNK_BYTES))
      bytes += this.#queue[n++]!.length;
    this.#bytes -= bytes;
    return Buffer.concat(this.#queue.splice(0, n));
  }

  #pump(): void {
    if (this.#busy || this.#queue.length === 0) return;
    this.#busy = true;
    this.#send(this.#take(), 0);
  }

  #send(chunk: Buffer, at: number): void {
    write(this.#fd, chunk, at, chunk.length - at, null, (e, n) => {
      if (e && isBusy(e)) {
        const again = (): void => {
          this.#waiting = undefined;
          this.#send(chunk, at);
        };
        this.#waiting = { rest: chunk.subarray(at), timer: setTimeout(again, RETRY_MS).unref() };
        return;
      }
      if (!e && at + n < chunk.length) return this.#send(chunk, at + n);
      this.#busy = false;
      if (e) return this.#fail(e, chunk.subarray(at)); // the next line tries again
      this.#succeed();
      this.#pump();
    });
  }

  #fail(e: unknown, chunk: Buffer): void {
    for (const lost of [chunk, ...this.#queue]) this.#lost += lost.toString('latin1').split('\n').length - 1;
    this.#queue = [];
    this.#bytes = 0;
    if (!this.#failed) this.#onFailure(e);
    this.#failed = true;
  }

  #succeed(): void {
    this.#failed = false;
    if (this.#lost === 0) return;
    const line = {
      level: 'warn',
      time: new Date().toISOString(),
      lost: this.#lost,
      msg: 'lines of the log were lost',
    };
    this.#lost = 0;
    this.write(`${JSON.stringify(line)}\n`);
  }
}

const open = new Set<LogSink>();
const flushAll = (): void => open.forEach((s) => s.flush());

function isBusy(e: unknown): boolean {
  const code = errnoCode(e);
  return code === 'EAGAIN' || code === 'EINTR' || code === 'EBUSY';
}
