/** Help of every command: own options first, no default that says nothing, internals hidden, commands in groups. */
import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { register as registerBench } from '../../../src/cli/bench/command.ts';
import { completionScript } from '../../../src/cli/docs/completion.ts';
import { register as registerGuest } from '../../../src/cli/guest/command.ts';
import { registerL2Commands } from '../../../src/cli/guest/l2.ts';
import { HELP_STYLE, shownCommands } from '../../../src/cli/shared/help.ts';
import { register as registerLab } from '../../../src/cli/lab/command.ts';
import { registerMaps } from '../../../src/cli/maps/command.ts';
import { registerObjects } from '../../../src/cli/objects/command.ts';
import { registerProfile } from '../../../src/cli/profile/command.ts';
import { registerTop } from '../../../src/cli/top/command.ts';
import { registerRun } from '../../../src/cli/run/command.ts';
import { manPages } from '../../../src/cli/docs/man.ts';

function program(): Command {
  const p = new Command('hyperturtle').description('d').version('1.2.3').configureHelp(HELP_STYLE);
  registerObjects(p);
  registerMaps(p);
  registerTop(p);
  registerProfile(p);
  registerRun(p);
  registerLab(p);
  registerBench(p, '0');
  registerL2Commands(registerGuest(p));
  return p;
}

const all = (command: Command): Command[] => [command, ...command.commands.flatMap(all)];

describe('help', () => {
  it.each(all(program()).map((c) => [c.name(), c] as const))('of %s', (_, command) => {
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
    const of = (name: string): string =>
      all(program())
        .find((c) => c.name() === name)!
        .helpInformation();
    expect(of('load')).toMatch(/agent's socket \(default:\s+"\/run\/hyperturtle\/agent.sock"\)/);
    expect(of('profile')).toContain('(default: 999)');
  });

  it('hides what tests and benchmarks call, here, in manual pages and in completion; it still runs', () => {
    const p = program();
    const guest = p.commands.find((c) => c.name() === 'guest')!;
    expect(guest.commands.map((c) => c.name())).toContain('l2');
    expect(shownCommands(guest).map((c) => c.name())).not.toContain('l2');
    expect(guest.helpInformation()).not.toMatch(/^ {2}l2 /m);
    expect(manPages(p).get('man1/hyperturtle-guest.1')).not.toContain('guest l2');
    expect(completionScript(p, 'bash')).not.toContain("'guest l2'");
  });
});
