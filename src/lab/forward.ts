/**
 * `lab forward`: a TCP port of L0's or L1's loopback interface on this machine's. The lab has no network; the bytes go through a
 * virtio-serial port that nobody else needs, with a relay at its other end.
 */
import { randomBytes } from 'node:crypto';
import net from 'node:net';
import type { AddressInfo } from 'node:net';
import { Duplex } from 'node:stream';
import { HyperturtleError, errnoCode } from '../core/errors.ts';
import { patient } from '../core/patience.ts';
import { waitFor } from '../core/wait.ts';
import { IN_GUEST } from './artifacts.ts';
import type { Connection } from './channel.ts';
import { Forwarder, GONE_MS } from './forward-frames.ts';
import { GREETING_MS, READY, untilWord } from './forward-greeting.ts';
import type { Lab } from './lab.ts';
import { PORT, SECOND_SEAT, FIRST_SEAT } from './machine.ts';

export interface ForwardPlace {
  level: 0 | 1;
  port: number;
}

export interface ForwardSpec extends ForwardPlace {
  /** On this machine's 127.0.0.1; 0: any that is free. */
  localPort: number;
  signal: AbortSignal;
  /** It is in force, under this port of this machine. */
  onReady: (localPort: number) => void;
}

/** The console port of a nested guest that is there in every lab and rarely used: by level, its number. */
const CARRIER = { 0: SECOND_SEAT.l2[0]!, 1: FIRST_SEAT.l2.at(-1)! } as const;

/** How much longer is waited for a guest whose clock is its instructions: a busy one's goes that much slower than ours. */
const SLOW_CLOCK = 10;

/** What an earlier relay, whose other end was killed, cannot take for a frame: it ends. */
const NO_FRAME = Buffer.alloc(16, 0xff);

/** `L0:9466`. Throws HT_USAGE. */
export function parseForward(text: string): ForwardPlace {
  const [, level, port] = /^l([01]):(\d{1,5})$/i.exec(text) ?? [];
  if (level === undefined || Number(port) < 1 || Number(port) > 65_535)
    throw new HyperturtleError('HT_USAGE', `'${text}': L0:PORT or L1:PORT expected, such as L0:9466`);
  return { level: level === '0' ? 0 : 1, port: Number(port) };
}

/** Until the signal aborts. Throws HT_IN_USE when the port of this machine is taken, HT_BUSY when another one forwards. */
export async function forward(lab: Lab, spec: ForwardSpec): Promise<void> {
  const { signal } = spec;
  if (lab.environment().accel === 'bochs')
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      'an Intel lab has no port to spare: work at the level itself',
    );
  if (lab.environment().payloadKey === null)
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      'a lab without payload has no relay: start it without --no-payload',
    );
  const server = await listen(spec.localPort);
  const level = spec.level === 0 ? lab.l0 : lab.l1;
  const word = `### forward ${randomBytes(16).toString('hex')}\n`;
  const slow = lab.environment().clock === 'instructions' ? SLOW_CLOCK : 1;
  const device = `/dev/virtio-ports/${PORT.l2(CARRIER[spec.level])}`;
  try {
    await lab.l2Channel(CARRIER[spec.level]).use(
      async (c) => {
        c.write(NO_FRAME);
        const relay = await level.spawn(
          [
            IN_GUEST.node,
            `${IN_GUEST.payload}/app/dist/src/lab/forward-relay.js`,
            device,
            String(spec.port),
            word,
          ],
          { signal },
        );
        try {
          await waitFor(
            `${level.name}: relay to port ${spec.port}`,
            async () => {
              if ((await relay.output()).endsWith(READY)) return true;
              if ((await relay.status()) === undefined) return undefined;
              const said = (await relay.output()).trim().split('\n').slice(-3).join(' ');
              throw new HyperturtleError('HT_CHANNEL', `${level.name}: the relay has ended: ${said}`);
            },
            { timeoutMs: GREETING_MS * slow, intervalMs: 300, signal },
          );
          const stream = duplexOf(c);
          stream.write(word);
          await untilWord(stream, word, GREETING_MS * slow, signal);
          await serve(server, stream, spec, patient(GONE_MS) * slow);
        } finally {
          await relay.kill('KILL');
        }
      },
      { timeoutMs: 5000, signal },
    );
  } finally {
    server.close();
  }
}

/** Resolves when the signal aborts. */
async function serve(
  server: net.Server,
  stream: Duplex,
  { signal, onReady }: ForwardSpec,
  goneMs: number,
): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const forwarder = new Forwarder(stream, {
      goneMs,
      onEnd: (why) =>
        signal.aborted
          ? resolve()
          : reject(new HyperturtleError('HT_CHANNEL', `forwarding has ended: ${why}`)),
    });
    server.on('connection', (socket) => forwarder.open(socket));
    signal.addEventListener('abort', () => forwarder.end('interrupted'), { once: true });
    onReady((server.address() as AddressInfo).port);
  });
}

async function listen(port: number): Promise<net.Server> {
  const server = net.createServer({ allowHalfOpen: true });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (e) =>
      reject(
        errnoCode(e) === 'EADDRINUSE'
          ? new HyperturtleError(
              'HT_IN_USE',
              `port ${port} of this machine is taken: give another one with --port`,
            )
          : e,
      ),
    );
    server.listen(port, '127.0.0.1', resolve);
  });
  return server;
}

function duplexOf(c: Connection): Duplex {
  const stream = new Duplex({
    read: () => {},
    write: (chunk: Buffer, _encoding, done) => {
      c.write(chunk);
      done();
    },
  });
  c.onData((chunk) => void stream.push(chunk));
  c.onEnd((why) => stream.destroy(why));
  return stream;
}
