/** Commands and options that documents, messages and examples name are there. */
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import type { Command } from 'commander';
import { expect, it } from 'vitest';
import { createProgram } from '../../../src/cli/program.ts';

const program = await createProgram('0');
const below = (dir: string, ending: string): string[] =>
  readdirSync(dir, { recursive: true, encoding: 'utf8' })
    .filter((f) => f.endsWith(ending))
    .map((f) => path.join(dir, f));
const documents = [
  ...['README.md', 'CONTRIBUTING.md', 'SECURITY.md', 'CHANGELOG.md'],
  ...below('docs', '.md'),
  ...below('.github', '.md'),
];

/** A command line goes on behind a backslash at the end of a line. */
const read = (file: string): string => readFileSync(file, 'utf8').replace(/\\\n\s*/g, ' ');

/** What stands behind `hyperturtle`, up to what a shell, a quotation or a comment ends it with. */
const called = (text: string): string[] =>
  [...text.matchAll(/\b(?:hyperturtle|cli\/main\.js) ([a-z][^'"`\n;|&)#]*)/g)].map((m) => m[1] ?? '');

/** Code in a document that may begin with one of our commands: `bench all --mib 32`. */
const quoted = (text: string): string[] =>
  [...text.matchAll(/`([^`]+)`/g)].map((m) => (m[1] ?? '').replace(/\s+/g, ' ').replace(/^hyperturtle /, ''));

const optionsOf = (command: Command): (string | undefined)[] =>
  [command, ...command.commands].flatMap((c) => [...c.options.flatMap((o) => [o.short, o.long]), '--help']);

/** What is wrong with one; undefined where it is no command at all, but prose. */
function mistakes(line: string): string[] | undefined {
  const own = line.split(/ -- | {2,}/)[0] ?? '';
  const words = own.trim().split(' ');
  let command = program;
  while (words.length > 0) {
    const next = command.commands.find((c) => c.name() === words[0]);
    if (next === undefined) break;
    command = next;
    words.shift();
  }
  if (command === program) return undefined;
  const [first = ''] = words;
  const unknown = command.commands.length > 0 && /^[a-z]+$/.test(first) ? [`no command '${first}'`] : [];
  const options = optionsOf(command);
  const wrong = words.filter((w) => /^--?[a-z][\w-]*$/.test(w) && !options.includes(w));
  return [...unknown, ...wrong.map((w) => `no option '${w}'`)];
}

function problems(file: string, lines: readonly string[], count: { n: number }): string[] {
  return lines.flatMap((line) => {
    const found = mistakes(line);
    if (found !== undefined) count.n += 1;
    return (found ?? []).map((m) => `${file}: ${line}: ${m}`);
  });
}

it('those of documents', () => {
  const count = { n: 0 };
  const wrong = documents.flatMap((file) => {
    const text = read(file);
    return problems(file, [...called(text), ...quoted(text)], count);
  });
  expect(wrong).toEqual([]);
  expect(count.n).toBeGreaterThan(300);
});

it('options that documents name by themselves', () => {
  const all = (command: Command): Command[] => [command, ...command.commands.flatMap(all)];
  const ours = new Set(all(program).flatMap(optionsOf));
  const v8 = ['--max-lazy', '--no-opt', '--single-threaded'];
  const found = documents.flatMap((file) =>
    [...read(file).matchAll(/`(--[a-z][\w-]*)[^`]*`/g)].map(([, option = '']) => ({ file, option })),
  );
  expect(found.length).toBeGreaterThan(60);
  expect(found.filter(({ option }) => !ours.has(option) && !v8.includes(option))).toEqual([]);
});

it('those of messages, help, units and examples', () => {
  const count = { n: 0 };
  const files = [
    ...below('src', '.ts'),
    ...below('examples', '.sh'),
    ...below('dist-files', '.service'),
    ...below('dist-files', '.yaml'),
  ];
  expect(files.flatMap((file) => problems(file, called(read(file)), count))).toEqual([]);
  expect(count.n).toBeGreaterThan(150);
});
