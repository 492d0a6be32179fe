/** `hyperturtle bench ...`: measures in a lab of its own and writes table, JSON and report. */
import type { Command } from 'commander';
import { writeJson, writeOut } from '../../core/output.ts';
import type { BenchSpec } from '../../bench/first-touch/run.ts';
import type { LargeFrames } from '../../testbed/acceleration.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { registerAgentBench } from './agent.ts';
import { registerCallBench } from './call.ts';
import { registerControl } from './control.ts';
import { registerBenchNet } from './net.ts';
import { registerExitBench } from './exit.ts';
import { registerFleetBench } from './fleet.ts';
import { registerIdleBench } from './idle.ts';
import { registerGupsBench } from './gups.ts';
import { registerHooksBench } from './hooks.ts';
import { registerHugeBench } from './huge.ts';
import { registerModel } from './model.ts';
import { registerNetNative } from './net-native.ts';
import { registerPaper } from './paper.ts';
import { registerMatrix } from './matrix.ts';
import { registerStart } from './start.ts';
import { registerVmsBench } from './vms.ts';
import { registerProfileBench } from './profile.ts';
import { inLab, labOptions } from '../shared/in-lab.ts';
import type { LabOptions } from '../shared/in-lab.ts';
import { choose, integer } from '../shared/values.ts';

interface CommonOptions extends LabOptions {
  report?: string;
}

interface RunOptions extends CommonOptions {
  mib: number;
  rounds: number;
  l2Memory: number;
  largeFrames: LargeFrames;
  machine: string;
  variants?: string;
  patterns?: string;
}

interface CountOptions extends RunOptions {
  count?: boolean;
}

/** Short phases: each is read from a trace. */
const COUNTED_MIB = 8;

export const ARENA_MIB = 16;

export function register(program: Command, version: string): void {
  const bench = program
    .command('bench')
    .description('measure what programs gain and cost nested guests, and race them: no page may change');
  sized(bench.command('npf').description('first touches of L2: vanilla and with the hyperupcall'))
    .option(
      '--count',
      'also the instructions of each fault, by level: time is counted in instructions, L1 has one CPU, and 8 MiB are touched unless --mib says other',
    )
    .action((o: CountOptions, command: Command) =>
      measure('npf', o.count === true ? counting(o, command) : o, version),
    );
  sized(
    bench.command('boot').description('boots of L2: vanilla, with the hyperupcall, and not nested'),
  ).action((o: RunOptions) => measure('boot', o, version));
  labOptions(bench.command('churn').description('create, run and destroy many L2s; nothing may be left'))
    .option('--cycles <number>', 'how many', integer('--cycles', 1, 1_000_000), 200)
    .option('--parallel <number>', 'at a time', integer('--parallel', 1, 64), 4)
    .action((o: CheckOptions) => check('churn', o));
  labOptions(
    bench.command('integrity').description('race pages of an L2 between it, L1 and L0; none may change'),
  )
    .option('--pages <number>', 'how many at least', integer('--pages', 1, 2 ** 31), 100_000)
    .action((o: CheckOptions) => check('integrity', o));
  labOptions(
    bench
      .command('chaos')
      .description('kill -9 of daemon, agent or an L1 at random moments; no page may change'),
  )
    .option('--rounds <number>', 'kills', integer('--rounds', 1, 10_000), 50)
    .option('--seed <number>', 'the same kills in the same order', integer('--seed', 0, 2 ** 32 - 1), 1)
    .action((o: CheckOptions) => check('chaos', { ...o, l1Memory: 1024, secondL1Memory: 768 }));
  sized(bench.command('all').description('npf and boot')).action((o: RunOptions) =>
    measure('all', o, version),
  );
  registerControl(bench, version);
  registerMatrix(bench);
  registerModel(bench);
  registerAgentBench(bench);
  registerBenchNet(bench, version);
  registerNetNative(bench, version);
  registerExitBench(bench, version);
  registerCallBench(bench, version);
  registerGupsBench(bench, version);
  registerHooksBench(bench);
  registerHugeBench(bench, version);
  registerPaper(bench);
  registerStart(bench, version);
  registerProfileBench(bench, version);
  registerFleetBench(bench, version);
  registerIdleBench(bench, version);
  registerVmsBench(bench, version);
}

function largeFrames(text: string): LargeFrames {
  return text === 'auto' ? text : integer("--large-frames, if not 'auto'", 0, 256)(text);
}

/** What a bench of touches or boots has for options. */
function sized(c: Command): Command {
  return common(c)
    .option('--mib <number>', 'memory touched by each phase', integer('--mib', 1, 1024), 32)
    .option('--rounds <number>', 'rounds; variants take turns in each', integer('--rounds', 1, 100), 3)
    .option(
      '--l2-memory <MiB>',
      'memory of L2; default: as much as the touches need',
      integer('--l2-memory', 64, 65_536),
      0,
    )
    .option(
      '--large-frames <number>',
      "frames of 2 MiB that L1 keeps for its nested guests, or 'auto': as free memory allows; 0: all pages are of 4 KiB",
      largeFrames,
      0,
    )
    .option('--machine <type>', "QEMU's machine type for L2", 'pc')
    .option('--variants <list>', 'only these, comma-separated; default: all; an unknown one lists them')
    .option('--patterns <list>', 'only these orders of touching; default: all; an unknown one lists them');
}

