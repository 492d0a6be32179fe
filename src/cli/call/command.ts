/** `hyperturtle call`: one call of a program that is linked to the hook `call`. */
import type { Command } from 'commander';
import { HyperturtleError } from '../../core/errors.ts';
import { HT_CALL_NUMBER_MIN, HT_CALL_WORDS } from '../../kernel/call.ts';
import { withAgent } from '../../client/session.ts';
import { l1Options, print } from '../shared/agent-options.ts';
import type { L1Options } from '../shared/agent-options.ts';
import { integer } from '../shared/values.ts';

interface CallOptions extends L1Options {
  program?: string;
  number?: number;
  words: bigint[];
  deadlineMs?: number;
  direct?: boolean;
  repeat?: number;
}

export function registerCall(program: Command): void {
  l1Options(program.command('call'))
    .argument(
      '[object]',
      'object whose program is linked to hook call; not needed with --direct and --number',
    )
    .description('call a program of this machine in the host, and print the four words of its answer')
    .option(
      '--words <list>',
      `up to ${HT_CALL_WORDS} words of 64 bits, comma-separated: 1,0xff`,
      parseWords,
      [],
    )
    .option('--number <number>', "one of the link's numbers; needed when it has several", parseNumber)
    .option('--program <name>', 'needed when several programs of the object are linked')
    .option(
      '--deadline-ms <number>',
      'milliseconds to wait for the answer, in place of --timeout-s',
      integer('--deadline-ms', 1, 3_600_000),
    )
    .option('--direct', 'one exit of a CPU of this machine, by its module, and no channel')
    .option('--repeat <number>', 'so many times, one after the other', integer('--repeat', 1, 1_000_000))
    .addHelpText(
      'after',
      `
Examples:
  hyperturtle call counters --words 0,3,2       by the channel: the daemon runs it
  hyperturtle call counters --direct --words 0,3,2
  hyperturtle call --direct --number 0x48540001 --words 0,3,2 --repeat 1000   needs no agent

A program that uses the arena is called with --direct only. Exit status 3: nobody answers; 7: no answer
by then, and the program may have run.`,
    )
    .action(call);
}

function parseNumber(text: string): number {
  const n = /^(0x[0-9a-f]+|\d+)$/i.test(text) ? Number(text) : NaN;
  if (n >= HT_CALL_NUMBER_MIN && n <= 0xffff_ffff) return n;
  throw new HyperturtleError(
    'HT_USAGE',
    `--number: a number from ${HT_CALL_NUMBER_MIN} to 0xffffffff is expected, '${text}' found`,
  );
}

function parseWords(text: string): bigint[] {
  const words = text.split(',').map((t) => (/^(0x[0-9a-f]+|\d+)$/i.test(t) ? BigInt(t) : -1n));
  if (words.length <= HT_CALL_WORDS && words.every((w) => w >= 0n && w < 1n << 64n)) return words;
  throw new HyperturtleError(
    'HT_USAGE',
    `--words: up to ${HT_CALL_WORDS} numbers of 64 bits are expected, such as 1,0xff; '${text}' found`,
  );
}

async function call(object: string | undefined, options: CallOptions): Promise<void> {
  const { direct } = options;
  if (object === undefined && (!direct || options.number === undefined))
    throw new HyperturtleError('HT_USAGE', 'say which object: only --direct with --number needs none');
  const answer = direct ? await callDirect(object, options) : await callByChannel(object!, options);
  const results = answer.results.map((r) => `0x${r.toString(16)}`);
  print(options, { ...answer, results }, () =>
    answer.nsPerCall === undefined
      ? results.join(' ')
      : `${results.join(' ')}\n${answer.nsPerCall} ns a call`,
  );
}

interface Answer {
  results: bigint[];
  /** With --repeat. */
  nsPerCall?: number;
}

async function callByChannel(object: string, options: CallOptions): Promise<Answer> {
  const { callProgram } = await import('../../client/call.ts');
  const { program, number, words, deadlineMs, repeat = 1 } = options;
  return withAgent(options, async (c) => {
    const once = () => callProgram(c, { object, program, number, words, deadlineMs });
    const begin = performance.now();
    for (let left = repeat; left > 1; left--) await once();
    const results = await once();
    return { results, ...timeOf(options.repeat, (performance.now() - begin) * 1e6) };
  });
}

async function callDirect(object: string | undefined, options: CallOptions): Promise<Answer> {
  const [{ GuestDevice }, { callNumberOf }] = await Promise.all([
    import('../../guest/device.ts'),
    import('../../client/call.ts'),
  ]);
  const { words, repeat } = options;
  const number = options.number ?? (await withAgent(options, (c) => callNumberOf(c, object!)));
  using device = GuestDevice.open();
  const { results, ns } = device.call({ number, words, repeat: repeat ?? 1 });
  return { results, ...timeOf(repeat, ns) };
}

const timeOf = (repeat: number | undefined, ns: number): { nsPerCall?: number } =>
  repeat === undefined ? {} : { nsPerCall: Math.round(ns / repeat) };
