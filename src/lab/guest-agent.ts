/**
 * A level reached by the stock qemu-guest-agent over a Channel. One request is on the channel at a time; between
 * the polls of a long command others have their turn.
 */
import { randomInt } from 'node:crypto';
import { HyperturtleError } from '../core/errors.ts';
import { patient } from '../core/patience.ts';
import { sleep } from '../core/wait.ts';
import type { Channel, ChannelOptions, Connection } from './channel.ts';
import { stillRunning } from './levels.ts';
import type { CommandOptions, CommandResult, Job, Level, RunOptions } from './levels.ts';

/**
 * How long the agent may take for one answer: some KiB a second go through a serial port, and an emulated L1 on a busy
 * machine gave none for 30 s once (why is not known).
 */
const ANSWER_MS = 120_000;
/** Bytes of a file in one request. */
const CHUNK_BYTES = 192 << 10;
/** Marks the start of a fresh message for the agent's parser, and of the answer to guest-sync-delimited. */
const FRESH = 0xff;

type Json = Readonly<Record<string, unknown>>;

export class AgentLevel implements Level {
  readonly name: string;
  readonly #channel: Channel;
  readonly #idPrefix = `${process.pid}-${randomInt(2 ** 31).toString(36)}`;
  readonly #gone = new AbortController();
  #nextId = 0;

  constructor(name: string, channel: Channel) {
    this.name = name;
    this.#channel = channel;
  }

  /** Its machine has ended: what is asked of it fails from now on, and what was asked before does so at once. */
  end(): void {
    this.#gone.abort(new HyperturtleError('HT_CHANNEL', `${this.name}: its machine has ended`));
  }

  /** Throws when the agent doesn't answer in time. */
  async ping(options: ChannelOptions): Promise<void> {
    await this.#request('guest-ping', {}, options);
  }

  async exec(argv: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
    const timeoutMs = patient(options.timeoutMs ?? 60_000);
    const t0 = performance.now();
    const tail = options.onOutput && (await this.#tail(options.onOutput, options.signal));
    try {
      const pid = await this.#start(tail ? tail.command(argv) : argv, options, tail === undefined);
      try {
        let quietSince = t0;
        for (;;) {
          const s = await this.#status(pid, options.signal);
          if (await tail?.read(options.signal)) quietSince = performance.now();
          if (s) return s;
          const now = performance.now();
          if (now - t0 > timeoutMs) throw stillRunning(this.name, argv, timeoutMs);
          await sleep(pollMs(now - quietSince), options.signal);
        }
      } catch (e) {
        await this.#killGroup(pid, 'KILL').catch(() => {}); // the first error is the one to tell
        await this.#status(pid, undefined).catch(() => {}); // lets the agent forget it
        await tail?.read(undefined).catch(() => {}); // what it said before is what explains its end
        throw e;
      }
    } finally {
      await tail?.close();
    }
  }

  /**
   * Output of a command while it runs. The agent gives captured output at the end only, so it goes to two files that the agent has
   * open too and gives from where it stopped before. The command's own shell removes their names: nothing is left however this ends.
   */
  async #tail(
    onOutput: NonNullable<CommandOptions['onOutput']>,
    signal: AbortSignal | undefined,
  ): Promise<{
    command: (argv: readonly string[]) => string[];
    /** Gives on what is there by now, and whether there was any. */
    read: (signal: AbortSignal | undefined) => Promise<boolean>;
    close: () => Promise<void>;
  }> {
    const base = `/run/exec-${this.#idPrefix}-${this.#nextId++}`;
    const files: { to: 'stdout' | 'stderr'; path: string; handle: unknown }[] = [];
    const close = async (): Promise<void> => {
      for (const { handle } of files)
        await this.#requestAny('guest-file-close', { handle }, { timeoutMs: ANSWER_MS }).catch(() => {});
    };
    try {
      for (const to of ['stdout', 'stderr'] as const) {
        const path = `${base}.${to}`;
        const o = { timeoutMs: ANSWER_MS, signal };
        const handle = await this.#requestAny('guest-file-open', { path, mode: 'w+' }, o);
        files.push({ to, path, handle });
      }
    } catch (e) {
      await close();
      throw e;
    }
    const read = async (stop: AbortSignal | undefined): Promise<boolean> => {
      let some = false;
      for (const { to, handle } of files)
        for (;;) {
          const o = { timeoutMs: ANSWER_MS, signal: stop };
          const r = await this.#request('guest-file-read', { handle, count: CHUNK_BYTES }, o);
          const part = decode(r['buf-b64']);
          if (part.length > 0) onOutput(to, part);
          some ||= part.length > 0;
          if (part.length < CHUNK_BYTES) break;
        }
      return some;
    };
    const script = 'exec >>"$1" 2>>"$2"; rm -f "$1" "$2"; shift 2; exec "$@"';
    return {
      command: (argv) => ['sh', '-c', script, 'exec', ...files.map((f) => f.path), ...argv],
      read,
      close,
    };
  }

