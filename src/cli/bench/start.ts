/** `hyperturtle bench start`: how long services of real images take to answer, nested. */
import { HyperturtleError } from '../../core/errors.ts';
import type { Command } from 'commander';
import { writeOut } from '../../core/output.ts';
import { inLab, labOptions } from '../shared/in-lab.ts';
import type { LabOptions } from '../shared/in-lab.ts';
import type { StartResult } from '../../bench/start/schema.ts';
import { integer } from '../shared/values.ts';

interface StartCommandOptions extends Omit<LabOptions, 'images'> {
  images?: string;
  rounds: number;
  budgetMinutes?: number;
  report?: string;
  exact: boolean;
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

async function measure({ images: list, from, ...o }: StartCommandOptions, version: string): Promise<void> {
  const [
    { runStart },
    { joinStarts },
    { startResultSchema },
    { startReport, startTables },
    { formatTable },
    { L2_IMAGE_NAMES },
    { l2ImageSpec },
    { readInput, writeOutput },
  ] = await Promise.all([
    import('../../bench/start/run.ts'),
    import('../../bench/start/summary.ts'),
    import('../../bench/start/schema.ts'),
    import('../../report/start.ts'),
    import('../../report/table.ts'),
    import('../../lab/l2-image-specs.ts'),
    import('../../lab/l2-image.ts'),
    import('../../core/files.ts'),
  ]);
  const images = list?.split(',') ?? L2_IMAGE_NAMES;
  for (const name of images) l2ImageSpec(name);
  const joined = (files: string[]): StartResult => {
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
    if (o.json !== undefined) writeOutput(o.json, `${JSON.stringify(result, null, 1)}\n`);
    return result;
  };
  const result =
    from !== undefined
      ? joined(from.split(','))
      : await inLab({ ...o, images }, async ({ lab, ...context }) => {
          const spec = {
            images,
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
