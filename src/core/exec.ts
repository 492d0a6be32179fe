/** Runs one program to its end, with a deadline and a bounded copy of its output. */
import { spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { HyperturtleError } from './errors.ts';
import { fileError } from './files.ts';
import { patient } from './patience.ts';

export interface ExecOptions {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  input?: string | Buffer;
  timeoutMs?: number;
  signal?: AbortSignal | undefined;
  /** Called with each chunk of stdout and stderr as it comes. */
  onOutput?: (chunk: Buffer, stream: 'stdout' | 'stderr') => void;
  /** Exit statuses that are not an error. Default: only 0. */
  okStatus?: readonly number[];
  /** How much of each stream is kept, in bytes; the last ones win. Default 16 MiB. */
  maxBytes?: number;
}

export interface ExecResult {
  status: number;
  stdout: Buffer;
  stderr: Buffer;
}

/** Throws HT_COMMAND_FAILED (with the output's tail), HT_TIMEOUT, HT_NOT_FOUND, or the signal's reason. */
export function exec(file: string, args: readonly string[], options: ExecOptions = {}): Promise<ExecResult> {
  const timeoutMs = patient(options.timeoutMs ?? 120_000);
  return new Promise((resolve, reject) => {
    options.signal?.throwIfAborted();
    // a process group of its own: the deadline ends what the program started as well
    const child = spawn(file, args, {
      cwd: options.cwd,
      env: options.env ?? process.env,
      stdio: ['pipe', 'pipe', 'pipe'],
      detached: true,
    });
    let failure: Error | undefined;
    const kill = (why: Error): void => {
      failure ??= why;
      killGroup(child.pid);
    };
    const timer = setTimeout(
      () => kill(new HyperturtleError('HT_TIMEOUT', `${file}: still running after ${timeoutMs / 1000} s`)),
      timeoutMs,
    );
    const onAbort = (): void =>
      kill(options.signal!.reason instanceof Error ? options.signal!.reason : new Error('aborted'));
    options.signal?.addEventListener('abort', onAbort, { once: true });
    const stdout = keepTail(child.stdout, 'stdout', options);
    const stderr = keepTail(child.stderr, 'stderr', options);
    child.stdin.on('error', () => {}); // the program may end without reading: its status tells
    child.stdin.end(options.input);
    const finish = (): void => {
      clearTimeout(timer);
      options.signal?.removeEventListener('abort', onAbort);
    };
    child.on('error', (e: NodeJS.ErrnoException) => {
      finish();
      reject(notStarted(file, e));
    });
    child.on('close', (code, sig) => {
      finish();
      if (failure) return reject(failure);
      const result: ExecResult = { status: code ?? 128, stdout: stdout(), stderr: stderr() };
      if (code !== null && (options.okStatus ?? [0]).includes(code)) return resolve(result);
      reject(failed([file, ...args.slice(0, 3)].join(' '), { code, signal: sig }, result));
    });
  });
}

function killGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // already gone
  }
}

/** Keeps the last bytes of a stream; what is returned gives those so far. */
function keepTail(stream: Readable, name: 'stdout' | 'stderr', options: ExecOptions): () => Buffer {
  const maxBytes = options.maxBytes ?? 16 << 20;
  const parts: Buffer[] = [];
  let size = 0;
  stream.on('data', (chunk: Buffer) => {
    parts.push(chunk);
    size += chunk.length;
    while (size > maxBytes && parts.length > 1) size -= parts.shift()!.length;
    options.onOutput?.(chunk, name);
  });
  return () => Buffer.concat(parts);
}

function notStarted(file: string, e: NodeJS.ErrnoException): Error {
  return e.code === 'ENOENT'
    ? new HyperturtleError('HT_NOT_FOUND', `program '${file}' not found: install it or set PATH`)
    : fileError(e, 'the program cannot be run', file);
}

function failed(
  command: string,
  { code, signal }: { code: number | null; signal: NodeJS.Signals | null },
  { stdout, stderr }: ExecResult,
): HyperturtleError {
  const tail = (stderr.length > 0 ? stderr : stdout).toString('utf8').trim().slice(-2000);
  return new HyperturtleError(
    'HT_COMMAND_FAILED',
    `${command}: ${signal ? `ended by ${signal}` : `status ${code}`}${tail ? `: ${tail}` : ''}`,
    { detail: { status: code, signal, tail } },
  );
}
