/**
 * Stands between a command and the agent's socket, and passes messages on one by one: a test does something at a certain
 * message, not after a certain time.
 */
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import net from 'node:net';
import { createInterface } from 'node:readline';

/** A request, or the answer to it, which has no method. */
export interface Message {
  id?: number | string;
  method?: string;
}

export type AtMessage = (when: 'before' | 'after', message: Message) => Promise<void> | void;

/** Undefined for an empty line, which only says that a side is there, and for the half of one that was killed. */
function messageOf(line: string): Message | undefined {
  try {
    return JSON.parse(line) as Message;
  } catch {
    return undefined;
  }
}

export class MessageRelay {
  readonly #server: net.Server;
  readonly #sockets = new Set<net.Socket>();
  #turn: Promise<unknown> = Promise.resolve();

  /** Listens at `from` for clients of `to`. `at` is called before and after each message of either side is passed on. */
  static async listen(from: string, to: string, at: AtMessage): Promise<MessageRelay> {
    rmSync(from, { force: true });
    const relay = new MessageRelay(to, at);
    relay.#server.listen(from);
    await once(relay.#server, 'listening');
    return relay;
  }

  private constructor(to: string, at: AtMessage) {
    this.#server = net.createServer((client) => {
      const agent = net.connect(to);
      for (const [source, sink] of [
        [client, agent],
        [agent, client],
      ] as const) {
        this.#sockets.add(source);
        source.on('error', () => {});
        const lines = createInterface({ input: source });
        lines.on('error', () => {}); // its socket's: a side that was killed
        lines.on('line', (line) => {
          this.#turn = this.#turn.then(async () => {
            const message = messageOf(line);
            if (message) await at('before', message);
            sink.write(`${line}\n`);
            if (message) await at('after', message);
          });
        });
        // what was passed on before is said before the end is
        source.on('close', () => void this.#turn.then(() => sink.end()));
      }
    });
  }

  close(): void {
    for (const s of this.#sockets) s.destroy();
    this.#server.close();
  }
}