  async spawn(
    argv: readonly string[],
    options: {
      logPath?: string;
      env?: Readonly<Record<string, string>>;
      signal?: AbortSignal | undefined;
    } = {},
  ): Promise<Job> {
    const logPath = options.logPath ?? `/run/job-${this.#idPrefix}-${this.#nextId++}.log`;
    const script = ['sh', '-c', 'log=$1; shift; exec "$@" >"$log" 2>&1 </dev/null', 'job', logPath, ...argv];
    // there before the command is: anyone who asks for the output at once finds none, not an error
    await this.writeFile(logPath, Buffer.alloc(0));
    const pid = await this.#start(script, options, false);
    let ended: number | undefined;
    const status = async (): Promise<number | undefined> =>
      (ended ??= (await this.#status(pid, undefined))?.status);
    return {
      pid,
      logPath,
      status,
      wait: async (o: RunOptions = {}) => {
        const timeoutMs = patient(o.timeoutMs ?? 60_000);
        const t0 = performance.now();
        for (;;) {
          const s = await status();
          if (s !== undefined) return s;
          const elapsedMs = performance.now() - t0;
          if (elapsedMs > timeoutMs) throw stillRunning(this.name, argv, timeoutMs);
          await sleep(pollMs(elapsedMs), o.signal);
        }
      },
      kill: async (signal = 'TERM') => {
        if (ended === undefined) await this.#killGroup(pid, signal);
      },
      output: async () => (await this.readFile(logPath)).toString('utf8'),
    };
  }

  async readFile(path: string, options: RunOptions = {}): Promise<Buffer> {
    return this.#withFile(path, 'r', options, async (handle, o) => {
      const parts: Buffer[] = [];
      for (;;) {
        const r = await this.#request('guest-file-read', { handle, count: CHUNK_BYTES }, o);
        const part = decode(r['buf-b64']);
        parts.push(part);
        if (r['eof'] === true || part.length === 0) return Buffer.concat(parts);
      }
    });
  }

