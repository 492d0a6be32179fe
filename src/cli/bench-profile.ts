/** `hyperturtle bench profile` and its other side in an L1, `bench sampler`. */
import type { Command } from 'commander';
import { inLab, labOptions } from './bench-lab.ts';
import type { LabOptions } from './bench-lab.ts';
import { integer, printJson } from './values.ts';

interface ProfileBenchOptions extends LabOptions {
  rates: number[];
  rounds: number;
  workRounds: number;
}

interface SamplerOptions {
  pid: number;
  hz: number;
}

export function registerProfileBench(bench: Command, version: string): void {
  labOptions(
    bench
      .command('profile')
      .description(
        'cost of a sample: a fixed workload in L2, profiled by the hyperupcall and by perf events of L1',
      )
      .option(
        '--rates <list>',
        'samples a second, comma-separated',
        (text) => text.split(',').map(integer('--rates', 1, 10_000)),
        [99, 999, 3999],
      )
      .option('--rounds <number>', 'variants take turns in each', integer('--rounds', 1, 100), 3)
      .option('--work-rounds <number>', 'of the workload', integer('--work-rounds', 1, 1_000_000), 1500),
  ).action(async (o: ProfileBenchOptions) => {
    const { runProfileBench, profileTable } = await import('../bench/profile.ts');
    const { rates, rounds, workRounds } = o;
    const result = await inLab(o, ({ lab, progress, signal }) =>
      runProfileBench(lab, { rates, rounds, workRounds }, { version, progress, signal }),
    );
    process.stdout.write(profileTable(result));
  });
  bench
    .command('sampler')
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
    import('../bpf/perf-event.ts'),
    import('node:fs/promises'),
    import('../core/lifecycle.ts'),
    import('../core/wait.ts'),
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
