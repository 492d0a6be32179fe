/**
 * An interactive shell at a level on this terminal. L0 and L1 have a console port of their own for it, on which a
 * shell is started; an L2's shell listens on its port already. Ctrl-] leaves.
 */
import type { ReadStream, WriteStream } from 'node:tty';
import { HyperturtleError } from '../core/errors.ts';
import { Channel } from './channel.ts';
import type { Lab } from './lab.ts';

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
  if (level === 2) return attachTerminal(lab.l2Channel(l2), input, output, 'run console sh -i\n');
  const { files } = lab;
  const base = level === 0 ? files.channel.l0Console : files.channel.l1Console;
  const on = level === 0 ? lab.l0 : lab.l1;
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

/** Until Ctrl-] or the end of the machine. */
async function attachTerminal(
  channel: Channel,
  input: ReadStream,
  output: WriteStream,
  first?: string,
): Promise<void> {
  await channel.use(
    async (c) => {
      c.onData((chunk) => output.write(chunk));
      if (first !== undefined) c.write(first);
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
