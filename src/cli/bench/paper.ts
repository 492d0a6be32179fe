/** `hyperturtle bench paper`: all benches that measure what the paper measured, one after the other, and one report of them. */
import type { Command } from 'commander';
import { writeErr, writeOut } from '../../core/output.ts';
import type { PaperBench, PaperRun } from '../../bench/paper/benches.ts';
import { HyperturtleError } from '../../core/errors.ts';

interface PaperOptions {
  dir: string;
  only?: string;
  accel?: string;
  quick?: boolean;
  fromResults?: boolean;
}

export function registerPaper(bench: Command): void {
  bench
    .command('paper')
    .description(
      "every bench that measures a figure of HyperTurtle's paper, and one report beside the paper's",
    )
    .option('--dir <folder>', 'folder for results and report', 'results/paper')
    .option('--only <list>', 'benches by name, comma-separated; default: all')
    .option('--accel <kind>', 'tcg or kvm, handed to each')
    .option('--quick', 'small sizes: to see that all of it works')
    .option('--from-results', 'run nothing: make the report of the results in the folder')
    .addHelpText(
      'after',
      `
A bench that fails is a row that says so; the others go on, and the exit status is 1. Which figure is measured
by what, and why ours differ: docs/reproduction.md.`,
    )
    .action(paper);
}

async function paper(o: PaperOptions): Promise<void> {
  const [
    { PAPER_BENCHES },
    { paperReport, paperRows },
    { abortOnSignals },
    { number },
    { makeDirectory, writeOutput },
    path,
  ] = await Promise.all([
    import('../../bench/paper/benches.ts'),
    import('../../report/paper.ts'),
    import('../../core/lifecycle.ts'),
    import('../../report/format.ts'),
    import('../../core/files.ts'),
    import('node:path'),
  ]);
  const names = o.only?.split(',');
  const unknown = names?.find((n) => !PAPER_BENCHES.some((b) => b.name === n));
  if (unknown !== undefined)
    throw new HyperturtleError(
      'HT_USAGE',
      `--only: some of ${PAPER_BENCHES.map((b) => b.name).join(',')} expected, '${unknown}' found`,
    );
  const dir = path.resolve(o.dir);
  makeDirectory(dir);
  const startedAt = new Date().toISOString();
  const { signal, dispose } = abortOnSignals();
  const runs: PaperRun[] = [];
  try {
    for (const bench of PAPER_BENCHES)
      if (!names || names.includes(bench.name)) runs.push(await runOne(bench, dir, o, signal));
  } finally {
    dispose();
  }
  const report = path.join(dir, 'paper.html');
  writeOutput(report, paperReport(runs, startedAt));
  const lines = paperRows(runs)
    .filter((r) => r.gain !== undefined)
    .map(
      (r) =>
        `${r.figure.what}: ${number(r.gain ?? 0)} times better than nested; the paper: ${r.paper === undefined ? 'no figure' : number(r.paper)}`,
    );
  writeOut([...lines, `Report: ${report}`, ''].join('\n'));
  const failed = runs.filter((r) => r.problem !== null);
  if (failed.length > 0) {
    for (const r of failed) writeErr(`${r.command}: ${r.problem ?? ''}\n`);
    process.exitCode = 1;
  }
}

/** As a process of its own: one that dies takes nothing with it. Throws HT_INTERRUPTED alone. */
async function runOne(
  bench: PaperBench,
  dir: string,
  o: PaperOptions,
  signal: AbortSignal,
): Promise<PaperRun> {
  const [{ spawn }, events, { readFile }, path, { messageOf }] = await Promise.all([
    import('node:child_process'),
    import('node:events'),
    import('node:fs/promises'),
    import('node:path'),
    import('../../core/errors.ts'),
  ]);
  const json = path.join(dir, `${bench.name}.json`);
  const args = [
    ...['bench', bench.name, ...(o.quick ? bench.quickArgs : bench.args), '--json', json],
    ...(bench.report ? ['--report', path.join(dir, `${bench.name}.html`)] : []),
    ...(o.accel === undefined ? [] : ['--accel', o.accel]),
  ];
  const run: PaperRun = {
    bench: bench.name,
    command: `hyperturtle ${args.join(' ')}`,
    seconds: 0,
    about: null,
    problem: null,
    values: {},
  };
  const begunMs = performance.now();
  try {
    if (!o.fromResults) {
      const main = process.argv[1] ?? '';
      // its own table goes to our standard error: standard output is for what comes out in the end
      const child = spawn(process.execPath, [main, ...args], { stdio: ['ignore', 2, 2] });
      const end = (): void => void child.kill('SIGTERM');
      signal.addEventListener('abort', end, { once: true });
      const [status] = (await events.default.once(child, 'exit')) as [number | null];
      signal.removeEventListener('abort', end);
      signal.throwIfAborted();
      if (status !== 0) throw new Error(`ended with status ${status ?? 'of a signal'}: see above`);
    }
    const result: unknown = JSON.parse(await readFile(json, 'utf8'));
    return {
      ...run,
      seconds: (performance.now() - begunMs) / 1000,
      about: bench.about(result),
      values: bench.figures(result),
    };
  } catch (e) {
    signal.throwIfAborted();
    return { ...run, seconds: (performance.now() - begunMs) / 1000, problem: messageOf(e) };
  }
}
