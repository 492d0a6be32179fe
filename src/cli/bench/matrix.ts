/** `hyperturtle bench matrix`: which hook works on which kernel and vendor, by running each. */
import { Option } from 'commander';
import type { Command } from 'commander';
import { HyperturtleError } from '../../core/errors.ts';
import { TRIED_SERIES } from '../../core/nested-kvm.ts';
import { writeOut } from '../../core/output.ts';
import type { MatrixCell, MatrixSpec } from '../../bench/matrix/run.ts';
import { bochsModelOf, modelOption } from '../shared/emulated-cpu.ts';
import { kernelList, kernelName, qemuOption } from '../shared/kernel-option.ts';
import { choose, integer } from '../shared/values.ts';

interface MatrixOptions {
  kernel?: string;
  cpu: string;
  hook?: string;
  quick?: boolean;
  cpuModel?: string;
  qemu?: string;
  l1Cpus?: number;
  cells?: string;
  doc?: string;
}

export function registerMatrix(bench: Command): void {
  bench
    .command('matrix')
    .description('each hook on each kernel and vendor: run, counted, and kept as the table of a document')
    .option('-k, --kernel <list>', `series; default: ${TRIED_SERIES.join(',')}`)
    .option('--cpu <list>', 'vendors; intel takes minutes a hook', 'amd,intel')
    .option('--hook <list>', 'npf, large (2 MiB), exit, sample, net (xdp and tc); default: all')
    .addOption(new Option('--quick', 'one cell a kernel: npf on AMD').conflicts(['cpu', 'hook', 'cpuModel']))
    .addOption(modelOption())
    .addOption(qemuOption())
    .option('--l1-cpus <number>', 'virtual CPUs of L1; default: 1', integer('--l1-cpus', 1, 8))
    .option('--cells <file>', 'keep what was found in this JSON file, over what it has')
    .option('--doc <file>', 'write the table of all kept cells into this document')
    .addHelpText(
      'after',
      `
Examples:
  hyperturtle bench matrix --quick
  hyperturtle bench matrix --kernel 7.3 --cpu amd --cells docs/kernel-support.json --doc docs/kernel-support.md`,
    )
    .action(measure);
}

/** Which cells are asked for, and on what. Throws HT_USAGE for what cannot be run. */
async function cellsOf(
  o: MatrixOptions,
): Promise<Pick<MatrixSpec, 'kernels' | 'vendors' | 'hooks' | 'bochsModel'>> {
  const { MATRIX_HOOKS, MATRIX_VENDORS, plannedCells } = await import('../../bench/matrix/run.ts');
  const kernels = o.kernel === undefined ? TRIED_SERIES : kernelList(o.kernel);
  const vendors = o.quick ? (['amd'] as const) : choose('--cpu', MATRIX_VENDORS, o.cpu);
  const hooks = o.quick ? (['npf'] as const) : choose('--hook', MATRIX_HOOKS, o.hook);
  const model = bochsModelOf({ ...o, cpu: vendors.some((v) => v === 'intel') ? 'intel' : 'amd' });
  for (const kernel of kernels) kernelName(kernel);
  if (plannedCells({ kernels, vendors, hooks }).length === 0)
    throw new HyperturtleError('HT_USAGE', '--hook net is for --cpu amd: an Intel lab has no port for a NIC');
  if (vendors.some((v) => v === 'intel') && (o.l1Cpus ?? 1) > 1)
    throw new HyperturtleError(
      'HT_USAGE',
      `--l1-cpus ${o.l1Cpus} is for --cpu amd: an Intel lab has one CPU`,
    );
  return { kernels, vendors, hooks, ...model };
}

async function measure(o: MatrixOptions): Promise<void> {
  const [{ runMatrix }, { readCells }, report, { readInput, replaceFile, stageFile }, progress, lifecycle] =
    await Promise.all([
      import('../../bench/matrix/run.ts'),
      import('../../bench/matrix/cells.ts'),
      import('../../report/matrix.ts'),
      import('../../core/files.ts'),
      import('../../core/progress.ts'),
      import('../../core/lifecycle.ts'),
    ]);
  const cells = await cellsOf(o);
  const found: MatrixCell[] = [];
  /** Read again for each cell: another run may write to the same file. */
  const keep = (cells: readonly MatrixCell[]): MatrixCell[] => {
    if (o.cells === undefined) return report.mergedCells(found, cells);
    const kept = report.mergedCells(readCells(o.cells), cells);
    if (cells.length > 0) replaceFile(o.cells, `${JSON.stringify(kept, null, 2)}\n`);
    return kept;
  };
  const { signal, dispose } = lifecycle.abortOnSignals();
  keep([]); // a file that is not ours is said before hours of work
  const inDocument = (file: string, kept: readonly MatrixCell[]): string =>
    report.withMatrix(readInput(file, 'give the document').toString('utf8'), kept);
  if (o.doc !== undefined) inDocument(o.doc, []);
  // and so is one that cannot be written
  for (const file of [o.cells, o.doc]) if (file !== undefined) stageFile(file, '').discard();
  try {
    await runMatrix({
      ...cells,
      qemu: o.qemu,
      l1Cpus: o.l1Cpus,
      progress: progress.createProgress(),
      signal,
      onCell: (cell) => {
        found.push(cell);
        const kept = keep([cell]);
        if (o.doc !== undefined) replaceFile(o.doc, inDocument(o.doc, kept));
      },
    });
  } finally {
    dispose();
  }
  writeOut(`${report.matrixTable(report.mergedCells([], found))}\n`);
  if (found.some((c) => c.state !== 'run')) process.exitCode = 1;
}
