/** Help of every command: own options first, no default that says nothing, internals hidden, commands in groups. */
import type { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { completionScript } from '../../../src/cli/docs/completion.ts';
import { createProgram } from '../../../src/cli/program.ts';
import { shownCommands } from '../../../src/cli/shared/help.ts';
import { manPages } from '../../../src/cli/docs/man.ts';

const program = await createProgram('0');

const all = (command: Command): Command[] => [command, ...command.commands.flatMap(all)];

describe('help', () => {
  it.each(all(program).map((c) => [c.name(), c] as const))('of %s', (_, command) => {
    const text = command.helpInformation();
    expect(text).not.toMatch(/default:\s+(\{\}|\[\]|"")/);
    // what most commands have comes last, and once
    const flags = [...text.matchAll(/^ {2}(?:-\w, )?(--[\w-]+)/gm)].map((m) => m[1] ?? '');
    const common = ['--json', '--socket', '--timeout-s', '--version', '--help'];
    expect(
      flags.slice(flags.findIndex((f) => common.includes(f))).every((f) => common.includes(f)),
      text,
    ).toBe(true);
    for (const o of command.options) {
      expect(o.description, o.flags).not.toMatch(/^(of|for|in|by|to) /);
      expect(o.description, o.flags).not.toBe('');
    }
  });

  it('keeps a default that says something', () => {
    const of = (name: string): string => program.commands.find((c) => c.name() === name)!.helpInformation();
    expect(of('load')).toMatch(/agent's socket \(default:\s+"\/run\/hyperturtle\/agent.sock"\)/);
    expect(of('profile')).toContain('(default: 999)');
  });

  it('hides what tests and benchmarks call, here, in manual pages and in completion; it still runs', () => {
    const p = program;
    const guest = p.commands.find((c) => c.name() === 'guest')!;
    expect(guest.commands.map((c) => c.name())).toContain('l2');
    expect(shownCommands(guest).map((c) => c.name())).not.toContain('l2');
    expect(guest.helpInformation()).not.toMatch(/^ {2}l2 /m);
    expect(manPages(p).get('man1/hyperturtle-guest.1')).not.toContain('guest l2');
    expect(completionScript(p, 'bash')).not.toContain("'guest l2'");
  });
});
