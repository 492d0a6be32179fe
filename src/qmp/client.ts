/**
 * Client of the QEMU machine protocol over a unix socket: greeting, capabilities, numbered requests, events.
 * The same class talks to the outer machine from the host, to L1's QEMU from L0 and to L2's QEMU from L1.
 * QEMU serves one client per socket at a time; a second one waits in the backlog until its deadline.
 */
import type net from 'node:net';
import { HyperturtleError, errnoCode } from '../core/errors.ts';
import { dial } from '../core/sockets.ts';
import { withDeadline } from '../core/wait.ts';

export type QmpArguments = Readonly<Record<string, unknown>>;

export interface QmpEvent {
  event: string;
  data: Readonly<Record<string, unknown>>;
  /** When QEMU sent it, by its own wall clock, in microseconds. */
  timestampUs: number;
}

export interface QmpOptions {
  /** Default 10 s: enough for an emulated machine that is busy. */
  timeoutMs?: number;
  signal?: AbortSignal | undefined;
}

interface Pending {
  resolve: (value: unknown) => void;
  reject: (e: Error) => void;
}

interface EventWait {
  matches: (e: QmpEvent) => boolean;
  resolve: (e: QmpEvent) => void;
  reject: (e: Error) => void;
}

const isRecord = (v: unknown): v is Record<string, unknown> =>
  typeof v === 'object' && v !== null && !Array.isArray(v);

export class QmpClient {
  readonly #socket: net.Socket;
  readonly #path: string;
  readonly #pending = new Map<string, Pending>();
  readonly #waits = new Set<EventWait>();
  readonly #listeners = new Set<(e: QmpEvent) => void>();
  readonly #greeted: Promise<string>;
  #greet!: (version: string) => void;
  #version = 'unknown';
  #partial = '';
  #nextId = 1;
  #closed: Error | undefined;

