/**
 * Commands in an L2 over its console port. The other side is the shell of src/lab/l2-init.ts, which describes the
 * protocol. The transport may be a socket in L1 or a chain of ports that ends on the outer host; it may still hold
 * lines of an earlier L2, so every command has an id that no other has.
 */
import { randomBytes } from 'node:crypto';
import { HyperturtleError } from '../core/errors.ts';

export interface ReadOptions {
  timeoutMs: number;
  signal?: AbortSignal | undefined;
}

export interface LineTransport {
  write(text: string): void;
  /** The next line without its newline. Throws HT_TIMEOUT, HT_CHANNEL when the other side is gone. */
  readLine(options: ReadOptions): Promise<Buffer | string>;
}

export interface L2Command extends ReadOptions {
  /**
   * Called with each line before the next is read; what it returns is sent as a line of input. Programs that
   * wait at a gate are served here.
   */
  onLine?: (line: string) => Promise<string | undefined> | string | undefined;
}

export interface L2Result {
  status: number;
  lines: string[];
  /** The last of `lines` where it had no newline; `onLine` does not get it. */
  unended?: string;
}

export class L2Shell {
  readonly #transport: LineTransport;

  constructor(transport: LineTransport) {
    this.#transport = transport;
  }

  /** Waits until userspace is up and answers. Gives the guest's own uptime at its first line, in seconds. */
  async whenUp(options: ReadOptions): Promise<number> {
    for (;;) {
      const line = String(await this.#transport.readLine(options));
      const up = /### L2 up ([\d.]+)/.exec(line);
      if (!up) continue;
      // whatever came before, also an up line of an L2 that is no more, ends with this answer
      await this.run(':', options);
      return Number(up[1]);
    }
  }

  /** Runs `command` (one line, for `sh -c`) to its end. `timeoutMs` is for each line of output. */
  async run(command: string, options: L2Command): Promise<L2Result> {
    if (command.includes('\n'))
      throw new HyperturtleError('HT_USAGE', 'a command for L2 must be one line: join its parts with ;');
    const id = randomBytes(6).toString('hex');
    const done = new RegExp(`^(.*)### done ${id} (\\d+)\r?$`);
    this.#transport.write(`run ${id} ${command}\n`);
    const lines: string[] = [];
    for (;;) {
      const line = String(await this.#transport.readLine(options));
      const end = done.exec(line);
      if (end) {
        const [, unended, status] = end;
        if (!unended) return { status: Number(status), lines };
        lines.push(unended);
        return { status: Number(status), lines, unended };
      }
      lines.push(line);
      const answer = await options.onLine?.(line);
      if (answer !== undefined) this.#transport.write(`${answer}\n`);
    }
  }

  /** The same for a command that must succeed. Throws HT_COMMAND_FAILED. */
  async runOk(command: string, options: L2Command): Promise<string[]> {
    const r = await this.run(command, options);
    if (r.status === 0) return r.lines;
    throw new HyperturtleError(
      'HT_COMMAND_FAILED',
      `L2: ${command.slice(0, 120)}: status ${r.status}: ${r.lines.slice(-3).join(' | ').slice(-500)}`,
      { detail: { status: r.status, lines: r.lines } },
    );
  }
}
