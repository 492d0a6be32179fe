/**
 * A byte channel into a machine: two named pipes, `<base>.in` (to the machine) and `<base>.out` (from it), that
 * QEMU keeps open for reading and writing as long as it lives (`-chardev pipe`). Unlike a socket the channel
 * never looks disconnected to the guest, so several processes may use it one after the other: a lock file beside
 * the pipes says whose turn it is. The descriptors are open only while this process has its turn.
 */
import { closeSync, constants, openSync } from 'node:fs';
import net from 'node:net';
import { HyperturtleError, errnoCode, isHyperturtleError, messageOf } from '../core/errors.ts';
import { withDeadline } from '../core/wait.ts';
import { EchoWindow } from './echo.ts';
import { withFileLock } from '../core/file-lock.ts';

export interface ChannelOptions {
  timeoutMs: number;
  signal?: AbortSignal | undefined;
}

/** How long a turn is kept after its last use: short, or others starve; not zero, or each request opens again. */
const LINGER_MS = 15;

export interface Connection {
  /** False when the last turn went through to its end: the other side is then known to be in step. */
  readonly suspect: boolean;
  write(data: string | Buffer): void;
  /** The next line without its newline, as latin1 would lose nothing: bytes. Throws HT_CHANNEL when QEMU ends. */
  readLine(options: ChannelOptions): Promise<Buffer>;
  /** Bytes as they come, after what readLine() left over. */
  onData(listener: (chunk: Buffer) => void): void;
  /** Called once when QEMU ends. */
  onEnd(listener: (why: Error) => void): void;
}

export class Channel {
  readonly base: string;
  readonly what: string;
  #queue: Promise<unknown> = Promise.resolve();
  #turn: Turn | undefined;
  #waiting = 0;
  #lingerTimer: NodeJS.Timeout | undefined;
  #suspect = true;
  readonly #echoes: boolean;

  /** `echoes`: it is a serial port whose terminal echoes (echo.ts). */
  constructor(base: string, what: string, { echoes = false }: { echoes?: boolean } = {}) {
    this.base = base;
    this.what = what;
    this.#echoes = echoes;
  }

  /** Runs `body` while no other request, of this process or another, is on the channel. */
  async use<T>(body: (c: Connection) => Promise<T>, options: ChannelOptions): Promise<T> {
    this.#waiting++;
    clearTimeout(this.#lingerTimer);
    const before = this.#queue;
    let done!: () => void;
    this.#queue = new Promise<void>((resolve) => {
      done = resolve;
    });
    try {
      await withDeadline(`${this.what}: its turn`, before, options.timeoutMs, options.signal);
    } catch (e) {
      // the place in the queue is given up: anyone who is behind waits for those before
      this.#waiting--;
      void before.finally(done);
      throw e;
    }
    try {
      const turn = (this.#turn ??= await Turn.take(this.base, this.what, this.#echoes, options));
      turn.suspect = this.#suspect;
      this.#suspect = true;
      const result = await body(turn);
      this.#suspect = false;
      return result;
    } catch (e) {
      await this.#release();
      throw e;
    } finally {
      this.#waiting--;
      done();
      if (this.#waiting === 0) this.#lingerTimer = setTimeout(() => this.#releaseIfIdle(), LINGER_MS);
    }
  }

  #releaseIfIdle(): void {
    if (this.#waiting === 0) this.#queue = this.#queue.then(() => this.#release());
  }

  async #release(): Promise<void> {
    const turn = this.#turn;
    this.#turn = undefined;
    await turn?.end();
  }
}

/** The lock and the open pipes. */
class Turn implements Connection {
  suspect = true;
  readonly #what: string;
  readonly #in: net.Socket;
  readonly #out: net.Socket;
  readonly #unlock: () => Promise<void>;
  readonly #echo: EchoWindow | undefined;
  #lines: Buffer[] = [];
  #partial: Buffer[] = [];
  #wake: (() => void) | undefined;
  #dead: Error | undefined;
  #raw: ((chunk: Buffer) => void) | undefined;
  #onEnd: ((why: Error) => void) | undefined;

