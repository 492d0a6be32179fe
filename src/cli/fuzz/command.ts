/** `hyperturtle fuzz`: a hostile L1 against L0, in a lab of its own. */
import type { Command } from 'commander';
import { writeJson } from '../../core/output.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { inLab } from '../shared/in-lab.ts';
import { integer } from '../shared/values.ts';
import { kernelOption } from '../shared/kernel-option.ts';
import { clockOption } from '../shared/emulated-cpu.ts';
import type { LabClock } from '../../lab/machine.ts';

interface FuzzOptions {
  minutes: number;
  seed: number;
  kernel: string;
  clock?: LabClock;
  batch: number;
  operations: number;
  slow?: boolean;
  json?: string;
}

export function registerFuzz(program: Command): void {
  program
    .command('fuzz')
    .description(
      'let a hostile guest hypervisor loose on its host, beside one that must not notice; in a lab',
    )
    .option(
      '--minutes <number>',
      'minutes of turns: setting up and restarts do not count',
      integer('--minutes', 1, 10_000),
      10,
    )
    .option('--seed <number>', 'the same operations in the same order', integer('--seed', 0, 2 ** 32 - 1), 1)
    .addOption(kernelOption('kernel of all levels'))
    .addOption(clockOption())
    .option('--batch <number>', 'operations at each entry of a nested guest', integer('--batch', 1, 64), 48)
    .option(
      '--operations <number>',
      'go on until there are so many; fewer are a failure',
      integer('--operations', 0, 2 ** 31),
      0,
    )
    .option('--slow', 'no attack: programs that are as slow as admission lets them be')
    .option('--json <file>', 'write the report')
    .addHelpText(
      'after',
      '\nIt ends with status 17 (HT_INTEGRITY) when the host complained, the other guest saw wrong pages or waited too long for its faults. The hostile guest may break: it is started again.',
    )
    .action(fuzz);
}

async function fuzz(o: FuzzOptions): Promise<void> {
  const { runFuzz } = await import('../../fuzz/fuzz.ts');
  const report = await inLab(
    { ...o, accel: 'tcg', l1Memory: 1024, l1Cpus: 1, secondL1Memory: 768 },
    ({ lab, progress, signal }) =>
      runFuzz(lab, {
        minutes: o.minutes,
        seed: o.seed,
        kernel: o.kernel,
        clock: o.clock ?? 'real',
        batch: o.batch,
        atLeast: o.operations,
        // figures of both kinds are compared with --slow
        slow: o.slow ?? false,
        quietSeconds: o.slow ? 60 : 20,
        attackSeconds: 60,
        progress,
        signal,
      }),
  );
  writeJson(JSON.stringify(report, null, 1));
  if (report.problems.length > 0)
    throw new HyperturtleError('HT_INTEGRITY', `fuzz, seed ${o.seed}: ${report.problems.join('; ')}`);
}
