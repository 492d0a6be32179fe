/** What all commands that talk to this machine's agent share: its socket, the deadline, --json, interruption. */
import type { Command } from 'commander';
import { AGENT_SOCKET } from '../core/default-paths.ts';
import { variable } from '../core/environment.ts';
import { writeOut } from '../core/output.ts';
import { visibleLine } from '../core/visible.ts';
import type { LOCAL_METHODS } from '../guest/agent/schema.ts';
import type { RpcPeer } from '../wire/peer.ts';
import type { NotificationArguments } from '../wire/schema.ts';
import { integer, printJson } from './values.ts';

export interface L1Options {
  socket: string;
  timeoutS: number;
  json?: boolean;
}

/** As in src/guest/agent/config.ts, which is not loaded for a list of options. */

export function l1Options(command: Command): Command {
  return command
    .option('--socket <path>', "the agent's socket", variable('HYPERTURTLE_SOCKET') ?? AGENT_SOCKET)
    .option('--timeout-s <number>', 'seconds to wait for the answer', integer('--timeout-s', 1, 3600), 120)
    .option('--json', 'one line of JSON');
}

export interface AgentClient {
  readonly peer: RpcPeer<typeof LOCAL_METHODS>;
  /** Aborted by SIGINT and SIGTERM, and when the agent ends the connection: the reason says which. */
  readonly signal: AbortSignal;
  readonly timeoutMs: number;
}

export type OnNotify = (...notification: NotificationArguments) => void;

/** Connects, calls `use`, and closes whatever it throws. Throws HT_UNAVAILABLE when no agent runs. */
export async function withAgent<T>(
  options: L1Options,
  use: (client: AgentClient) => Promise<T>,
  onNotify?: OnNotify,
): Promise<T> {
  const [{ connectSocket, whyNot }, { LOCAL_METHODS }, { RpcPeer }, { abortOnSignals }, errors] =
    await Promise.all([
      import('../core/sockets.ts'),
      import('../guest/agent/schema.ts'),
      import('../wire/peer.ts'),
      import('../core/lifecycle.ts'),
      import('../core/errors.ts'),
    ]);
  const { HyperturtleError, isHyperturtleError } = errors;
  const signals = abortOnSignals();
  const ended = new AbortController();
  try {
    const stream = await connectSocket(options.socket, signals.signal).catch((e: unknown) => {
      if (isHyperturtleError(e, 'HT_NOT_FOUND') || isHyperturtleError(e, 'HT_CHANNEL')) {
        throw new HyperturtleError(
          'HT_UNAVAILABLE',
          `no agent at ${options.socket} (${whyNot(options.socket, e)}): start it (systemctl start hyperturtle-agent, or hyperturtle guest agent) as root`,
          { cause: e },
        );
      }
      throw e;
    });
    const peer = new RpcPeer(stream, {
      calls: LOCAL_METHODS,
      session: 'connection',
      ...(onNotify ? { onNotify } : {}),
      onClose: (reason) =>
        ended.abort(
          reason ??
            new HyperturtleError('HT_UNAVAILABLE', 'the agent has closed the connection: is it restarting?'),
        ),
    });
    try {
      return await use({
        peer,
        signal: AbortSignal.any([signals.signal, ended.signal]),
        timeoutMs: options.timeoutS * 1000,
      });
    } finally {
      peer.close();
    }
  } finally {
    signals.dispose();
  }
}

/** The result as JSON, or the lines that `text` makes of it. */
export function print<T>(options: L1Options, result: T, text: (result: T) => string): void {
  if (options.json) printJson(result);
  else {
    const lines = text(result);
    if (lines !== '') writeOut(`${lines}\n`);
  }
}

/** Columns side by side, left-aligned but for the numbers; an empty list is an empty text. */
export function columns(head: readonly string[], rows: readonly (readonly string[])[]): string {
  if (rows.length === 0) return '';
  // names of guests, files and maps: of one line each, or they could write lines of their own
  const all = [head, ...rows.map((r) => r.map(visibleLine))];
  const isNumber = head.map((_, i) => rows.every((r) => /^[-\d.,%]*[kMG]?$/.test(r[i] ?? '')));
  const widths = head.map((_, i) => Math.max(...all.map((r) => (r[i] ?? '').length)));
  return all
    .map((r) =>
      widths
        .map((w, i) => (isNumber[i] ? (r[i] ?? '').padStart(w) : (r[i] ?? '').padEnd(w)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