  private constructor(what: string, base: string, echoes: boolean, unlock: () => Promise<void>) {
    this.#what = what;
    this.#unlock = unlock;
    if (echoes) this.#echo = new EchoWindow((data) => this.#in.write(data));
    const out = openPipe(`${base}.out`, constants.O_RDONLY, what);
    let into: number;
    try {
      into = openPipe(`${base}.in`, constants.O_WRONLY, what);
    } catch (e) {
      closeSync(out);
      throw e;
    }
    this.#out = new net.Socket({ fd: out, readable: true, writable: false });
    this.#in = new net.Socket({ fd: into, readable: false, writable: true });
    const gone = (why: string) => () => this.#fail(why);
    this.#out.on('data', (d: Buffer) => this.#receive(d));
    this.#out.on('end', gone('the machine has ended'));
    this.#out.on('error', (e) => this.#fail(e.message));
    this.#in.on('error', (e) => this.#fail(e.message));
  }

  static async take(base: string, what: string, echoes: boolean, options: ChannelOptions): Promise<Turn> {
    let unlock!: () => void;
    const held = new Promise<void>((resolve) => {
      unlock = resolve;
    });
    let released!: Promise<void>;
    await new Promise<void>((resolve, reject) => {
      released = withFileLock(
        `${base}.lock`,
        { timeoutMs: options.timeoutMs, signal: options.signal },
        async () => {
          resolve();
          await held;
        },
      );
      released.catch((e: unknown) => reject(lockFailure(e, what, base)));
    });
    const end = async (): Promise<void> => {
      unlock();
      await released;
    };
    try {
      return new Turn(what, base, echoes, end);
    } catch (e) {
      await end();
      throw e;
    }
  }

  write(data: string | Buffer): void {
    if (this.#echo) this.#echo.write(data);
    else this.#in.write(data);
  }

  async readLine(options: ChannelOptions): Promise<Buffer> {
    const next = (async () => {
      for (;;) {
        const line = this.#lines.shift();
        if (line) return line;
        if (this.#dead) throw this.#dead;
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    })();
    next.catch(() => {}); // when the deadline comes first
    return withDeadline(`${this.#what}: no answer`, next, options.timeoutMs, options.signal);
  }

  onData(listener: (chunk: Buffer) => void): void {
    this.#raw = listener;
    for (const l of this.#lines.splice(0)) listener(Buffer.concat([l, Buffer.from('\n')]));
    for (const p of this.#partial.splice(0)) listener(p);
  }

  onEnd(listener: (why: Error) => void): void {
    if (this.#dead) listener(this.#dead);
    else this.#onEnd = listener;
  }

  async end(): Promise<void> {
    const closed = [this.#in, this.#out].map(
      (s) => new Promise<void>((resolve) => (s.closed ? resolve() : s.once('close', () => resolve()))),
    );
    this.#in.destroy();
    this.#out.destroy();
    await Promise.all(closed);
    await this.#unlock();
  }

  #fail(why: string): void {
    if (this.#dead) return;
    this.#dead = new HyperturtleError('HT_CHANNEL', `${this.#what}: ${why}`);
    this.#wake?.();
    this.#onEnd?.(this.#dead);
  }

  #receive(received: Buffer): void {
    const chunk = this.#echo?.receive(received) ?? received;
    if (this.#raw) return this.#raw(chunk);
    let from = 0;
    for (let nl = chunk.indexOf(10); nl >= 0; nl = chunk.indexOf(10, from)) {
      this.#partial.push(chunk.subarray(from, nl));
      this.#lines.push(Buffer.concat(this.#partial));
      this.#partial = [];
      from = nl + 1;
    }
    if (from < chunk.length) this.#partial.push(chunk.subarray(from));
    this.#wake?.();
  }
}

function lockFailure(e: unknown, what: string, base: string): Error {
  if (errnoCode(e) === 'ENOENT')
    return new HyperturtleError('HT_CHANNEL', `${what}: ${base} does not exist: is the lab up?`);
  if (isHyperturtleError(e, 'HT_BUSY'))
    return new HyperturtleError(
      'HT_BUSY',
      `${what}: another process is using the channel (lock ${base}.lock)`,
    );
  return e instanceof Error ? e : new Error(messageOf(e));
}

function openPipe(file: string, mode: number, what: string): number {
  try {
    return openSync(file, mode | constants.O_NONBLOCK);
  } catch (e) {
    const why =
      errnoCode(e) === 'ENXIO' || errnoCode(e) === 'ENOENT'
        ? 'the machine is not running'
        : `${file}: ${messageOf(e)}`;
    throw new HyperturtleError('HT_CHANNEL', `${what}: ${why}`, { cause: e });
  }
}
