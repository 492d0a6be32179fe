/** docs/reference.md, made of the tables in src/core and test/support. */
import { PLACES, PORTS } from '../../src/core/default-paths.ts';
import { VARIABLES } from '../../src/core/environment.ts';
import { EXIT_STATUS } from '../../src/core/exit-status.ts';
import { TEST_VARIABLES } from './variables.ts';

type Row = readonly (string | number)[];

const table = (head: Row, rows: readonly Row[]): string =>
  [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n');

const variables = (of: Readonly<Record<string, { default: string; means: string }>>): string =>
  table(
    ['variable', 'without it', 'what it says'],
    Object.entries(of).map(([name, v]) => [`\`${name}\``, v.default, v.means]),
  );

export function referencePage(): string {
  const statuses = Object.entries(EXIT_STATUS).map(([code, s]): Row => [s.status, `\`${code}\``, s.means]);
  return `# Reference

Made from the sources by \`npm run reference\`; a test compares it with them.
Commands: \`hyperturtle COMMAND --help\` and [cli.md](cli.md).
Settings: [host-daemon.md](host-daemon.md), [guest-agent.md](guest-agent.md).

## Exit statuses

${table(['status', 'code', 'what it means'], [[0, '', 'done'], [1, '', 'a bug, with its stack; or `status`, `doctor`, `guest reload`: something is wrong'], ...statuses])}

\`lab exec\` and \`run\` end with the status of the program that ran in the guest.

## Environment variables

${variables(VARIABLES)}

The lab also heeds \`XDG_CACHE_HOME\` and \`XDG_STATE_HOME\`, the services systemd's \`NOTIFY_SOCKET\`
and \`WATCHDOG_USEC\`.

## Files and sockets

Where configuration and options say nothing else.

${table(
  ['path', 'level', 'what it is'],
  Object.values(PLACES).map((p): Row => [`\`${p.path}\``, p.level === 'both' ? 'L0, L1' : p.level, p.means]),
)}

## Ports

On 127.0.0.1 only. Metrics have a port or a socket when the configuration names one.

${table(
  ['port', 'what it is'],
  Object.values(PORTS).map((p): Row => [p.port, p.means]),
)}

## Variables of tests

${variables(TEST_VARIABLES)}
`;
}
