/** What one can do at a level of the lab, whatever the channel: run commands, start jobs, move files. */
import { HyperturtleError } from '../core/errors.ts';

export interface RunOptions {
  /** Default 60 s. At the deadline the command is killed with all that it started. */
  timeoutMs?: number | undefined;
  signal?: AbortSignal | undefined;
}

export interface CommandOptions extends RunOptions {
  input?: string | Buffer;
  /** Added to the level's own environment. */
  env?: Readonly<Record<string, string>>;
  /**
   * Called with output as it comes; the result then has none. The end is that of the command itself: what it started and left
   * running does not hold it up, as it does without.
   */
  onOutput?: ((to: 'stdout' | 'stderr', chunk: Buffer) => void) | undefined;
}

export interface CommandResult {
  /** 128 + number for a command that a signal ended, as the shell has it. */
  status: number;
  stdout: Buffer;
  stderr: Buffer;
}

/** A long-running command at a level. Its output goes to `logPath` there. */
export interface Job {
  readonly pid: number;
  readonly logPath: string;
  /** Waits for its end, and gives the exit status. Throws HT_TIMEOUT when it is still running. */
  wait(options?: RunOptions): Promise<number>;
  /** The exit status, or undefined while it runs. */
  status(): Promise<number | undefined>;
  /** Signals it and all that it started. Default SIGTERM. No error when it is already gone. */
  kill(signal?: 'TERM' | 'KILL' | 'INT' | 'STOP' | 'CONT' | 'USR1' | 'USR2' | 'URG'): Promise<void>;
  /** Its output so far. */
  output(): Promise<string>;
}

export interface Level {
  /** `L0`, `L1`, `L2.0`: for messages. */
  readonly name: string;
  /** Runs one command to its end. A non-zero status is a result, not an error: see `run()`. */
  exec(argv: readonly string[], options?: CommandOptions): Promise<CommandResult>;
  spawn(
    argv: readonly string[],
    options?: { logPath?: string; env?: Readonly<Record<string, string>>; signal?: AbortSignal | undefined },
  ): Promise<Job>;
  readFile(path: string, options?: RunOptions): Promise<Buffer>;
  /** `mode` is of a new file; default 0644. */
  writeFile(path: string, data: string | Buffer, options?: RunOptions & { mode?: number }): Promise<void>;
}

/** The error of a command that is over its limit. */
export function stillRunning(level: string, argv: readonly string[], timeoutMs: number): HyperturtleError {
  const command = argv.slice(0, 3).join(' ');
  return new HyperturtleError(
    'HT_TIMEOUT',
    `${level}: ${command}: still running after ${timeoutMs / 1000} s`,
  );
}

/** Runs a command that must succeed, and gives its standard output as text. Throws HT_COMMAND_FAILED. */
export async function run(
  level: Level,
  argv: readonly string[],
  options: CommandOptions = {},
): Promise<string> {
  const r = await level.exec(argv, options);
  if (r.status === 0) return r.stdout.toString('utf8');
  const tail = (r.stderr.length > 0 ? r.stderr : r.stdout).toString('utf8').trim().slice(-2000);
  throw new HyperturtleError(
    'HT_COMMAND_FAILED',
    `${level.name}: ${argv.slice(0, 4).join(' ').slice(0, 200)}: status ${r.status}${tail ? `: ${tail}` : ''}`,
    { detail: { level: level.name, argv, status: r.status, tail } },
  );
}

/** The same for a shell script. */
export function runScript(level: Level, script: string, options: CommandOptions = {}): Promise<string> {
  return run(level, ['sh', '-c', script], options);
}
