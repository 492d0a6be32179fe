/** Commands in a nested guest, over the console port that reaches the host through L1 and L0. */
import { HyperturtleError } from '../core/errors.ts';
import { ChildAbort } from '../core/lifecycle.ts';
import { patient } from '../core/patience.ts';
import { L2Shell } from './l2-shell.ts';
import type { Channel } from './channel.ts';
import { stillRunning } from './levels.ts';
import type { CommandOptions, CommandResult, Level } from './levels.ts';
import { shellWord } from './machine.ts';

/** Lines of the protocol of src/lab/l2-init.ts. */
const OTHERS = /^### (L2 up [\d.]+|done [0-9a-f]{12} \d+)$/;

export class L2Level implements Pick<Level, 'name' | 'exec'> {
  readonly name: string;
  readonly #channel: Channel;

  constructor(name: string, channel: Channel) {
    this.name = name;
    this.#channel = channel;
  }

  /** Output and errors come together, as text. There is no standard input. */
  async exec(argv: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
    if (options.input !== undefined)
      throw new HyperturtleError('HT_UNSUPPORTED', `${this.name}: commands in L2 have no standard input`);
    const env = Object.entries(options.env ?? {}).map(([k, v]) => `${k}=${shellWord(v)} `);
    const command = env.join('') + argv.map(shellWord).join(' ');
    const timeoutMs = options.timeoutMs ?? 60_000;
    using limit = new ChildAbort(options.signal ?? new AbortController().signal);
    // a limit for each line, which the shell has, is none for a command that goes on talking
    const timer = setTimeout(() => limit.abort(stillRunning(this.name, argv, timeoutMs)), patient(timeoutMs));
    const timed = { timeoutMs, signal: limit.signal };
    const { onOutput } = options;
    const say = (line: string): void => onOutput?.('stdout', Buffer.from(`${line}\n`));
    try {
      return await this.#channel.use(async (c) => {
        const shell = new L2Shell(c);
        if (onOutput) {
          // an answer of its own takes out of the pipe what was there before
          await shell.run(':', timed);
          const r = await shell.run(command, {
            ...timed,
            onLine: (line) => void (OTHERS.test(line) || say(line)),
          });
          if (r.unended !== undefined) say(r.unended);
          return { status: r.status, stdout: Buffer.alloc(0), stderr: Buffer.alloc(0) };
        }
        const r = await shell.run(command, timed);
        // first in the pipe may be what an L2 says when it comes up, and answers to somebody who is gone
        const own = r.lines.slice(r.lines.findLastIndex((l) => OTHERS.test(l)) + 1);
        const text = own.map((l) => `${l}\n`).join('');
        return { status: r.status, stdout: Buffer.from(text), stderr: Buffer.alloc(0) };
      }, timed);
    } finally {
      clearTimeout(timer);
    }
  }
}
