/**
 * The channel to the host as a stream. In an L1 it is a virtio-serial port, a character device that Node has no class
 * for: a pending fs.read would occupy a thread forever and keep the process from ending, so the descriptor is
 * non-blocking and waited for in the event loop. A path that is a unix socket is connected to instead (tests, and
 * machines whose host hands the channel over in that way). The stream owns its descriptor; destroy() closes it.
 */
import koffi from 'koffi';
import { constants, readFileSync, readSync, readdirSync, statSync, openSync, writeSync } from 'node:fs';
import path from 'node:path';
import { Duplex } from 'node:stream';
import { AGENT_PORT } from '../../core/default-paths.ts';
import { OwnedFd } from '../../bpf/fds.ts';
import { isPollable } from '../../bpf/sys.ts';
import { HyperturtleError, errnoCode, messageOf } from '../../core/errors.ts';
import { connectSocket } from '../../core/sockets.ts';

const READ_BYTES = 64 << 10;
/** Reads in one turn of the event loop, so that a flood leaves time for the rest. */
const READS_PER_TURN = 8;

type PollHandle = ReturnType<typeof koffi.node.poll>;

/**
 * A virtio-serial port. While nobody has the host's end open it reads as ended (read gives 0, poll gives POLLHUP), which
 * destroys the stream with HT_CHANNEL: anyone who wants it connected opens it again later.
 */
export class PortStream extends Duplex {
  readonly #file: OwnedFd;
  readonly #buffer = Buffer.allocUnsafe(READ_BYTES);
  #handle: PollHandle | undefined;
  #wantRead = false;
  #pending: { chunk: Buffer; done: (e?: Error | null) => void } | undefined;

  /** Takes over `file`, which must be non-blocking. Throws HT_CHANNEL when it cannot be waited for. */
  constructor(file: OwnedFd) {
    super({ allowHalfOpen: false, readableHighWaterMark: READ_BYTES, writableHighWaterMark: READ_BYTES });
    if (!isPollable(file)) {
      file.close();
      throw new HyperturtleError(
        'HT_CHANNEL',
        `${file.what} cannot be waited for: a virtio-serial port or a unix socket expected`,
      );
    }
    this.#file = file;
  }

  /** Throws HT_NOT_FOUND without the device, HT_BUSY when another process has it open. */
  static open(devicePath: string): PortStream {
    try {
      const fd = openSync(devicePath, constants.O_RDWR | constants.O_NONBLOCK | constants.O_NOCTTY);
      return new PortStream(new OwnedFd(fd, devicePath));
    } catch (e) {
      throw openError(devicePath, e);
    }
  }

  override _read(): void {
    this.#wantRead = true;
    this.#watch();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (e?: Error | null) => void): void {
    this.#pending = { chunk, done };
    this.#writeSome();
  }

  override _destroy(error: Error | null, done: (e: Error | null) => void): void {
    this.#handle?.close();
    this.#handle = undefined;
    const pending = this.#pending;
    this.#pending = undefined;
    this.#file.close();
    done(error);
    pending?.done(error ?? new HyperturtleError('HT_CHANNEL', `${this.#file.what}: closed`));
  }

