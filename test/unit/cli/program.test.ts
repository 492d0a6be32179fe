/** Which commands a command line has registered: its own alone, or all, and the same ones either way. */
// cspell:ignore laod statsu
import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { ROOMS, createProgram } from '../../../src/cli/program.ts';

const context = {
  version: '0',
  whole: () => Promise.resolve(new Command()),
  texts: () => Promise.resolve(new Map<string, string>()),
};
const names = (c: Command): string[] => c.commands.map((sub) => sub.name());
/** Every command below `c`, as the words that call it. */
const paths = (c: Command, before: readonly string[] = []): string[][] =>
  c.commands.flatMap((sub) => [[...before, sub.name()], ...paths(sub, [...before, sub.name()])]);
const find = (program: Command, words: readonly string[]): Command =>
  words.reduce((c, word) => c.commands.find((sub) => sub.name() === word)!, program);

const whole = await createProgram('0');

describe('a room', () => {
  it.each(ROOMS.map((r) => [[r.under ?? '', ...r.commands].join(' ').trim(), r] as const))(
    'has the commands that it says: %s',
    async (_, room) => {
      const parent = new Command();
      await room.add(parent, context);
      expect(names(parent).sort()).toEqual([...room.commands].sort());
    },
  );
});

describe('a command line', () => {
  it.each(paths(whole).map((words) => [words.join(' '), words] as const))(
    '%s has the command that the whole program has',
    async (_, words) => {
      const program = await createProgram('0', [...words, '--help']);
      expect(find(program, words).helpInformation()).toBe(find(whole, words).helpInformation());
    },
  );

  it('has no other commands than those of its room', async () => {
    expect(names(await createProgram('0', ['load', 'x.bpf.o']))).toEqual(
      ROOMS.find((r) => r.commands.includes('load'))!.commands,
    );
    const host = await createProgram('0', ['host', 'attach', '--qmp', 'x']);
    expect(names(host)).toEqual(['host']);
    expect(names(host.commands[0]!)).toEqual(['attach', 'stats', 'pin', 'run']);
  });

  it.each([[[]], [['--help']], [['help', 'load']], [['laod']], [['help']]])(
    'has all commands where one is not named: %s',
    async (words) => expect(names(await createProgram('0', words))).toEqual(names(whole)),
  );

  it('has all commands of host and guest where theirs is not named', async () => {
    for (const name of ['host', 'guest'])
      for (const words of [[name], [name, '--help'], [name, 'statsu']])
        expect(names(find(await createProgram('0', words), [name]))).toEqual(names(find(whole, [name])));
  });
});
