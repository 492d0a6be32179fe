/** The program that runs the outer machine, as the rest of the lab knows it: which one it is makes no difference there. */
import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { HyperturtleError, errnoCode } from '../core/errors.ts';
import { waitFor } from '../core/wait.ts';
import type { ToolProgram } from './artifacts.ts';
import { identify } from '../core/process.ts';
import type { ProcessId } from '../core/process.ts';
import { own } from '../core/own.ts';

export interface Emulator {
  id: ProcessId;
  /** Throws when it has ended. */
  check: () => void;
  /** Ends it, and what it needs beside it. */
  end: () => Promise<void>;
}

export interface ChildStart {
  /** For messages: `QEMU`. */
  name: string;
  program: ToolProgram;
  args: readonly string[];
  /** Where its own messages go; its screen too, if it has one. */
  logPath: string;
  /** Where to look for why it ended; default `logPath`. */
  reasonPath?: string;
  lifetime: 'owner' | 'detached';
  cwd?: string;
}

/** Starts a process that ends with this one, however that ends (a parent-death signal), or stays. */
export async function startChild(s: ChildStart): Promise<{ id: ProcessId; check: () => void }> {
  // env(1) sets the program's environment only after setpriv, a program of the host, has been loaded
  const env = Object.entries(s.program.env)
    .filter(([k, v]) => v !== undefined && own(process.env, k) !== v)
    .map(([k, v]) => `${k}=${v ?? ''}`);
  const command = ['env', ...env, s.program.bin, ...s.program.args, ...s.args];
  if (s.lifetime === 'owner') command.unshift('setpriv', '--pdeathsig', 'KILL');
  const log = openSync(s.logPath, 'a');
  const child = spawn(command[0]!, command.slice(1), {
    detached: true,
    stdio: ['ignore', log, log],
    ...(s.cwd === undefined ? {} : { cwd: s.cwd }),
  });
  closeSync(log);
  let ended: string | undefined;
  child.on('error', (e) => {
    ended = errnoCode(e) === 'ENOENT' ? `program '${command[0]}' not found (package util-linux)` : e.message;
  });
  child.on('exit', (code, signal) => {
    ended ??= signal ? `ended by ${signal}` : `ended with status ${code}`;
  });
  child.unref();
  const check = (): void => {
    if (ended === undefined) return;
    const text = readFileSync(s.reasonPath ?? s.logPath, 'utf8');
    const tail = text.trim().split('\n').slice(-5).join('; ');
    throw new HyperturtleError('HT_BOOT_FAILED', `${s.name} ${ended}${tail ? `: ${tail}` : ''}`);
  };
  const id = child.pid === undefined ? undefined : identify(child.pid);
  if (!id) {
    await waitFor(`start of ${s.name}`, () => ended, { timeoutMs: 5000, intervalMs: 5 });
    check();
    throw new HyperturtleError('HT_BOOT_FAILED', `${s.name} did not start`);
  }
  return { id, check };
}