  async writeFile(
    path: string,
    data: string | Buffer,
    options: RunOptions & { mode?: number } = {},
  ): Promise<void> {
    const bytes = Buffer.from(data);
    await this.#withFile(path, 'w', options, async (handle, o) => {
      for (let at = 0; at < bytes.length; ) {
        const part = bytes.subarray(at, at + CHUNK_BYTES);
        const r = await this.#request(
          'guest-file-write',
          { handle, 'buf-b64': part.toString('base64'), count: part.length },
          o,
        );
        const count = r['count'];
        if (typeof count !== 'number' || count <= 0)
          throw new HyperturtleError(
            'HT_CHANNEL',
            `${this.name}: ${path}: only ${at} bytes written (disk full?)`,
          );
        at += count;
      }
    });
    const r = await this.exec(['chmod', (options.mode ?? 0o644).toString(8), path], options);
    if (r.status !== 0)
      throw new HyperturtleError(
        'HT_COMMAND_FAILED',
        `${this.name}: chmod ${path}: ${r.stderr.toString().trim()}`,
      );
  }

  /** A session of its own for each command, so that its whole process group can be signalled. */
  async #start(
    argv: readonly string[],
    options: {
      env?: Readonly<Record<string, string>>;
      input?: string | Buffer;
      signal?: AbortSignal | undefined;
    },
    capture: boolean,
  ): Promise<number> {
    if (argv[0] === undefined) throw new HyperturtleError('HT_USAGE', `${this.name}: no command given`);
    const env = Object.entries(options.env ?? {}).map(([k, v]) => `${k}=${v}`);
    const r = await this.#request(
      'guest-exec',
      {
        path: 'setsid',
        arg: env.length > 0 ? ['env', ...env, ...argv] : [...argv],
        'capture-output': capture,
        ...(options.input === undefined
          ? {}
          : { 'input-data': Buffer.from(options.input).toString('base64') }),
      },
      { timeoutMs: ANSWER_MS, signal: options.signal },
    );
    if (typeof r['pid'] !== 'number')
      throw new HyperturtleError('HT_CHANNEL', `${this.name}: guest-exec: no pid`);
    return r['pid'];
  }

  async #status(pid: number, signal: AbortSignal | undefined): Promise<CommandResult | undefined> {
    const r = await this.#request('guest-exec-status', { pid }, { timeoutMs: ANSWER_MS, signal });
    if (r['exited'] !== true) return undefined;
    if (r['out-truncated'] === true || r['err-truncated'] === true)
      throw new HyperturtleError('HT_CHANNEL', `${this.name}: more than 16 MiB of output: send it to a file`);
    const status =
      typeof r['exitcode'] === 'number'
        ? r['exitcode']
        : 128 + (typeof r['signal'] === 'number' ? r['signal'] : 0);
    return { status, stdout: decode(r['out-data']), stderr: decode(r['err-data']) };
  }

  async #killGroup(pid: number, signal: string): Promise<void> {
    // the group may not exist yet when the command has just been forked
    const script = `kill -${signal} -${pid} 2>/dev/null || kill -${signal} ${pid} 2>/dev/null; :`;
    const killer = await this.#start(['sh', '-c', script], {}, false);
    for (let i = 0; i < 100 && !(await this.#status(killer, undefined)); i++) await sleep(5);
  }

  async #withFile<T>(
    path: string,
    mode: 'r' | 'w',
    options: RunOptions,
    body: (handle: unknown, o: ChannelOptions) => Promise<T>,
  ): Promise<T> {
    const end = performance.now() + patient(options.timeoutMs ?? 120_000);
    const o: ChannelOptions = {
      get timeoutMs() {
        return Math.max(1, Math.min(ANSWER_MS, end - performance.now()));
      },
      signal: options.signal,
    };
    const handle = await this.#requestAny('guest-file-open', { path, mode }, o);
    try {
      return await body(handle, o);
    } finally {
      await this.#requestAny('guest-file-close', { handle }, { timeoutMs: ANSWER_MS }).catch(() => {});
    }
  }

  async #request(command: string, args: Json, options: ChannelOptions): Promise<Json> {
    const r = await this.#requestAny(command, args, options);
    return typeof r === 'object' && r !== null ? (r as Json) : {};
  }

  async #requestAny(command: string, args: Json, asked: ChannelOptions): Promise<unknown> {
    const gone = this.#gone.signal;
    const options: ChannelOptions = {
      get timeoutMs() {
        return asked.timeoutMs;
      },
      signal: asked.signal ? AbortSignal.any([asked.signal, gone]) : gone,
    };
    return this.#channel.use(async (c) => {
      if (c.suspect) await this.#sync(c, options);
      const id = `${this.#idPrefix}-${this.#nextId++}`;
      c.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
      for (;;) {
        const answer = parse(await c.readLine(options));
        if (answer?.['id'] !== id) continue; // an answer to somebody who is gone
        const error = answer['error'];
        if (typeof error === 'object' && error !== null)
          throw new HyperturtleError(
            'HT_COMMAND_FAILED',
            `${this.name}: ${command}: ${descOf(error as Json)}`,
            {
              detail: { command },
            },
          );
        return answer['return'];
      }
    }, options);
  }

  /** Brings both parsers to a message boundary, whatever a dead client left half-sent. */
  async #sync(c: Connection, options: ChannelOptions): Promise<void> {
    const token = randomInt(2 ** 40);
    c.write(Buffer.from([FRESH]));
    c.write(`${JSON.stringify({ execute: 'guest-sync-delimited', arguments: { id: token } })}\n`);
    for (;;) {
      const answer = parse(await c.readLine(options));
      if (answer?.['return'] === token) return;
    }
  }
}

/**
 * Quick at first, then rarely: each poll costs the emulated machine time that is being measured, and the end of a command is
 * seen half an interval late, which is a 24th of its time.
 */
export function pollMs(elapsedMs: number): number {
  return Math.min(500, Math.max(4, elapsedMs / 12));
}

function parse(line: Buffer): Json | undefined {
  const text = line.subarray(line.lastIndexOf(FRESH) + 1).toString('utf8');
  try {
    const v: unknown = JSON.parse(text);
    return typeof v === 'object' && v !== null ? (v as Json) : undefined;
  } catch {
    return undefined;
  }
}

function decode(value: unknown): Buffer {
  return typeof value === 'string' ? Buffer.from(value, 'base64') : Buffer.alloc(0);
}

function descOf(error: Json): string {
  return typeof error['desc'] === 'string' ? error['desc'] : 'refused';
}
