/** Commands in a nested guest, over the console port that reaches the host through L1 and L0. */
import { HyperturtleError } from '../core/errors.ts';
import { L2Shell } from '../guest/l2-shell.ts';
import type { Channel } from './channel.ts';
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
    const timed = { timeoutMs: options.timeoutMs ?? 60_000, signal: options.signal };
    return this.#channel.use(async (c) => {
      const r = await new L2Shell(c).run(env.join('') + argv.map(shellWord).join(' '), timed);
      // first in the pipe may be what an L2 says when it comes up, and answers to somebody who is gone
      const own = r.lines.slice(r.lines.findLastIndex((l) => OTHERS.test(l)) + 1);
      const text = own.map((l) => `${l}\n`).join('');
      return { status: r.status, stdout: Buffer.from(text), stderr: Buffer.alloc(0) };
    }, timed);
  }
}
