/**
 * The processes that `hyperturtle bench control` starts, told apart by the first argument: `daemon CONFIG DIRECTORY
 * VERSION` and `load SOCKET WINDOW`. They end when their parent does, or says so.
 */
import type net from 'node:net';
import { setTimeout as wait } from 'node:timers/promises';
import { HyperturtleError, messageOf } from '../../core/errors.ts';
import { runMain } from '../../core/run-main.ts';
import { HostDaemon } from '../../host/daemon/daemon.ts';
import { openLog } from '../../host/log.ts';
import { kernelWithoutModule } from './kernel.ts';
import { Port } from './port.ts';
import { ROUND_TRIPS } from './schema.ts';
import type { Load } from './schema.ts';

export type ToProcess = { load: Load; seconds: number } | { stop: true };
export type FromProcess =
  | { ready: true }
  | { begun: true }
  | { answeredPerSecond: number[]; failures: number }
  | { problem: string };

const tell = (message: FromProcess): void => void process.send?.(message);

async function runDaemon(configFile: string, directory: string, version: string): Promise<void> {
  const daemon = await HostDaemon.start({
    configFile,
    version,
    kernel: kernelWithoutModule(directory),
    openLog,
    verifier: () => () => {
      throw new HyperturtleError('HT_SIGNATURE', 'no keys here');
    },
  });
  tell({ ready: true });
  await told((message) => ('stop' in message ? true : undefined));
  await daemon.stop();
}

async function runLoad(socket: string, window: number): Promise<void> {
  const port = await Port.listen(socket);
  tell({ ready: true });
  try {
    for (;;) {
      const order = await told((message) => message);
      if ('stop' in order) return;
      tell(
        await (order.load === 'garbage'
          ? garbage(port, order.seconds)
          : requests(port, order.seconds, window)),
      );
    }
  } finally {
    port.close();
  }
}

/** As many valid requests as are answered, `window` of them at a time. */
async function requests(port: Port, seconds: number, window: number): Promise<FromProcess> {
  const peer = await port.session();
  tell({ begun: true });
  const counter = new PerSecond(seconds);
  let failures = 0;
  let n = 0;
  const worker = async (): Promise<void> => {
    while (!counter.over) {
      try {
        await peer.request(ROUND_TRIPS[n++ % ROUND_TRIPS.length]!, {});
        counter.count(1);
      } catch {
        failures++;
      }
    }
  };
  await Promise.all(Array.from({ length: window }, worker));
  peer.close();
  return { answeredPerSecond: counter.full, failures };
}

/** Lines that are no messages, as many as the socket takes; what comes back is counted and thrown away. */
async function garbage(port: Port, seconds: number): Promise<FromProcess> {
  const socket: net.Socket = await port.connection({ fresh: true });
  const counter = new PerSecond(seconds);
  socket.on('data', (chunk: Buffer) =>
    counter.count(chunk.toString('latin1').split('PARSE_ERROR').length - 1),
  );
  socket.resume();
  tell({ begun: true });
  const chunk = Buffer.from('{"nonsense\n'.repeat(6000));
  while (!counter.over)
    if (socket.writableLength < 1 << 20) socket.write(chunk);
    else await wait(1);
  socket.destroy();
  return { answeredPerSecond: counter.full, failures: 0 };
}

class PerSecond {
  readonly #t0 = performance.now();
  readonly #seconds: number;
  readonly #counts: number[] = [];

  constructor(seconds: number) {
    this.#seconds = seconds;
  }

  get over(): boolean {
    return performance.now() - this.#t0 >= this.#seconds * 1000;
  }

  count(n: number): void {
    const second = Math.floor((performance.now() - this.#t0) / 1000);
    this.#counts[second] = (this.#counts[second] ?? 0) + n;
  }

  /** Answered requests of each full second but the first, in which the burst is. */
  get full(): number[] {
    return Array.from({ length: Math.floor(this.#seconds) - 1 }, (_, i) => this.#counts[i + 1] ?? 0);
  }
}

/** The next message that `take` makes something of. A parent that is gone says stop. */
function told<T>(take: (message: ToProcess) => T | undefined): Promise<T> {
  return new Promise((resolve) => {
    const onMessage = (message: ToProcess): void => {
      const taken = take(message);
      if (taken === undefined) return;
      process.off('message', onMessage);
      process.off('disconnect', onGone);
      resolve(taken);
    };
    const onGone = (): void => onMessage({ stop: true });
    process.on('message', onMessage);
    process.on('disconnect', onGone);
    if (!process.connected) onGone();
  });
}

// the parent's terminal sends these to all; the parent ends us in order
for (const name of ['SIGINT', 'SIGHUP'] as const) process.on(name, () => {});
async function main(): Promise<void> {
  const [role, ...args] = process.argv.slice(2);
  try {
    if (role === 'daemon') await runDaemon(args[0]!, args[1]!, args[2]!);
    else await runLoad(args[0]!, Number(args[1]));
  } catch (e) {
    tell({ problem: messageOf(e) });
    process.exitCode = 1;
  }
  if (process.connected) process.disconnect();
}

runMain(main);
