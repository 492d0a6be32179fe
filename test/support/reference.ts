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

/** Commands that end with 1 when they have found something wrong, and the file below src/cli that says so. */
export const ONE_WHEN_WRONG = {
  status: 'guest/status.ts',
  doctor: 'doctor/command.ts',
  'guest reload': 'guest/agent.ts',
  'kata status': 'kata/command.ts',
  'host health': 'host/daemon.ts',
  'host doctor': 'host/daemon.ts',
  'bench matrix': 'bench/matrix.ts',
  'bench model': 'bench/model.ts',
  'bench paper': 'bench/paper.ts',
} as const;
const wrong = Object.keys(ONE_WHEN_WRONG)
  .map((command) => `\`${command}\``)
  .join(', ');

export function referencePage(): string {
  const statuses = Object.entries(EXIT_STATUS).map(([code, s]): Row => [s.status, `\`${code}\``, s.means]);
  return `# Reference

Made from the sources by \`npm run reference\`; a test compares it with them.
Commands: \`hyperturtle COMMAND --help\` and [cli.md](cli.md).
Settings: [host-daemon.md](host-daemon.md), [guest-agent.md](guest-agent.md).

## Exit statuses

${table(['status', 'code', 'what it means'], [[0, '', 'done'], [1, '', `a bug, with its stack; or something is wrong: ${wrong}`], ...statuses])}

\`lab exec\` and \`run\` end with the status of the program that ran in the guest, \`vmm\` with that of
the VMM. \`hyperturtle-cni\` ends with 1 after any error, which it prints as CNI has it.

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

On 127.0.0.1, but those of pods. Metrics have a port or a socket when the configuration names one.

${table(
  ['port', 'what it is'],
  Object.values(PORTS).map((p): Row => [p.port, p.means]),
)}

## Variables of tests

${variables(TEST_VARIABLES)}
`;
}