/** Throws HT_USAGE for a lab whose instructions nobody counts. */
function counting(o: CountOptions, command: Command): CountOptions {
  if (o.accel !== 'tcg' || (o.clock ?? 'instructions') !== 'instructions' || o.l1Cpus !== 1)
    throw new HyperturtleError(
      'HT_USAGE',
      '--count expects --accel tcg, --clock instructions and --l1-cpus 1, as they are unless given',
    );
  const mib = command.getOptionValueSource('mib') === 'default' ? COUNTED_MIB : o.mib;
  return { ...o, clock: 'instructions', mib };
}

/** Throws HT_USAGE for what no lab could measure. */
function checkRoom(o: CountOptions, variants: readonly string[], l2MemoryMib: number): void {
  if (o.largeFrames !== 'auto' && o.largeFrames * 2 > o.l1Memory / 2)
    throw new HyperturtleError(
      'HT_USAGE',
      `--large-frames ${o.largeFrames}: at most half of --l1-memory, ${Math.floor(o.l1Memory / 4)} of 2 MiB, expected`,
    );
  if (l2MemoryMib >= o.l1Memory)
    throw new HyperturtleError(
      'HT_USAGE',
      `an L2 of ${l2MemoryMib} MiB expects more memory in L1 than ${o.l1Memory} MiB: --l1-memory`,
    );
  if (o.count === true && !variants.some((v) => v.startsWith('l2-')))
    throw new HyperturtleError('HT_USAGE', '--count: one of the l2 variants expected in --variants');
}

interface CheckOptions extends LabOptions {
  cycles: number;
  parallel: number;
  pages: number;
  rounds: number;
  seed: number;
}

/** One check in a lab; its result as JSON. Exit status HT_INTEGRITY when something is wrong. */
async function check(what: 'churn' | 'integrity' | 'chaos', o: CheckOptions): Promise<void> {
  const [{ runChurn }, { runIntegrity }, { runChaos }] = await Promise.all([
    import('../../bench/churn/run.ts'),
    import('../../bench/integrity/run.ts'),
    import('../../bench/chaos/run.ts'),
  ]);
  const report = await inLab(o, async ({ lab, progress, signal }) => {
    const shared = { arenaMib: ARENA_MIB, progress, signal };
    if (what === 'chaos')
      return await runChaos(lab, {
        rounds: o.rounds,
        seed: o.seed,
        patternSeconds: 6,
        ...shared,
        arenaMib: 8,
      });
    return what === 'churn'
      ? await runChurn(lab, { cycles: o.cycles, parallel: o.parallel, memMib: 32, ...shared })
      : await runIntegrity(lab, {
          pages: o.pages,
          sharedMib: 16,
          ownMib: 32,
          hole: 16,
          passSeconds: 20,
          ...shared,
        });
  });
  writeJson(JSON.stringify(report, null, 1));
  if (report.problems.length > 0)
    throw new HyperturtleError('HT_INTEGRITY', `${what}: ${report.problems.join('; ')}`);
}

function common(c: Command): Command {
  return labOptions(c).option('--report <file>', 'write the HTML report');
}

async function measure(what: 'npf' | 'boot' | 'all', o: CountOptions, version: string): Promise<void> {
  const [{ PATTERNS, VARIANTS, WITH_LARGE_FRAMES }, { l2MemoryFor, reservedMemory }] = await Promise.all([
    import('../../bench/first-touch/schema.ts'),
    import('../../bench/first-touch/touch.ts'),
  ]);
  const variants = choose('--variants', o.largeFrames === 0 ? VARIANTS : WITH_LARGE_FRAMES, o.variants);
  const l2MemoryMib = o.l2Memory || l2MemoryFor(o.mib);
  reservedMemory(l2MemoryMib, o.mib);
  checkRoom(o, variants, l2MemoryMib);
  await runAndReport(
    {
      benchmark: what,
      touchMib: o.mib,
      rounds: o.rounds,
      variants,
      patterns: choose('--patterns', PATTERNS, o.patterns),
      notNested: what !== 'npf',
      bootOnly: what === 'boot',
      count: o.count ?? false,
      largeFrames: o.largeFrames,
      l2MemoryMib,
      arenaMib: ARENA_MIB,
      machine: o.machine,
    },
    o,
    version,
  );
}

/** Measures in a lab; then the table, and the files that were asked for. */
export async function runAndReport(spec: BenchSpec, o: CommonOptions, version: string): Promise<void> {
  const [{ runBench }, { terminalReport }, { htmlReport }, { writeOutput }, path] = await Promise.all([
    import('../../bench/first-touch/run.ts'),
    import('../../report/terminal.ts'),
    import('../../report/html.ts'),
    import('../../core/files.ts'),
    import('node:path'),
  ]);
  const result = await inLab(o, ({ lab, ...context }) => runBench(lab, spec, { version, ...context }));
  const report = o.report === undefined ? undefined : path.resolve(o.report);
  if (report !== undefined) writeOutput(report, htmlReport(result));
  writeOut(`\n${terminalReport(result, report)}`);
}
