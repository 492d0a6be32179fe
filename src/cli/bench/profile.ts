/** `hyperturtle bench profile` and its other side in an L1, `bench sampler`. */
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import { writeOut } from '../../core/output.ts';
import { inLab, labOptions } from '../shared/in-lab.ts';
import type { LabOptions } from '../shared/in-lab.ts';
import type { PROFILERS } from '../../bench/profile/run.ts';
import { integer, printJson } from '../shared/values.ts';

interface ProfileBenchOptions extends LabOptions {
  rates: number[];
  rounds: number;
  workRounds: number;
  profilers: (typeof PROFILERS)[number][];
}

interface SamplerOptions {
  pid: number;
  hz: number;
}

/** As PROFILERS of bench/profile/run.ts, which is not loaded for a list of options. */
function profilersOf(text: string): ProfileBenchOptions['profilers'] {
  return text.split(',').map((name) => {
    if (name === 'l0' || name === 'perf' || name === 'l1') return name;
    throw new InvalidArgumentError(`l0, perf or l1 expected, '${name}' found`);
  });
}

export function registerProfileBench(bench: Command, version: string): void {
  labOptions(
    bench
      .command('profile')
      .description(
        'cost of a sample: a fixed workload in L2, profiled by the hyperupcall, and by stock perf and its events alone in L1',
      )
      .option(
        '--rates <list>',
        'samples a second, comma-separated',
        (text) => text.split(',').map(integer('--rates', 1, 10_000)),
        [99, 999, 3999],
      )
      .addOption(
        new Option('--profilers <list>', 'comma-separated: l0 (hyperupcall), perf (stock), l1 (events alone)')
          .argParser(profilersOf)
          .default(['l0', 'perf', 'l1']),
      )
      .option('--rounds <number>', 'variants take turns in each', integer('--rounds', 1, 100), 3)
      .option(
        '--work-rounds <number>',
        'rounds of the workload',
        integer('--work-rounds', 1, 1_000_000),
        1500,
      ),
  ).action(async (o: ProfileBenchOptions) => {
    const [{ runProfileBench, profileTable }, { PERF_IMAGE }] = await Promise.all([
      import('../../bench/profile/run.ts'),
      import('../../bench/profile/stock-perf.ts'),
    ]);
    const { rates, rounds, workRounds, profilers } = o;
    const images = profilers.includes('perf') ? [PERF_IMAGE] : [];
    const result = await inLab({ ...o, images }, ({ lab, progress, signal }) =>
      runProfileBench(lab, { rates, rounds, workRounds, profilers }, { version, progress, signal }),
    );
    writeOut(profileTable(result));
  });
  bench
    .command('sampler', { hidden: true })
    .description(
      'in an L1: sample all threads of a process by their CPU clock, as perf record does, until SIGTERM',
    )
    .requiredOption('--pid <number>', 'the process', integer('--pid', 1, 2 ** 22))
    .requiredOption('--hz <number>', 'samples a second of each thread', integer('--hz', 1, 100_000))
    .addHelpText('after', '\nSIGUSR2 and SIGUSR1 print the counts, before and after what is measured.')
    .action(sampler);
}

const DRAIN_MS = 500;

async function sampler(o: SamplerOptions): Promise<void> {
  const [{ CpuClockSampler }, { readdir }, { abortOnSignals }, { sleep }] = await Promise.all([
    import('../../bpf/perf-event.ts'),
    import('node:fs/promises'),
    import('../../core/lifecycle.ts'),
    import('../../core/wait.ts'),
  ]);
  const { signal, dispose } = abortOnSignals();
  const threads = (await readdir(`/proc/${o.pid}/task`)).map(Number);
  const samplers = threads.map((thread) => new CpuClockSampler(thread, o.hz));
  const drain = (): { guest: number; others: number; lost: number } => {
    const sum = { guest: 0, others: 0, lost: 0 };
    for (const s of samplers) {
      s.drain();
      sum.guest += s.count.guest;
      sum.others += s.count.others;
      sum.lost += s.count.lost;
    }
    return sum;
  };
  process.on('SIGUSR2', () => printJson({ event: 'before', ...drain() }));
  process.on('SIGUSR1', () => printJson({ event: 'after', ...drain() }));
  printJson({ event: 'sampling', threads: threads.length });
  try {
    for (;;) {
      await sleep(DRAIN_MS, signal).catch(() => undefined);
      if (signal.aborted) break;
      drain();
    }
  } finally {
    for (const s of samplers) s.close();
    dispose();
  }
}
