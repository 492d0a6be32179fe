/** `hyperturtle completion SHELL`: completion scripts, made of the commands as they are declared. */
import type { Command } from 'commander';

export const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

export function registerCompletion(program: Command): void {
  program
    .command('completion')
    .argument('<shell>', SHELLS.join(', '))
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
    .action(async (shell: string) => {
      if (!isShell(shell)) {
        const { HyperturtleError } = await import('../core/errors.ts');
        throw new HyperturtleError('HT_USAGE', `shell '${shell}': one of ${SHELLS.join(', ')} expected`);
      }
      process.stdout.write(completionScript(program, shell));
    });
}

const isShell = (s: string): s is Shell => (SHELLS as readonly string[]).includes(s);

interface Node {
  /** `guest l2`, or empty for the program itself. */
  path: string;
  subcommands: { name: string; description: string }[];
  options: { flag: string; takesValue: boolean; description: string }[];
  /** The first argument is a file. */
  takesFiles: boolean;
}

export function completionNodes(program: Command): Node[] {
  const nodes: Node[] = [];
  const visit = (command: Command, path: string): void => {
    const subs = command.commands.map((c) => ({ name: c.name(), description: firstClause(c.description()) }));
    nodes.push({
      path,
      subcommands: subs,
      options: [
        ...command.options.flatMap((o) =>
          [o.short, o.long].flatMap((flag) =>
            flag == null
              ? []
              : [{ flag, takesValue: o.required || o.optional, description: firstClause(o.description) }],
          ),
        ),
        { flag: '--help', takesValue: false, description: 'what it does' },
      ],
      takesFiles: command.registeredArguments.some((a) => /file|path/.test(a.name())),
    });
    for (const c of command.commands) visit(c, path === '' ? c.name() : `${path} ${c.name()}`);
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
      const words = [...n.subcommands.map((s) => s.name), ...n.options.map((o) => o.flag)].join(' ');
      return `    '${n.path}') words='${words}'; files=${n.takesFiles ? 1 : 0} ;;`;
    })
    .join('\n');
  const commands = nodes.flatMap((n) => n.subcommands.map((s) => `${n.path} ${s.name}`.trim()));
  const valued = [...new Set(nodes.flatMap((n) => n.options.filter((o) => o.takesValue).map((o) => o.flag)))];
  return `# completion of hyperturtle for bash; made by: hyperturtle completion bash
_hyperturtle() {
  local current previous path word words files i
  current=\${COMP_WORDS[COMP_CWORD]}
  previous=\${COMP_WORDS[COMP_CWORD-1]}
  path=
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    case "\${path:+$path }$word" in
    ${commands.map((c) => `'${c}'`).join('|')}) path="\${path:+$path }$word" ;;
    esac
  done
  words= files=0
  case "$path" in
${cases}
  esac
  case "$previous" in
    ${valued.join('|')}) words=; files=1 ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  if [ "$files" = 1 ]; then
    compopt -o filenames 2>/dev/null
    COMPREPLY+=($(compgen -f -- "$current"))
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
      ...n.options.map((o) => {
        const flag = o.flag.startsWith('--') ? `-l ${o.flag.slice(2)}` : `-s ${o.flag.slice(1)}`;
        return `complete -c hyperturtle -n ${condition} ${flag}${o.takesValue ? ' -r' : ''} -d ${quote(o.description)}`;
      }),
    ];
  });
  return `# completion of hyperturtle for fish; made by: hyperturtle completion fish\n${lines.join('\n')}\n`;
}

/** Short enough for a list of choices. */
function firstClause(text: string): string {
  return text.split(/[;:\n]/)[0]?.trim() ?? '';
}