  private constructor(socket: net.Socket, path: string) {
    this.#socket = socket;
    this.#path = path;
    this.#greeted = new Promise((resolve) => {
      this.#greet = resolve;
    });
    socket.setEncoding('utf8');
    socket.on('data', (text: string) => this.#receive(text));
    socket.on('error', (e) => this.#fail(new HyperturtleError('HT_QMP', `QMP ${path}: ${e.message}`)));
    socket.on('close', () =>
      this.#fail(new HyperturtleError('HT_QMP', `QMP ${path}: QEMU closed the connection (has it ended?)`)),
    );
  }

  /** Connects and negotiates. Throws HT_QMP when nobody listens, HT_TIMEOUT when another client holds the socket. */
  static async connect(path: string, options: QmpOptions = {}): Promise<QmpClient> {
    const timeoutMs = options.timeoutMs ?? 10_000;
    const socket = dial(path);
    try {
      await withDeadline(`connecting to QMP ${path}`, connected(socket, path), timeoutMs, options.signal);
      const client = new QmpClient(socket, path);
      client.#version = await withDeadline(
        `greeting of QMP ${path} (does another client hold the socket?)`,
        Promise.race([client.#greeted, client.#whenClosed()]),
        timeoutMs,
        options.signal,
      );
      await client.execute('qmp_capabilities', {}, options);
      return client;
    } catch (e) {
      socket.on('error', () => {});
      socket.destroy();
      throw e;
    }
  }

  /** QEMU's version, `7.2.22`. */
  get version(): string {
    return this.#version;
  }

  /** Runs one command and gives what it returned. Throws HT_QMP with QEMU's own text when it refuses. */
  async execute(command: string, args: QmpArguments = {}, options: QmpOptions = {}): Promise<unknown> {
    return this.#run(command, args, options, (line) => void this.#socket.write(line));
  }

  /**
   * QEMU gets a copy of a descriptor under a name, for a command that follows (`getfd`). `send` writes the bytes to the
   * socket together with the descriptor, at once or not at all.
   */
  async giveFd(
    name: string,
    send: (socket: number, what: string, bytes: Uint8Array) => void,
    options: QmpOptions = {},
  ): Promise<void> {
    const handle = (this.#socket as unknown as { _handle?: { fd?: number } })._handle;
    const own = handle?.fd;
    if (own === undefined || own < 0)
      throw this.#closed ?? new HyperturtleError('HT_QMP', `QMP ${this.#path}: no descriptor of its own`);
    await this.#run('getfd', { fdname: name }, options, (line) => {
      // what Node still holds back would come after it
      if (this.#socket.writableLength > 0)
        throw new HyperturtleError('HT_BUSY', `QMP ${this.#path}: QEMU does not read: try again`);
      send(own, `QMP ${this.#path}`, Buffer.from(line, 'utf8'));
    });
  }

  async #run(
    command: string,
    args: QmpArguments,
    options: QmpOptions,
    send: (line: string) => void,
  ): Promise<unknown> {
    if (this.#closed) throw this.#closed;
    options.signal?.throwIfAborted();
    const id = `ht-${this.#nextId++}`;
    const answer = new Promise<unknown>((resolve, reject) => this.#pending.set(id, { resolve, reject }));
    try {
      send(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
      return await withDeadline(`QMP ${command}`, answer, options.timeoutMs ?? 10_000, options.signal);
    } catch (e) {
      if (e instanceof QmpRefusal)
        throw new HyperturtleError('HT_QMP', `QEMU refused ${command}: ${e.message}`, {
          detail: { command, arguments: args, class: e.qmpClass },
        });
      throw e;
    } finally {
      this.#pending.delete(id);
    }
  }

  /** A command of the human monitor, for what QMP has no command of its own. */
  async hmp(line: string, options: QmpOptions = {}): Promise<string> {
    const text = await this.execute('human-monitor-command', { 'command-line': line }, options);
    return typeof text === 'string' ? text : '';
  }

  onEvent(listener: (e: QmpEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * The first event from now on that has this name and passes `filter`. Call it before the command that causes
   * the event and await it afterwards.
   */
  waitEvent(
    name: string,
    filter: (data: QmpEvent['data']) => boolean = () => true,
    options: QmpOptions = {},
  ): Promise<QmpEvent> {
    let wait: EventWait | undefined;
    const event = new Promise<QmpEvent>((resolve, reject) => {
      if (this.#closed) return reject(this.#closed);
      wait = { matches: (e) => e.event === name && filter(e.data), resolve, reject };
      this.#waits.add(wait);
    });
    return withDeadline(`QMP event ${name}`, event, options.timeoutMs ?? 10_000, options.signal).finally(
      () => wait && this.#waits.delete(wait),
    );
  }

  /** Resolves, with the reason, when the connection is over. */
  closed(): Promise<Error> {
    return this.#whenClosed().catch((e: unknown) => (e instanceof Error ? e : new Error(String(e))));
  }

  close(): void {
    this.#fail(new HyperturtleError('HT_QMP', `QMP ${this.#path}: closed`));
    this.#socket.destroy();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #whenClosed(): Promise<never> {
    return new Promise((_, reject) => {
      if (this.#closed) return reject(this.#closed);
      this.#waits.add({ matches: () => false, resolve: () => {}, reject });
    });
  }

  #fail(e: Error): void {
    if (this.#closed) return;
    this.#closed = e;
    for (const p of this.#pending.values()) p.reject(e);
    for (const w of this.#waits) w.reject(e);
    this.#pending.clear();
    this.#waits.clear();
  }

  #receive(text: string): void {
    const lines = (this.#partial + text).split('\n');
    this.#partial = lines.pop() ?? '';
    for (const line of lines) if (line.trim() !== '') this.#message(line);
  }

  #message(line: string): void {
    let m: unknown;
    try {
      m = JSON.parse(line);
    } catch {
      return this.#fail(new HyperturtleError('HT_QMP', `QMP ${this.#path}: not JSON: ${line.slice(0, 200)}`));
    }
    if (!isRecord(m)) return;
    if (isRecord(m['QMP'])) return this.#greet(versionOf(m['QMP']));
    if (typeof m['event'] === 'string') {
      const e: QmpEvent = {
        event: m['event'],
        data: isRecord(m['data']) ? m['data'] : {},
        timestampUs: timestampOf(m['timestamp']),
      };
      for (const l of this.#listeners) l(e);
      for (const w of this.#waits) {
        if (!w.matches(e)) continue;
        this.#waits.delete(w);
        w.resolve(e);
      }
      return;
    }
    const pending = typeof m['id'] === 'string' ? this.#pending.get(m['id']) : undefined;
    if (!pending) return; // the answer to a request whose deadline is over
    if (isRecord(m['error'])) pending.reject(new QmpRefusal(m['error']));
    else pending.resolve(m['return']);
  }
}

class QmpRefusal extends Error {
  readonly qmpClass: string;
  constructor(error: Record<string, unknown>) {
    super(typeof error['desc'] === 'string' ? error['desc'] : 'no reason given');
    this.qmpClass = typeof error['class'] === 'string' ? error['class'] : 'GenericError';
  }
}

function connected(socket: net.Socket, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', (e) => {
      const why =
        errnoCode(e) === 'ENOENT' || errnoCode(e) === 'ECONNREFUSED'
          ? 'no QEMU listens there: is the machine running?'
          : e.message;
      reject(new HyperturtleError('HT_QMP', `QMP ${path}: ${why}`, { cause: e }));
    });
  });
}

function versionOf(greeting: Record<string, unknown>): string {
  const qemu = isRecord(greeting['version']) ? greeting['version']['qemu'] : undefined;
  if (!isRecord(qemu)) return 'unknown';
  return [qemu['major'], qemu['minor'], qemu['micro']]
    .map((n) => (typeof n === 'number' ? n : '?'))
    .join('.');
}

function timestampOf(t: unknown): number {
  if (!isRecord(t)) return 0;
  const { seconds, microseconds } = t;
  return typeof seconds === 'number' && typeof microseconds === 'number' ? seconds * 1e6 + microseconds : 0;
}
