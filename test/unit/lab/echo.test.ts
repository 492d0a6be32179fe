import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { EchoWindow } from '../../../src/lab/echo.ts';

const FIFO = 16;

/** A port with a FIFO that loses what it has no room for, and a terminal behind it that echoes when it comes to it. */
class Port {
  fifo: number[] = [];
  taken: number[] = [];
  lost = 0;

  put(data: Buffer): void {
    for (const byte of data)
      if (this.fifo.length < FIFO) this.fifo.push(byte);
      else this.lost++;
  }

  /** The machine gets to `n` bytes; gives their echo. */
  serve(n: number): Buffer {
    const bytes = this.fifo.splice(0, n);
    this.taken.push(...bytes);
    return Buffer.from(bytes);
  }
}

describe('EchoWindow', () => {
  it('never has more on its way than the port holds, and all arrives in order', () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 60 }), { minLength: 1, maxLength: 6 }),
        fc.array(fc.integer({ min: 1, max: FIFO }), { minLength: 1, maxLength: 10 }),
        (writes, served) => {
          const port = new Port();
          const echo = new EchoWindow((data) => port.put(data));
          for (const w of writes) echo.write(Buffer.from(w));
          const rest: Buffer[] = [];
          for (let i = 0; port.fifo.length > 0; i++)
            rest.push(echo.receive(port.serve(served[i % served.length]!)));
          expect(port.lost).toBe(0);
          expect(Buffer.from(port.taken)).toEqual(Buffer.concat(writes));
          expect(Buffer.concat(rest)).toHaveLength(0);
        },
      ),
    );
  });

  it('sends nothing more while the machine takes nothing', () => {
    const port = new Port();
    const echo = new EchoWindow((data) => port.put(data));
    echo.write('{"execute":"guest-ping"}\n');
    echo.write('more');
    expect(port.fifo).toHaveLength(FIFO);
    expect(port.lost).toBe(0);
  });

  it('gives what the machine says between and behind the echoes', () => {
    const sent: Buffer[] = [];
    const echo = new EchoWindow((data) => sent.push(data));
    echo.write('abc\n');
    expect(echo.receive(Buffer.from('aXb')).toString()).toBe('X');
    expect(echo.receive(Buffer.from('c\n{"return":{}}\n')).toString()).toBe('{"return":{}}\n');
    expect(echo.receive(Buffer.from('abc\n')).toString()).toBe('abc\n');
    expect(Buffer.concat(sent).toString()).toBe('abc\n');
  });
});
