/** `hyperturtle completion SHELL`: completion scripts, made of the commands as they are declared. */
import { Argument } from 'commander';
import type { Command } from 'commander';
import { shownCommands } from '../shared/help.ts';
import { writeOut } from '../../core/output.ts';

const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

/** `whole`: the program with all its commands. */
export function registerCompletion(program: Command, whole: () => Promise<Command>): void {
  program
    .command('completion')
    .addArgument(new Argument('<shell>', 'the shell').choices([...SHELLS]))
    .description('print a completion script')
    .addHelpText(
      'after',
      `
Examples:
  source <(hyperturtle completion bash)                                   # for this shell
  hyperturtle completion bash > /etc/bash_completion.d/hyperturtle
  hyperturtle completion zsh > "\${fpath[1]}/_hyperturtle"
  hyperturtle completion fish > ~/.config/fish/completions/hyperturtle.fish`,
    )
    .action(async (shell: Shell) => {
      writeOut(completionScript(await whole(), shell));
    });
}

interface CompletedOption {
  flag: string;
  takesValue: boolean;
  /** What its value may be; empty: anything. */
  choices: readonly string[];
  description: string;
}

interface Node {
  /** `guest l2`, or empty for the program itself. */
  path: string;
  subcommands: { name: string; description: string }[];
  options: CompletedOption[];
  /** What its first argument may be; empty: anything. */
  choices: readonly string[];
  /** The first argument is a file. */
  takesFiles: boolean;
  takesArguments: boolean;
}

export function completionNodes(program: Command): Node[] {
  const nodes: Node[] = [];
  const visit = (command: Command, path: string): void => {
    const subs = shownCommands(command).map((c) => ({
      name: c.name(),
      description: firstClause(c.description()),
    }));
    nodes.push({
      path,
      subcommands: subs,
      options: [
        ...command.options.flatMap((o) =>
          [o.short, o.long].flatMap((flag) =>
            flag == null
              ? []
              : [
                  {
                    flag,
                    takesValue: o.required || o.optional,
                    choices: o.argChoices ?? [],
                    description: firstClause(o.description),
                  },
                ],
          ),
        ),
        { flag: '--help', takesValue: false, choices: [], description: 'what it does' },
      ],
      choices: command.registeredArguments[0]?.argChoices ?? [],
      takesArguments: command.registeredArguments.length > 0,
      takesFiles: command.registeredArguments.some((a) => /file|path/.test(a.name())),
    });
    for (const c of shownCommands(command)) visit(c, path === '' ? c.name() : `${path} ${c.name()}`);
  };
  visit(program, '');
  return nodes;
}

export function completionScript(program: Command, shell: Shell): string {
  const nodes = completionNodes(program);
  switch (shell) {
    case 'bash':
      return bash(nodes);
    case 'zsh':
      return `#compdef hyperturtle\nautoload -U +X bashcompinit && bashcompinit\n${bash(nodes)}`;
    case 'fish':
      return fish(nodes);
  }
}

/** The path of the command so far is looked up; its words are the answer, files where it takes some. */
function bash(nodes: readonly Node[]): string {
  const cases = nodes
    .map((n) => {
      const words = [...n.subcommands.map((s) => s.name), ...n.choices, ...n.options.map((o) => o.flag)].join(
        ' ',
      );
      return `    '${n.path}') words='${words}'; files=${n.takesFiles ? 1 : 0} ;;`;
    })
    .join('\n');
  const commands = nodes.flatMap((n) => n.subcommands.map((s) => `${n.path} ${s.name}`.trim()));
  const valued = [...new Set(nodes.flatMap((n) => n.options.filter((o) => o.takesValue).map((o) => o.flag)))];
  const groups = nodes.filter((n) => n.subcommands.length > 0 && !n.takesArguments).map((n) => n.path);
  const chosen = nodes
    .flatMap((n) => n.options.filter((o) => o.choices.length > 0).map((o) => ({ ...o, path: n.path })))
    .map((o) => `    '${`${o.path} ${o.flag}`.trim()}') words='${o.choices.join(' ')}'; files=0 ;;`)
    .join('\n');
  return `# completion of hyperturtle for bash; made by: hyperturtle completion bash
_hyperturtle() {
  local current previous path word words files i
  COMPREPLY=()
  current=\${COMP_WORDS[COMP_CWORD]}
  previous=\${COMP_WORDS[COMP_CWORD-1]}
  path=
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    case "\${path:+$path }$word" in
    ${commands.map((c) => `'${c}'`).join('|')}) path="\${path:+$path }$word"; continue ;;
    esac
    # where a command of some is expected, any other word is a mistake: nothing follows it
    case "$word" in -*) continue ;; esac
    case "\${COMP_WORDS[i-1]}" in ${valued.join('|')}) continue ;; esac
    case "$path" in ${groups.map((g) => `'${g}'`).join('|')}) return ;; esac
  done
  words= files=0
  case "$path" in
${cases}
  esac
  case "$previous" in
    ${valued.join('|')}) words=; files=1 ;;
  esac
  case "\${path:+$path }$previous" in
${chosen}
  esac
  # a name of a file may have blanks and stars
  while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -W "$words" -- "$current")
  if [ "$files" = 1 ]; then
    compopt -o filenames 2>/dev/null
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$current")
  fi
}
complete -F _hyperturtle hyperturtle
`;
}

function fish(nodes: readonly Node[]): string {
  const quote = (s: string): string => `'${s.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
  const lines = nodes.flatMap((n) => {
    const words = n.path.split(' ').filter(Boolean);
    const subs = n.subcommands.map((s) => s.name);
    const here = words.map((w) => `__fish_seen_subcommand_from ${w}`);
    const notYet = subs.length > 0 ? [`not __fish_seen_subcommand_from ${subs.join(' ')}`] : [];
    const condition = quote([...here, ...notYet].join('; and ') || 'true');
    return [
      ...n.subcommands.map(
        (s) =>
          `complete -c hyperturtle -n ${condition} ${n.takesFiles ? '' : '-f '}-a ${s.name} -d ${quote(s.description)}`,
      ),
      ...n.choices.map((c) => `complete -c hyperturtle -n ${condition} -f -a ${quote(c)}`),
      ...n.options.map((o) => {
        const flag = o.flag.startsWith('--') ? `-l ${o.flag.slice(2)}` : `-s ${o.flag.slice(1)}`;
        return `complete -c hyperturtle -n ${condition} ${flag}${o.choices.length > 0 ? ` -x -a ${quote(o.choices.join(' '))}` : o.takesValue ? ' -r' : ''} -d ${quote(o.description)}`;
      }),
    ];
  });
  return `# completion of hyperturtle for fish; made by: hyperturtle completion fish\n${lines.join('\n')}\n`;
}

/** Short enough for a list of choices. */
function firstClause(text: string): string {
  return text.split(/[;:\n]/)[0]?.trim() ?? '';
}
