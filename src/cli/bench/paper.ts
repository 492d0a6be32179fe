/** `hyperturtle bench paper`: all benches that measure what the paper measured, one after the other, and one report of them. */
import type { Command } from 'commander';
import { Option } from 'commander';
import { writeErr, writeOut } from '../../core/output.ts';
import type { PaperBench, PaperRun } from '../../bench/paper/benches.ts';
import { clockOption } from '../shared/emulated-cpu.ts';
import type { KeptRuns } from '../../bench/paper/kept.ts';
import type { Finding } from '../../wire/schema.ts';
import { HyperturtleError } from '../../core/errors.ts';

interface PaperOptions {
  dir: string;
  only?: string;
  accel?: 'tcg' | 'kvm';
  clock?: 'real' | 'instructions';
  quick?: boolean;
  again?: boolean;
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
    .addOption(new Option('--accel <kind>', 'handed to each; default: tcg').choices(['tcg', 'kvm']))
    .addOption(clockOption())
    .option('--quick', 'small sizes: to see that all of it works')
    .option('--again', 'run those as well that have ended well in this folder')
    .option('--from-results', 'run nothing: make the report of the results in the folder')
    .addHelpText(
      'after',
      `
A bench that has ended well in the folder, by the same arguments, is not run again: start the command once more after
an interruption. A bench that fails is a row that says so; the others go on, and the exit status is 1. With --accel
kvm the machine is looked at first, and what would disturb is told and is in the report. Which figure is measured
by what, and why ours differ: docs/reproduction.md.`,
    )
    .action(paper);
}

async function paper(o: PaperOptions): Promise<void> {
  const [
    { PAPER_BENCHES },
    { paperReport, paperRows },
    { KeptRuns },
    { abortOnSignals },
    { number },
    { makeDirectory, writeOutput },
    path,
  ] = await Promise.all([
    import('../../bench/paper/benches.ts'),
    import('../../report/paper.ts'),
    import('../../bench/paper/kept.ts'),
    import('../../core/lifecycle.ts'),
    import('../../report/format.ts'),
    import('../../core/files.ts'),
    import('node:path'),
  ]);
  if (o.accel === 'kvm' && o.clock === 'instructions')
    throw new HyperturtleError(
      'HT_USAGE',
      '--clock instructions is for --accel tcg: nobody counts instructions of hardware: leave one of them out',
    );
  const benches = chosen(PAPER_BENCHES, o.only);
  const machine = o.accel === 'kvm' && !o.fromResults ? await lookAtMachine() : [];
  const dir = path.resolve(o.dir);
  makeDirectory(dir);
  const startedAt = new Date().toISOString();
  const kept = new KeptRuns(dir);
  const { signal, dispose } = abortOnSignals();
  const runs: PaperRun[] = [];
  try {
    for (const [i, bench] of benches.entries()) {
      if (!o.fromResults) writeErr(`${i + 1} of ${benches.length}: ${expectation(bench, kept, o)}\n`);
      runs.push(await runOne(bench, dir, o, kept, signal));
    }
  } finally {
    dispose();
  }
  const report = path.join(dir, 'paper.html');
  writeOutput(report, paperReport(runs, startedAt, machine));
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

function chosen(all: readonly PaperBench[], only: string | undefined): readonly PaperBench[] {
  const names = only?.split(',');
  const unknown = names?.find((n) => !all.some((b) => b.name === n));
  if (unknown !== undefined)
    throw new HyperturtleError(
      'HT_USAGE',
      `--only: some of ${all.map((b) => b.name).join(',')} expected, '${unknown}' found`,
    );
  return all.filter((b) => !names || names.includes(b.name));
}

/** Refuses where nesting cannot work; tells what would disturb. */
async function lookAtMachine(): Promise<Finding[]> {
  const [{ checkKvm }, { machineFindings }] = await Promise.all([
    import('../../lab/lab-checks.ts'),
    import('../../bench/paper/machine.ts'),
  ]);
  await checkKvm();
  const found = machineFindings();
  for (const f of found)
    writeErr(`${f.level === 'ok' ? 'ok     ' : 'warning'} ${f.what}${f.mend ? `; fix: ${f.mend}` : ''}\n`);
  return found;
}

const argsOf = (bench: PaperBench, o: PaperOptions): string[] => [
  ...(o.quick ? bench.quickArgs : bench.args),
  ...(o.accel === undefined ? [] : ['--accel', o.accel]),
  ...(o.clock === undefined ? [] : ['--clock', o.clock]),
];

/** What will be done with a bench, and for about how long. */
function expectation(bench: PaperBench, kept: KeptRuns, o: PaperOptions): string {
  const before = o.again ? undefined : kept.of(bench.name, argsOf(bench, o));
  if (before !== undefined) return `${bench.name}, kept from ${before.endedAt}`;
  const s = kept.secondsOf(bench.name);
  return s === undefined
    ? `${bench.name}, for the first time in this folder`
    : `${bench.name}, ${Math.max(1, Math.round(s / 60))} min when it last ended here`;
}

/** As a process of its own: one that dies takes nothing with it. Throws HT_INTERRUPTED alone. */
async function runOne(
  bench: PaperBench,
  dir: string,
  o: PaperOptions,
  keptRuns: KeptRuns,
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
  const own = argsOf(bench, o);
  const args = [
    ...['bench', bench.name, ...own, '--json', json],
    ...(bench.report ? ['--report', path.join(dir, `${bench.name}.html`)] : []),
  ];
  const kept = o.again ? undefined : keptRuns.of(bench.name, own);
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
    if (!o.fromResults && kept === undefined) {
      keptRuns.begun(bench.name);
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
    const seconds = kept?.seconds ?? (performance.now() - begunMs) / 1000;
    const done: PaperRun = { ...run, seconds, about: bench.about(result), values: bench.figures(result) };
    if (!o.fromResults && kept === undefined)
      keptRuns.ended(bench.name, { args: own, endedAt: new Date().toISOString(), seconds });
    return done;
  } catch (e) {
    signal.throwIfAborted();
    return { ...run, seconds: (performance.now() - begunMs) / 1000, problem: messageOf(e) };
  }
}
