/**
 * An interactive shell at a level on this terminal. L0 and L1 have a console port of their own for it, on which a
 * shell is started. An L2's port is no terminal, and an Intel lab has none to spare: there each line is a command of its own. Ctrl-] leaves.
 */
import readline from 'node:readline';
import type { ReadStream, WriteStream } from 'node:tty';
import { HyperturtleError } from '../core/errors.ts';
import { Channel } from './channel.ts';
import type { Lab } from './lab.ts';
import type { Level } from './levels.ts';

const LEAVE = 0x1d; // Ctrl-]

export async function openConsole(
  lab: Lab,
  level: 0 | 1 | 2,
  l2: number,
  input: ReadStream,
  output: WriteStream,
): Promise<void> {
  if (!input.isTTY)
    throw new HyperturtleError(
      'HT_USAGE',
      "'lab console' needs a terminal: for scripts use 'hyperturtle lab exec'",
    );
  output.write(`connected to ${level === 2 ? `L2 (port ${l2})` : `L${level}`}; Ctrl-] leaves\r\n`);
  if (level === 2) return commandLoop(lab.l2(l2), input, output);
  const { files } = lab;
  const base = level === 0 ? files.channel.l0Console : files.channel.l1Console;
  const on = level === 0 ? lab.l0 : lab.l1;
  // no port for it there
  if (lab.environment().accel === 'bochs') return commandLoop(on, input, output);
  // the shell leads its session, so opening the terminal makes it the controlling one: Ctrl-C works
  const size = `stty rows ${output.rows} cols ${output.columns} </dev/hvc0; `;
  const shell = await on.spawn(['sh', '-c', `${size}cd /root; exec sh -l </dev/hvc0 >/dev/hvc0 2>&1`], {
    logPath: '/dev/null',
    env: { TERM: process.env['TERM'] ?? 'linux', PS1: `L${level} \\w # ` },
  });
  try {
    await attachTerminal(new Channel(base, `console of L${level}`), input, output);
  } finally {
    await shell.kill('KILL');
  }
}

/** Reads commands until Ctrl-], Ctrl-C or end of file. */
async function commandLoop(
  level: Pick<Level, 'name' | 'exec'>,
  input: ReadStream,
  output: WriteStream,
): Promise<void> {
  const lines = readline.createInterface({ input, output, prompt: `${level.name} # ` });
  input.on('keypress', (text: string | undefined) => {
    if (text?.charCodeAt(0) === LEAVE) lines.close();
  });
  // also ends a command that still runs
  const left = new AbortController();
  lines.on('close', () => left.abort());
  try {
    lines.prompt();
    for await (const line of lines) {
      if (line.trim() !== '') {
        const r = await level.exec(['sh', '-c', line], {
          timeoutMs: 600_000,
          signal: left.signal,
          onOutput: (_, chunk) => void output.write(chunk),
        });
        if (r.status !== 0) output.write(`(status ${r.status})\n`);
      }
      lines.prompt();
    }
  } catch (e) {
    if (!left.signal.aborted) throw e;
  } finally {
    lines.close();
    input.removeAllListeners('keypress');
    output.write('\n');
  }
}

/** Until Ctrl-] or the end of the machine. */
async function attachTerminal(channel: Channel, input: ReadStream, output: WriteStream): Promise<void> {
  await channel.use(
    async (c) => {
      c.onData((chunk) => output.write(chunk));
      input.setRawMode(true);
      input.resume();
      try {
        await new Promise<void>((resolve, reject) => {
          c.onEnd(reject);
          input.on('data', (chunk: Buffer) => {
            const at = chunk.indexOf(LEAVE);
            c.write(at < 0 ? chunk : chunk.subarray(0, at));
            if (at >= 0) resolve();
          });
          input.on('end', resolve);
        });
      } finally {
        input.setRawMode(false);
        input.pause();
        input.removeAllListeners('data');
        output.write('\r\n');
      }
    },
    { timeoutMs: 5000 },
  );
}