  #watch(): void {
    if (this.destroyed) return;
    const interest = { readable: this.#wantRead, writable: this.#pending !== undefined, disconnect: true };
    if (!interest.readable && !interest.writable) {
      this.#handle?.stop();
      return;
    }
    // koffi calls back outside of Node's own frame for callbacks, with (status, events): no promise would go on after
    // it and nothing may be thrown through it, so the work is done in an immediate, in the same turn of the loop
    const ready = (...args: unknown[]): void => {
      this.#handle?.stop();
      const [status, events] = args as [number, { disconnect: boolean }];
      setImmediate(() => this.#onReady(status < 0, events.disconnect));
    };
    // SAFETY: the descriptor is open and can be polled (see whenReadable), there is one handle for it, and _destroy
    // closes the handle before the descriptor.
    if (this.#handle) this.#handle.start(interest, ready);
    else this.#handle = koffi.node.poll(this.#file.fd, interest, ready);
  }

  #onReady(failed: boolean, disconnected: boolean): void {
    if (this.destroyed) return;
    if (failed) return this.#hangUp();
    if (this.#pending && !disconnected) this.#writeSome();
    if (this.#wantRead) this.#readSome();
    // nobody reads now, so that the end would not be seen, and writing will not go on: polling on would spin
    else if (disconnected) this.#hangUp();
    this.#watch();
  }

  #readSome(): void {
    for (let i = 0; i < READS_PER_TURN && this.#wantRead && !this.destroyed; i++) {
      let n: number;
      try {
        n = readSync(this.#file.fd, this.#buffer, 0, READ_BYTES, null);
      } catch (e) {
        if (!isAgain(e)) this.#hangUp(e);
        return;
      }
      if (n === 0) return this.#hangUp();
      // before push, which may call _read
      this.#wantRead = false;
      if (this.push(Buffer.from(this.#buffer.subarray(0, n)))) this.#wantRead = true;
    }
  }

  #writeSome(): void {
    const p = this.#pending;
    if (!p) return;
    while (p.chunk.length > 0) {
      try {
        p.chunk = p.chunk.subarray(writeSync(this.#file.fd, p.chunk));
      } catch (e) {
        if (isAgain(e)) this.#watch();
        else this.#hangUp(e);
        return;
      }
    }
    this.#pending = undefined;
    p.done();
  }

  #hangUp(cause?: unknown): void {
    const why = cause === undefined ? 'the host has closed its end' : messageOf(cause);
    this.destroy(
      new HyperturtleError('HT_CHANNEL', `${this.#file.what}: ${why}`, cause === undefined ? {} : { cause }),
    );
  }
}

/**
 * Opens the channel. Throws HT_NOT_FOUND when it is not there (yet), HT_BUSY when another process has it, HT_CHANNEL
 * when nobody listens, or the signal's reason.
 */
export async function openChannel(channelPath: string, signal: AbortSignal): Promise<Duplex> {
  signal.throwIfAborted();
  const found = findChannel(channelPath);
  if (found === undefined)
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `${channelPath} is not there: the host gives this machine a virtio-serial port of that name ('hyperturtle host args' prints how)`,
    );
  if (found.kind === 'socket') return connectSocket(found.path, signal);
  return PortStream.open(found.path);
}

/** The file behind a channel's name: also a port whose link in /dev/virtio-ports no udev has made. */
export function findChannel(
  channelPath: string,
  sysDir = '/sys/class/virtio-ports',
): { path: string; kind: 'socket' | 'port' } | undefined {
  const found = statSync(channelPath, { throwIfNoEntry: false });
  if (found) return { path: channelPath, kind: found.isSocket() ? 'socket' : 'port' };
  if (path.dirname(channelPath) !== path.dirname(AGENT_PORT)) return undefined;
  try {
    for (const device of readdirSync(sysDir))
      if (readFileSync(path.join(sysDir, device, 'name'), 'utf8').trim() === path.basename(channelPath))
        return { path: `/dev/${device}`, kind: 'port' };
  } catch {
    // no virtio-serial here, or the port has just gone
  }
  return undefined;
}

function isAgain(e: unknown): boolean {
  const code = errnoCode(e);
  return code === 'EAGAIN' || code === 'EINTR';
}

function openError(channelPath: string, e: unknown): Error {
  switch (errnoCode(e)) {
    case 'ENOENT':
    case 'ENXIO':
    case 'ENODEV':
      return new HyperturtleError('HT_NOT_FOUND', `${channelPath} is not there`, { cause: e });
    case 'EBUSY':
      return new HyperturtleError(
        'HT_BUSY',
        `${channelPath} is in use: only one agent may have it open; stop the other one`,
        { cause: e },
      );
    case 'EACCES':
    case 'EPERM':
      return new HyperturtleError('HT_CHANNEL', `${channelPath}: no permission: run as root`, { cause: e });
    case undefined:
    default:
      return e instanceof Error ? e : new Error(messageOf(e));
  }
}
