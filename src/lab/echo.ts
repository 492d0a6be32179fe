/**
 * Flow control for a serial port that has none: the machine's terminal echoes what it has taken out of the port, and no
 * more is on its way than the port can hold. Bochs needs it: when a nested guest runs with interrupts off, none
 * reaches the host in it either (14 ms when a guest's kernel frees many pages, 80 ms while it boots), and what
 * comes to a full FIFO meanwhile is lost.
 */

/** Bytes of a 16550A's receive FIFO. */
const FIFO_BYTES = 16;

export class EchoWindow {
  readonly #send: (data: Buffer) => void;
  #queue: Buffer = Buffer.alloc(0);
  /** Sent, and not echoed yet. */
  #sent: Buffer = Buffer.alloc(0);

  constructor(send: (data: Buffer) => void) {
    this.#send = send;
  }

  write(data: string | Buffer): void {
    this.#queue = Buffer.concat([this.#queue, Buffer.from(data)]);
    this.#pump();
  }

  /** What of the machine's output is no echo, in order. */
  receive(chunk: Buffer): Buffer {
    const rest: number[] = [];
    let echoed = 0;
    for (const byte of chunk) {
      if (echoed < this.#sent.length && byte === this.#sent[echoed]) echoed++;
      else rest.push(byte);
    }
    this.#sent = this.#sent.subarray(echoed);
    this.#pump();
    return Buffer.from(rest);
  }

  #pump(): void {
    const next = this.#queue.subarray(0, FIFO_BYTES - this.#sent.length);
    if (next.length === 0) return;
    this.#queue = this.#queue.subarray(next.length);
    this.#sent = Buffer.concat([this.#sent, next]);
    this.#send(next);
  }
}
