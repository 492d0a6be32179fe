/** `hyperturtle exits ...`: why nested guests exit to this L1, and the programs that count or answer them. */
import { Option } from 'commander';
import type { Command } from 'commander';
import type { ExitProgram, ExitsSample } from '../../client/exits.ts';
import { l1Options, print } from '../shared/agent-options.ts';
import type { L1Options } from '../shared/agent-options.ts';
import { columns } from '../shared/columns.ts';
import { integer, printJson } from '../shared/values.ts';

/** As EXIT_PROGRAMS of src/client/exits.ts, which is not loaded for a list of options. */
const PROGRAMS: readonly ExitProgram[] = ['exit-cache', 'exit-count'];

const client = () =>
  Promise.all([import('../../client/exits.ts'), import('../../client/session.ts')] as const);

interface OnOptions extends L1Options {
  program: ExitProgram;
  object?: string;
}

interface ShowOptions extends L1Options {
  intervalS: number;
  count?: number;
  rows: number;
}

export function registerExits(program: Command): void {
  const exits = program.command('exits').description('exits of nested guests to this L1: who, why, how long');
  l1Options(exits.command('on'))
    .description('load and link the program that counts them, or counts and answers CPUID and RDMSR')
    .addOption(new Option('--program <name>', 'program to link').choices(PROGRAMS).default('exit-cache'))
    .option('--object <file>', 'compiled program; default: the installed one')
    .action(on);
  l1Options(exits.command('off')).description('unlink and unload them').action(off);
  l1Options(exits.command('show', { isDefault: true }))
    .description('live table: exits by nested guest and cause, and how long this L1 had each')
    .option('--interval-s <number>', 'seconds between updates', integer('--interval-s', 1, 3600), 1)
    .option('--count <number>', 'end after so many', integer('--count', 1, 2 ** 31))
    .option('--rows <number>', 'most rows', integer('--rows', 1, 4096), 30)
    .addHelpText(
      'after',
      `
HANDLED  answered in the host, without this machine
US       microseconds from the exit to the next entry of a nested guest on that CPU, on average
Without a terminal, or with --json, one block or line for each look. Ends at Ctrl-C.

Examples:
  hyperturtle exits on                        count all, answer CPUID and RDMSR
  hyperturtle exits on --program exit-count   count only
  hyperturtle exits`,
    )
    .action(show);
}

async function on(options: OnOptions): Promise<void> {
  const [{ exitsOn }, { withAgent }] = await client();
  const result = await withAgent(options, (c) => exitsOn(c, options.program, options.object));
  print(options, result, ({ link }) => `link ${link.id}: ${link.program} of ${link.object} answers exit`);
}

async function off(options: L1Options): Promise<void> {
  const [{ exitsOff }, { withAgent }] = await client();
  const unloaded = await withAgent(options, exitsOff);
  print(options, { unloaded }, () =>
    unloaded.length > 0 ? `unloaded ${unloaded.join(', ')}` : 'nothing was on',
  );
}

async function show(options: ShowOptions): Promise<void> {
  const [[{ sampleExits }, { withAgent }], { sleep }, { isHyperturtleError }, { liveTable }] =
    await Promise.all([
      client(),
      import('../../core/wait.ts'),
      import('../../core/errors.ts'),
      import('../shared/screen.ts'),
    ]);
  const screen = options.json ? undefined : liveTable();
  try {
    await withAgent(options, async (client) => {
      let before: ExitsSample | undefined;
      for (let n = 0; n < (options.count ?? Infinity); n++) {
        if (n > 0) await sleep(options.intervalS * 1000, client.signal);
        const now = await sampleExits(client);
        if (!screen)
          printJson({
            hook: now.hook ?? null,
            exits: now.counts.map((c) => ({ ...c, name: nameOf(now, c.l2) })),
          });
        else screen.show(exitsText(before, now).slice(0, options.rows + 3));
        before = now;
      }
    });
  } catch (e) {
    if (!isHyperturtleError(e, 'HT_INTERRUPTED')) throw e;
  } finally {
    screen?.end();
  }
}

const nameOf = (s: ExitsSample, l2: number): string => (l2 === 0 ? '-' : (s.names.get(l2) ?? `#${l2}`));

/** Most frequent first; numbers since the look before, the totals when there was none. */
export function exitsText(before: ExitsSample | undefined, now: ExitsSample): string[] {
  if (!now.hook)
    return ["nothing counts exits: 'hyperturtle exits on' does it, 'hyperturtle link' any other program"];
  const { hook } = now;
  const rows = now.counts
    .map((c) => {
      const was = before?.counts.find(
        (b) => b.l2 === c.l2 && b.kind === c.kind && b.code === c.code && b.arg === c.arg && b.seen <= c.seen,
      );
      const since = (field: 'seen' | 'handled' | 'returned' | 'l1Ns'): number =>
        c[field] - (was?.[field] ?? 0);
      return {
        c,
        seen: since('seen'),
        handled: since('handled'),
        returned: since('returned'),
        ns: since('l1Ns'),
      };
    })
    .filter((r) => r.seen > 0)
    .sort((a, b) => b.seen - a.seen);
  const table = columns(
    ['NESTED GUEST', 'CAUSE', 'WHAT', 'EXITS', 'HANDLED', 'US'],
    rows.map(({ c, seen, handled, returned, ns }) => [
      nameOf(now, c.l2),
      c.cause,
      c.what,
      String(seen),
      String(handled),
      returned > 0 ? (ns / returned / 1000).toFixed(1) : '',
    ]),
  );
  return [
    `${hook.program ?? '?'} of ${hook.object ?? '?'}: ${hook.runs} exits since it was linked, ${hook.handled} handled`,
    '',
    ...(table === '' ? ['no exits'] : table.split('\n')),
  ];
}
