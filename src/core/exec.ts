/** Runs one program to its end, with a deadline and a bounded copy of its output. */
import { spawn } from 'node:child_process';
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
  const maxBytes = options.maxBytes ?? 16 << 20;
  return new Promise((resolve, reject) => {
    options.signal?.throwIfAborted();
    // a process group of its own: the deadline ends what the program started as well
    const child = spawn(file, args, {
      cwd: options.cwd,
      env: options.env ?? process.env,
      stdio: ['pipe', 'pipe', 'pipe'],
      detached: true,
    });
    const out: Record<'stdout' | 'stderr', { parts: Buffer[]; size: number }> = {
      stdout: { parts: [], size: 0 },
      stderr: { parts: [], size: 0 },
    };
    let failure: Error | undefined;
    const kill = (why: Error): void => {
      failure ??= why;
      if (child.pid === undefined) return;
      try {
        process.kill(-child.pid, 'SIGKILL');
      } catch {
        // already gone
      }
    };
    const timer = setTimeout(
      () => kill(new HyperturtleError('HT_TIMEOUT', `${file}: still running after ${timeoutMs / 1000} s`)),
      timeoutMs,
    );
    const onAbort = (): void =>
      kill(options.signal!.reason instanceof Error ? options.signal!.reason : new Error('aborted'));
    options.signal?.addEventListener('abort', onAbort, { once: true });
    for (const name of ['stdout', 'stderr'] as const) {
      child[name].on('data', (chunk: Buffer) => {
        const o = out[name];
        o.parts.push(chunk);
        o.size += chunk.length;
        while (o.size > maxBytes && o.parts.length > 1) o.size -= o.parts.shift()!.length;
        options.onOutput?.(chunk, name);
      });
    }
    child.stdin.on('error', () => {}); // the program may end without reading: its status tells
    child.stdin.end(options.input);
    const finish = (): void => {
      clearTimeout(timer);
      options.signal?.removeEventListener('abort', onAbort);
    };
    child.on('error', (e: NodeJS.ErrnoException) => {
      finish();
      reject(
        e.code === 'ENOENT'
          ? new HyperturtleError('HT_NOT_FOUND', `program '${file}' not found: install it or set PATH`)
          : fileError(e, 'the program cannot be run', file),
      );
    });
    child.on('close', (code, sig) => {
      finish();
      if (failure) return reject(failure);
      const result: ExecResult = {
        status: code ?? 128,
        stdout: Buffer.concat(out.stdout.parts),
        stderr: Buffer.concat(out.stderr.parts),
      };
      if (code !== null && (options.okStatus ?? [0]).includes(code)) return resolve(result);
      const tail = (result.stderr.length > 0 ? result.stderr : result.stdout)
        .toString('utf8')
        .trim()
        .slice(-2000);
      reject(
        new HyperturtleError(
          'HT_COMMAND_FAILED',
          `${file} ${args.slice(0, 3).join(' ')}: ${sig ? `ended by ${sig}` : `status ${code}`}${tail ? `: ${tail}` : ''}`,
          { detail: { status: code, signal: sig, tail } },
        ),
      );
    });
  });
}
