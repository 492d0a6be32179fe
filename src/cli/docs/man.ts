/** Manual pages, made of the commands as they are declared: one for each command of the first level, and one of all. */
import type { Command } from 'commander';
import { hasShownDefault, ownFirst, shownCommands } from '../shared/help.ts';

/** `man1/hyperturtle-load.1` to its text. */
export function manPages(program: Command): Map<string, string> {
  const pages = new Map<string, string>();
  const version = program.version() ?? '';
  pages.set('man1/hyperturtle.1', page(program, 'hyperturtle', version));
  for (const c of shownCommands(program))
    pages.set(`man1/hyperturtle-${c.name()}.1`, page(c, `hyperturtle ${c.name()}`, version));
  return pages;
}

function page(command: Command, name: string, version: string): string {
  const title = name.replaceAll(' ', '-');
  const lines = [
    `.TH ${title.toUpperCase().replaceAll('-', '\\-')} 1 "" "HyperTurtle ${version}" "HyperTurtle"`,
    '.SH NAME',
    `${text(title)} \\- ${text(command.description())}`,
  ];
  if (command.parent === null) {
    lines.push('.SH SYNOPSIS', `.B ${text(name)}`, text('COMMAND ...'), '.SH COMMANDS');
    for (const c of shownCommands(command))
      lines.push('.TP', `.BR ${text(`hyperturtle-${c.name()}`)} (1)`, text(c.description()));
    lines.push(...after(command), '.SH SEE ALSO', text('/usr/share/doc/hyperturtle'));
  } else {
    lines.push('.SH SYNOPSIS', ...synopses(command, name));
    lines.push(...body(command, '.SH OPTIONS'), ...after(command));
    for (const c of shownCommands(command))
      lines.push(...section(c, `${name} ${c.name()}`.slice('hyperturtle '.length)));
    lines.push(
      '.SH EXIT STATUS',
      text('0 when done; else by the class of the error: see cli.md of the documentation.'),
    );
    lines.push('.SH SEE ALSO', '.BR hyperturtle (1)');
  }
  return `${lines.join('\n')}\n`;
}

/** A sub-command, and those below it. */
function section(command: Command, name: string): string[] {
  return [
    `.SH ${text(name.toUpperCase())}`,
    text(command.description()),
    '.PP',
    ...synopses(command, `hyperturtle ${name}`),
    ...body(command, '.PP'),
    ...after(command),
    ...shownCommands(command).flatMap((c) => section(c, `${name} ${c.name()}`)),
  ];
}

function synopses(command: Command, name: string): string[] {
  if (command.commands.length > 0)
    return shownCommands(command).flatMap((c) => [
      `.B ${text(`${name} ${c.name()}`)}`,
      text(c.usage()),
      '.br',
    ]);
  return [`.B ${text(name)}`, text(command.usage())];
}

function body(command: Command, head: string): string[] {
  const terms = [
    ...command.registeredArguments
      .filter((a) => a.description !== '')
      .map((a) => [`<${a.name()}>`, a.description] as const),
    ...ownFirst(command.options).map((o) => [o.flags, described(o)] as const),
  ];
  if (terms.length === 0) return [];
  return [head, ...terms.flatMap(([term, what]) => ['.TP', `.B ${text(term)}`, text(what)])];
}

function described(o: Command['options'][number]): string {
  const more = [
    ...(o.argChoices ? [`one of ${o.argChoices.join(', ')}`] : []),
    ...(hasShownDefault(o)
      ? [`default: ${o.defaultValueDescription ?? JSON.stringify(o.defaultValue)}`]
      : []),
  ];
  return more.length === 0 ? o.description : `${o.description} (${more.join('; ')})`;
}

/** What addHelpText has put after a command's help: commander gives it only as it prints it. */
function after(command: Command): string[] {
  let all = '';
  const before = command.configureOutput();
  command.configureOutput({ ...before, writeOut: (s) => (all += s) });
  command.outputHelp();
  command.configureOutput(before);
  const more = all.slice(command.helpInformation().length).trim();
  return more === '' ? [] : ['.PP', '.nf', text(more), '.fi'];
}

/** Nothing in it is a request of roff. */
function text(s: string): string {
  return s
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replace(/^(?=[.'])/gm, '\\&');
}
