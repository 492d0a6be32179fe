/** Options of all commands that talk to this machine's agent: its socket, the deadline, --json. */
import type { Command } from 'commander';
import { AGENT_SOCKET } from '../../core/default-paths.ts';
import { variable } from '../../core/environment.ts';
import { writeOut } from '../../core/output.ts';
import { integer, printJson } from './values.ts';

export interface L1Options {
  socket: string;
  timeoutS: number;
  json?: boolean;
}

export function l1Options(command: Command): Command {
  return command
    .option('--socket <path>', "the agent's socket", variable('HYPERTURTLE_SOCKET') ?? AGENT_SOCKET)
    .option('--timeout-s <number>', 'seconds to wait for the answer', integer('--timeout-s', 1, 3600), 120)
    .option('--json', 'one line of JSON');
}

/** The result as JSON, or the lines that `text` makes of it. */
export function print<T>(options: L1Options, result: T, text: (result: T) => string): void {
  if (options.json) printJson(result);
  else {
    const lines = text(result);
    if (lines !== '') writeOut(`${lines}\n`);
  }
}
