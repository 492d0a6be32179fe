/** `hyperturtle bench start`: how long services of real images take to answer, nested. */
import { HyperturtleError } from '../../core/errors.ts';
import type { Command } from 'commander';
import { writeOut } from '../../core/output.ts';
import { inLab, labOptions } from '../shared/in-lab.ts';
import type { LabOptions } from '../shared/in-lab.ts';
import type { StartResult } from '../../bench/start/schema.ts';
import { choose, integer } from '../shared/values.ts';

interface StartCommandOptions extends Omit<LabOptions, 'images'> {
  images?: string;
  rounds: number;
  budgetMinutes?: number;
  report?: string;
  exact: boolean;
  explain?: boolean;
  variants?: string;
  from?: string;
}

/** For the image with the most memory, the page cache with all images, and a pool. */
const L1_MEMORY_MIB = 4096;
/** An index word for each page of the largest guest, and a pool. */
const ARENA_MIB = 16;

export function registerStart(bench: Command, version: string): void {
  labOptions(
    bench
      .command('start')
      .description('start of real services in nested guests, to the open port and the first answer'),
  )
    .option('--images <list>', "only these, comma-separated; default: all of 'hyperturtle lab images'")
    .option('--rounds <number>', 'rounds; variants take turns in each', integer('--rounds', 1, 100), 3)
    .option(
      '--budget-minutes <number>',
      'begin no further round that would not be over by then',
      integer('--budget-minutes', 1, 10_000),
    )
    .option('--variants <list>', 'only these, comma-separated; default: all; an unknown one lists them')
    .option(
      '--explain',
      "also what exits that enter L1 are about, by L1's own KVM, and what would answer them; slows L1 a little",
    )
    .option('--no-exact', 'leave out the starts that count what groups took in vain')
    .option('--report <file>', 'write the HTML report')
    .option('--from <files>', 'measure nothing: join results (--json) of several runs, comma-separated')
    .action((o: StartCommandOptions, command: Command) =>
      measure(
        command.getOptionValueSource('l1Memory') === 'default' ? { ...o, l1Memory: L1_MEMORY_MIB } : o,
        version,
      ),
    );
}

async function measure(
  { images: list, from, variants: chosen, ...o }: StartCommandOptions,
  version: string,
): Promise<void> {
  const [
    { runStart },
    { START_VARIANTS },
    { startReport, startTables },
    { formatTable },
    { L2_IMAGE_NAMES },
    { l2ImageSpec },
    { writeOutput },
  ] = await Promise.all([
    import('../../bench/start/run.ts'),
    import('../../bench/start/schema.ts'),
    import('../../report/start.ts'),
    import('../../report/table.ts'),
    import('../../lab/l2-image-specs.ts'),
    import('../../lab/l2-image.ts'),
    import('../../core/files.ts'),
  ]);
  const images = list?.split(',') ?? L2_IMAGE_NAMES;
  for (const name of images) l2ImageSpec(name);
  const variants = choose('--variants', START_VARIANTS, chosen);
  const result =
    from !== undefined
      ? await joined(from.split(','), o.json)
      : await inLab({ ...o, images }, async ({ lab, ...context }) => {
          const spec = {
            images,
            variants,
            explain: o.explain ?? false,
            rounds: o.rounds,
            arenaMib: ARENA_MIB,
            exact: o.exact,
            budgetMs: o.budgetMinutes === undefined ? undefined : o.budgetMinutes * 60_000,
          };
          const measured = await runStart(lab, spec, { version, ...context });
          if (context.signal.aborted) process.exitCode = 130;
          return measured;
        });
  if (o.report !== undefined) writeOutput(o.report, startReport(result));
  writeOut(`\n${startTables(result).map(formatTable).join('\n\n')}\n`);
}

/** Results of several runs as one. Throws HT_CONFIG for what is none, HT_USAGE where they do not fit together. */
async function joined(files: readonly string[], json: string | undefined): Promise<StartResult> {
  const [{ joinStarts }, { startResultSchema }, { readInput, writeOutput }] = await Promise.all([
    import('../../bench/start/summary.ts'),
    import('../../bench/start/schema.ts'),
    import('../../core/files.ts'),
  ]);
  const read = (f: string): StartResult => {
    const text = readInput(f, '--from: give results of --json').toString('utf8');
    try {
      return startResultSchema().parse(JSON.parse(text));
    } catch (e) {
      throw new HyperturtleError('HT_CONFIG', `${f}: a result of 'bench start --json' expected`, {
        cause: e,
      });
    }
  };
  const result = joinStarts(files.map(read));
  if (json !== undefined) writeOutput(json, `${JSON.stringify(result, null, 1)}\n`);
  return result;
}
