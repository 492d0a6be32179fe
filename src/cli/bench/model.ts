/** `hyperturtle bench model`: what our counts would take on hardware, by costs that others measured. A model, no measurement. */
import type { Command } from 'commander';
import { writeErr, writeOut } from '../../core/output.ts';
import type { MoreCounts } from '../../bench/model/rows.ts';
import { HyperturtleError } from '../../core/errors.ts';

interface ModelOptions {
  from?: string;
  json?: string;
}

export function registerModel(bench: Command): void {
  bench
    .command('model')
    .description('a model, no measurement: what counted exits and instructions would take on hardware')
    .option('--from <file>', "counts of a result: 'bench npf --count --json FILE'; default: recorded ones")
    .option('--json <file>', 'write costs, checks and predictions')
    .addHelpText(
      'after',
      `
The model is first held against what the paper measured on its machine. Where it does not give the paper's two rows
of page faults within its own error, it predicts nothing, says so, and the exit status is 1. Costs, each with its
source, and counts: docs/reproduction.md.`,
    )
    .action(model);
}

async function model(o: ModelOptions): Promise<void> {
  const [{ modelOf }, { modelTables }, { formatTable }, { checkOutput, writeOutput }] = await Promise.all([
    import('../../bench/model/rows.ts'),
    import('../../report/model.ts'),
    import('../../report/table.ts'),
    import('../../core/files.ts'),
  ]);
  checkOutput(o.json);
  const result = modelOf(o.from === undefined ? undefined : await countsFrom(o.from));
  if (o.json !== undefined) writeOutput(o.json, `${JSON.stringify(result, null, 1)}\n`);
  writeOut(`${modelTables(result).map(formatTable).join('\n\n')}\n`);
  if (result.refusal === null) return;
  writeErr(
    `hyperturtle: the model does not give what the paper measured, so it predicts nothing: ${result.refusal}\n`,
  );
  process.exitCode = 1;
}

/** Throws HT_CONFIG for what is no result with counts. */
async function countsFrom(file: string): Promise<MoreCounts> {
  const [{ countsOf }, { resultSchema }, { readInput }] = await Promise.all([
    import('../../bench/model/rows.ts'),
    import('../../bench/first-touch/schema.ts'),
    import('../../core/files.ts'),
  ]);
  const expected = "a result of 'bench npf --count --json FILE' expected";
  const text = readInput(file, `--from: ${expected}`).toString('utf8');
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (e) {
    throw new HyperturtleError('HT_CONFIG', `${file}: ${expected}`, { cause: e });
  }
  const parsed = resultSchema().safeParse(json);
  if (!parsed.success)
    throw new HyperturtleError('HT_CONFIG', `${file}: ${expected}`, { cause: parsed.error });
  return countsOf(parsed.data);
}
