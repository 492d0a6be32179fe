/**
 * Many TCP connections over the one byte stream that a port is. Both ends speak the same frames; `dial` makes a connection for one
 * that the other end has opened. A reader that is slow holds up the others: the port has one pipe, and a page's few requests are small.
 */
import type { Duplex } from 'node:stream';
import type net from 'node:net';

const KIND = { open: 1, data: 2, end: 3, reset: 4, alive: 5 } as const;
/** kind, connection, length. */
const HEADER_BYTES = 9;
const MAX_BYTES = 64 << 10;
/**
 * Between two signs of life; after several without one the other end counts as gone. The end that dials answers each at once:
 * its clock may be that of a guest whose time goes slower than this machine's (`--clock instructions`).
 */
const ALIVE_MS = 2000;
export const GONE_MS = 20_000;

export interface ForwardOptions {
  /** Connects for the other end. Without it the other end may open nothing. */
  dial?: () => net.Socket;
  /** How long the other end may be silent; default: GONE_MS. */
  goneMs?: number;
  /** The stream has ended, or the other end is silent or says what it may not. Called once. */
  onEnd: (why: string) => void;
}

/** One end. The bytes of `stream` belong to it from now on. */
export class Forwarder {
  readonly #stream: Duplex;
  readonly #options: ForwardOptions;
  readonly #sockets = new Map<number, net.Socket>();
  readonly #timer: NodeJS.Timeout;
  #nextId = 0;
  #heardAt = performance.now();
  #partial = Buffer.alloc(0);
  #ended = false;

  constructor(stream: Duplex, options: ForwardOptions) {
    this.#stream = stream;
    this.#options = options;
    stream.on('data', (chunk: Buffer) => this.#receive(chunk));
    stream.resume();
    stream.on('error', (e) => this.end(e.message));
    stream.on('close', () => this.end('the port was closed'));
    stream.on('drain', () => {
      for (const s of this.#sockets.values()) s.resume();
    });
    const { goneMs = GONE_MS } = options;
    this.#timer = setInterval(
      () => {
        if (performance.now() - this.#heardAt > goneMs) this.end(`no sign of life for ${goneMs / 1000} s`);
        else this.#send(KIND.alive, 0);
      },
      Math.min(ALIVE_MS, goneMs / 4),
    );
  }

  /** Takes a connection over to the other end. */
  open(socket: net.Socket): void {
    const id = this.#nextId++;
    this.#send(KIND.open, id);
    this.#add(id, socket);
  }

  end(why: string): void {
    if (this.#ended) return;
    this.#ended = true;
    clearInterval(this.#timer);
    for (const s of this.#sockets.values()) s.destroy();
    this.#options.onEnd(why);
  }

  #add(id: number, socket: net.Socket): void {
    this.#sockets.set(id, socket);
    socket.on('data', (chunk: Buffer) => {
      for (let at = 0; at < chunk.length; at += MAX_BYTES)
        if (!this.#send(KIND.data, id, chunk.subarray(at, at + MAX_BYTES))) socket.pause();
    });
    socket.on('end', () => this.#send(KIND.end, id));
    socket.on('error', () => {}); // 'close' comes next
    socket.on('close', (failed) => {
      if (this.#sockets.delete(id) && failed) this.#send(KIND.reset, id);
    });
  }

  #send(kind: number, id: number, data: Buffer = Buffer.alloc(0)): boolean {
    if (this.#ended) return true;
    const header = Buffer.alloc(HEADER_BYTES);
    header.writeUInt8(kind, 0);
    header.writeUInt32LE(id, 1);
    header.writeUInt32LE(data.length, 5);
    return this.#stream.write(Buffer.concat([header, data]));
  }

  #receive(chunk: Buffer): void {
    this.#heardAt = performance.now();
    this.#partial = Buffer.concat([this.#partial, chunk]);
    while (!this.#ended && this.#partial.length >= HEADER_BYTES) {
      const length = this.#partial.readUInt32LE(5);
      if (length > MAX_BYTES) return this.end('the other end does not speak the protocol');
      if (this.#partial.length < HEADER_BYTES + length) return;
      const [kind, id] = [this.#partial.readUInt8(0), this.#partial.readUInt32LE(1)];
      const data = this.#partial.subarray(HEADER_BYTES, HEADER_BYTES + length);
      this.#partial = this.#partial.subarray(HEADER_BYTES + length);
      this.#frame(kind, id, data);
    }
  }

  #frame(kind: number, id: number, data: Buffer): void {
    const socket = this.#sockets.get(id);
    if (kind === KIND.alive && this.#options.dial) this.#send(KIND.alive, 0);
    else if (kind === KIND.open && !socket && this.#options.dial) this.#add(id, this.#options.dial());
    else if (kind === KIND.data) socket?.write(data);
    else if (kind === KIND.end) socket?.end();
    else if (kind === KIND.reset) {
      this.#sockets.delete(id);
      socket?.destroy();
    }
  }
}
