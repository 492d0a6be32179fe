/**
 * Commands in an L2 over its console port. The other side is the shell of src/lab/l2-init.ts, which describes the
 * protocol. The transport may be a socket in L1 or a chain of ports that ends on the outer host; it may still hold
 * lines of an earlier L2, so every command has an id that no other has.
 */
import { randomBytes } from 'node:crypto';
import type net from 'node:net';
import { HyperturtleError, errnoCode } from '../core/errors.ts';
import { dial } from '../core/sockets.ts';
import { withDeadline } from '../core/wait.ts';

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

/** Lines over a unix socket, for an L2 whose console ends in this machine. */
export class SocketLines implements LineTransport, Disposable {
  readonly #socket: net.Socket;
  readonly #lines: string[] = [];
  #partial = '';
  #dead: Error | undefined;
  #wake: (() => void) | undefined;

  constructor(socket: net.Socket) {
    this.#socket = socket;
    socket.setEncoding('utf8');
    socket.on('data', (text: string) => {
      const parts = (this.#partial + text).split('\n');
      this.#partial = parts.pop() ?? '';
      this.#lines.push(...parts);
      this.#wake?.();
    });
    const gone = (why: string): void => {
      this.#dead ??= new HyperturtleError('HT_CHANNEL', `console of L2: ${why}`);
      this.#wake?.();
    };
    socket.on('error', (e) => gone(e.message));
    socket.on('close', () => gone('closed: has its VMM ended?'));
  }

  static async connect(path: string, options: ReadOptions): Promise<SocketLines> {
    const socket = dial(path);
    const ready = new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', (e) =>
        reject(
          new HyperturtleError('HT_CHANNEL', `console of L2 at ${path}: ${errnoCode(e) ?? e.message}`, {
            cause: e,
          }),
        ),
      );
    });
    try {
      await withDeadline(`connecting to ${path}`, ready, options.timeoutMs, options.signal);
    } catch (e) {
      socket.destroy();
      throw e;
    }
    return new SocketLines(socket);
  }

  write(text: string): void {
    this.#socket.write(text);
  }

  async readLine(options: ReadOptions): Promise<string> {
    if (this.#lines.length === 0) {
      const some = new Promise<void>((resolve) => {
        this.#wake = resolve;
        if (this.#dead) resolve();
      });
      await withDeadline('console of L2: no line', some, options.timeoutMs, options.signal);
    }
    const line = this.#lines.shift();
    if (line !== undefined) return line;
    throw this.#dead ?? new HyperturtleError('HT_CHANNEL', 'console of L2: nothing to read');
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }
}
