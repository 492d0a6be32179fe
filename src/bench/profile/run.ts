/**
 * What profiling an L2 costs it: a fixed workload unprofiled, sampled by the hyperupcall in L0, by Debian's
 * `perf record` in L1, and by perf events in L1 with nothing but a count behind them, at several rates, in turn. And
 * whether what the profile says is true.
 */
import { HyperturtleError } from '../../core/errors.ts';
import { CleanupStack } from '../../core/lifecycle.ts';
import type { Progress } from '../../core/progress.ts';
import type { Lab } from '../../lab/lab.ts';
import { run, runScript } from '../../lab/levels.ts';
import type { Job } from '../../lab/levels.ts';
import { CLI, insmod, jobSays, rmmod } from '../../testbed/acceleration.ts';
import { environmentOf } from '../shared/environment.ts';
import { KvmCounters, countersBetween } from '../../testbed/kvm-counters.ts';
import { withL2 } from '../../testbed/l2-session.ts';
import type { L2Session } from '../../testbed/l2-session.ts';
import { median } from '../../core/median.ts';
import { clockNs, record, recorded, stockPerf } from './stock-perf.ts';
import { RESULT_SCHEMA_VERSION } from '../shared/environment-schema.ts';
import type { Environment } from '../shared/environment-schema.ts';
import type { Counters } from '../../testbed/counters-schema.ts';
import { L2_TICK_ARGUMENTS } from '../../testbed/l2-spec.ts';

export interface ProfileBenchSpec {
  rates: readonly number[];
  /** Variants take turns in each. */
  rounds: number;
  /** Rounds of the workload in one measurement. */
  workRounds: number;
  profilers: readonly (typeof PROFILERS)[number][];
}

/** `none`; `l0`: the hyperupcall; `perf`: the stock tool in L1; `l1`: its events, read by `bench sampler`. */
type Profiler = 'none' | 'l0' | 'perf' | 'l1';
export const PROFILERS = ['l0', 'perf', 'l1'] as const;

interface ProfileSample {
  profiler: Profiler;
  hz: number;
  round: number;
  /** By L2's own clock. */
  workNs: number;
  emulatorCpuSeconds: number;
  /** Samples of L2, as the profiler counts them. */
  samples: number;
  /** Time that they took in L0, by the module's count. */
  hookNs: number | null;
  counters: Counters;
}

export interface ProfileBenchResult {
  schema: typeof RESULT_SCHEMA_VERSION;
  benchmark: 'profile';
  environment: Environment;
  parameters: ProfileBenchSpec;
  samples: ProfileSample[];
  /** Shares of three functions: as they are, and as the profile at the highest rate has them, in percent. */
  accuracy: { name: string; truth: number; profiled: number }[];
}

const QMP = '/run/l1/qmp.sock';
const NAME = 'bench-profile';
const SHARES = '/payload/l2/programs/shares';
const TRUTH = { share_hot: 50, share_warm: 30, share_cool: 20 } as const;
const PHASE_MS = 600_000;
/** Rounds of the work before it is measured. */
const WARM = 5;

/** The lab must be up, and nobody else using it. It is left as it was found. */
export async function runProfileBench(
  lab: Lab,
  spec: ProfileBenchSpec,
  options: { version: string; progress: Progress; signal?: AbortSignal | undefined },
): Promise<ProfileBenchResult> {
  const { progress, signal } = options;
  const startedAt = new Date();
  const undo = new CleanupStack();
  const samples: ProfileSample[] = [];
  let accuracy: ProfileBenchResult['accuracy'] = [];
  try {
    await insmod(lab.l0, 'hyperturtle_host', signal);
    undo.add('host module', () => rmmod(lab.l0, 'hyperturtle_host'));
    const counters = await KvmCounters.start(lab.l0, signal);
    undo.add('counters', () => counters.stop());
    if (spec.profilers.includes('perf')) await stockPerf(lab.l1, undo, signal);
    const guest = {
      name: NAME,
      ram: 'tmpfs',
      memMib: 96,
      append: L2_TICK_ARGUMENTS,
      machine: 'pc',
      port: 0,
    } as const;
    await withL2(
      lab,
      guest,
      async (l2) => {
        await work(l2, spec.workRounds, signal); // the first one brings its pages
        const first = progress.step('accuracy');
        accuracy = await accuracyOf(lab, l2, signal);
        first.done();
        for (let round = 0; round < spec.rounds; round++)
          for (const { profiler, hz } of turns(spec, round)) {
            const step = progress.step(
              `round ${round + 1}: ${profiler === 'none' ? 'not profiled' : `${hz} Hz: ${NAMES[profiler]}`}`,
            );
            samples.push(await measure({ lab, l2, counters, spec, profiler, hz, round, signal }));
            step.done();
          }
      },
      { signal },
    );
    return {
      schema: RESULT_SCHEMA_VERSION,
      benchmark: 'profile',
      environment: await environmentOf(lab, options.version, startedAt),
      parameters: { ...spec },
      samples,
      accuracy,
    };
  } finally {
    await undo.run();
  }
}

/** Each rate with all profilers side by side; the order turns round, as does the machine's mood. */
function turns({ rates, profilers }: ProfileBenchSpec, round: number): { profiler: Profiler; hz: number }[] {
  const all: { profiler: Profiler; hz: number }[] = [
    { profiler: 'none', hz: 0 },
    ...rates.flatMap((hz) => profilers.map((profiler) => ({ profiler, hz }))),
  ];
  return round % 2 === 0 ? all : all.reverse();
}

async function work(l2: L2Session, rounds: number, signal: AbortSignal | undefined): Promise<number> {
  const lines = await l2.shell.runOk(`shares ${rounds}`, { timeoutMs: PHASE_MS, signal });
  const ns = /"ns":(\d+)/.exec(lines.at(-1) ?? '')?.[1];
  if (ns === undefined)
    throw new HyperturtleError('HT_COMMAND_FAILED', `shares in L2 said: ${lines.join(' ')}`);
  return Number(ns);
}

interface Measuring {
  lab: Lab;
  l2: L2Session;
  counters: KvmCounters;
  spec: ProfileBenchSpec;
  profiler: Profiler;
  hz: number;
  round: number;
  signal: AbortSignal | undefined;
}

interface Counting {
  /** Counts so far; L1's stock tool is asked at its end only. */
  before(): Promise<void>;
  after(): Promise<Seen>;
  end(): Promise<void>;
}

async function measure(m: Measuring): Promise<ProfileSample> {
  const { lab, l2, counters, spec, profiler, hz, round, signal } = m;
  const counting = await startProfiler(lab, profiler, hz, signal);
  try {
    // a process has just started beside L2: what an emulator then translates again is no part of any sample
    await work(l2, Math.ceil(spec.workRounds / WARM), signal);
    await counting.before();
    const before = await counters.read(signal);
    const cpu = lab.emulatorCpuSeconds();
    const workNs = await work(l2, spec.workRounds, signal);
    const emulatorCpuSeconds = lab.emulatorCpuSeconds() - cpu;
    const after = await counters.read(signal);
    const seen = await counting.after();
    return {
      profiler,
      hz,
      round,
      workNs,
      emulatorCpuSeconds,
      ...seen,
      counters: countersBetween(before, after),
    };
  } finally {
    await counting.end();
  }
}

/** Our processes start before the measurement and end after it; meanwhile they sleep. */
async function startProfiler(
  lab: Lab,
  profiler: Profiler,
  hz: number,
  signal: AbortSignal | undefined,
): Promise<Counting> {
  if (profiler === 'none')
    return {
      before: async () => {},
      after: () => Promise.resolve({ samples: 0, hookNs: null }),
      end: async () => {},
    };
  if (profiler === 'l0') {
    const command = [CLI, 'host', 'attach', '--qmp', QMP, '--no-plug', '--hook', 'sample'];
    const program = ['--program', '/payload/bpf/profile.bpf.o', '--option', `hz=${hz}`];
    const job = await lab.l0.spawn([...command, ...program], { signal });
    await jobSays(job, /"linked":true/, 'link of the sample hook', PHASE_MS, signal);
    return ours(job, profiler, signal);
  }
  const pid = (
    await runScript(lab.l1, `ps -o pid,args | awk '/qemu-system.*l2.${NAME}.qm[p]/ { print $1 }'`, { signal })
  ).trim();
  if (profiler === 'l1') {
    const job = await lab.l1.spawn([CLI, 'bench', 'sampler', '--pid', pid, '--hz', String(hz)], { signal });
    await jobSays(job, /"event":"sampling"/, 'perf events in L1', PHASE_MS, signal);
    return ours(job, profiler, signal);
  }
  const job = await record(lab.l1, pid, hz, signal);
  let fromNs = 0;
  return {
    before: async () => {
      fromNs = await clockNs(lab.l1, signal);
    },
    after: async () => {
      const found = await recorded(lab.l1, job, fromNs, await clockNs(lab.l1, signal));
      return { samples: found.guest + found.lost, hookNs: null };
    },
    end: () => ended(job),
  };
}

async function ended(job: Job): Promise<void> {
  await job.kill('TERM');
  await job.wait({ timeoutMs: 60_000 });
}

/** Our process, which prints its counts when it is signalled. */
function ours(job: Job, profiler: 'l0' | 'l1', signal: AbortSignal | undefined): Counting {
  let first: Seen = { samples: 0, hookNs: null };
  return {
    before: async () => {
      first = await seen(job, profiler, 'before', signal);
    },
    after: async () => {
      const last = await seen(job, profiler, 'after', signal);
      return {
        samples: last.samples - first.samples,
        hookNs: last.hookNs === null ? null : last.hookNs - (first.hookNs ?? 0),
      };
    },
    end: () => ended(job),
  };
}

interface Seen {
  samples: number;
  hookNs: number | null;
}

/**
 * Waits for a profiler's signal in the output so far. What it prints for its two signals differs, so one is not taken
 * for the other.
 */
async function seen(
  job: Job,
  profiler: 'l0' | 'l1',
  when: 'before' | 'after',
  signal: AbortSignal | undefined,
): Promise<Seen> {
  await job.kill(when === 'before' ? 'USR2' : 'USR1');
  if (profiler === 'l0') {
    const event = when === 'before' ? 'linked' : 'unlinked';
    const line = new RegExp(`"event":"${event}".*"handled":(\\d+).*"ns":(\\d+)`);
    const said = await jobSays(job, line, 'counts of the hook', PHASE_MS, signal);
    return { samples: Number(said[1]), hookNs: Number(said[2]) };
  }
  const line = new RegExp(`"event":"${when}","guest":(\\d+),"others":\\d+,"lost":(\\d+)`);
  const said = await jobSays(job, line, 'counts of perf', PHASE_MS, signal);
  return { samples: Number(said[1]) + Number(said[2]), hookNs: null };
}

async function accuracyOf(
  lab: Lab,
  l2: L2Session,
  signal: AbortSignal | undefined,
): Promise<ProfileBenchResult['accuracy']> {
  const command = [
    '/payload/bin/hyperturtle',
    'host',
    'profile',
    '--qmp',
    QMP,
    '--hz',
    '999',
    '--seconds',
    '15',
  ];
  // in the background of L2's shell, so that whatever fails here fails alone
  await l2.shell.runOk('(shares 100000000 >/dev/null 2>&1 & echo $! >/tmp/busy) </dev/null', {
    timeoutMs: PHASE_MS,
    signal,
  });
  const said = await run(lab.l0, [...command, '--user', '--binary', SHARES, '--json'], {
    timeoutMs: PHASE_MS,
    signal,
  });
  await l2.shell.runOk('kill $(cat /tmp/busy)', { timeoutMs: PHASE_MS, signal });
  const { hottest } = JSON.parse(said.trim().split('\n').at(-1) ?? '') as {
    hottest: { name: string; samples: number }[];
  };
  const of = (name: string): number => hottest.find((h) => h.name === name)?.samples ?? 0;
  const names = Object.keys(TRUTH) as (keyof typeof TRUTH)[];
  const total = names.reduce((n, name) => n + of(name), 0);
  return names.map((name) => ({
    name,
    truth: TRUTH[name],
    profiled: total > 0 ? (100 * of(name)) / total : 0,
  }));
}

const mean = (values: readonly number[]): number =>
  values.reduce((a, b) => a + b, 0) / Math.max(values.length, 1);
const reflected = (c: Counters): number => Object.values(c.reflectedByCause).reduce((a, b) => a + b, 0);

export interface ProfileCost {
  profiler: Profiler;
  hz: number;
  /** Slowdown of the workload by L2's clock, against the same without a profiler; medians. */
  slowdownPercent: number;
  samples: number;
  /** What each sample added to the workload's time. */
  usPerSample: number;
  /** Entries of L1 beyond those that the same work has without a profiler. */
  l1EntriesPerSample: number;
  exitsPerSample: number;
}

export function profileCosts(r: Pick<ProfileBenchResult, 'samples'>): ProfileCost[] {
  const of = (profiler: Profiler, hz: number): ProfileSample[] =>
    r.samples.filter((s) => s.profiler === profiler && s.hz === hz);
  const base = of('none', 0);
  const baseNs = median(base.map((s) => s.workNs));
  // ticks of L2 are of time, not of work: what is to be compared is what they make in the same time
  const perSecond = (count: (c: Counters) => number): number =>
    mean(base.map((s) => (count(s.counters) / s.workNs) * 1e9));
  const kinds = [
    ...new Set(r.samples.filter((s) => s.profiler !== 'none').map((s) => `${s.profiler} ${s.hz}`)),
  ];
  return kinds.map((kind) => {
    const [profiler, hz] = kind.split(' ') as [Profiler, string];
    const all = of(profiler, Number(hz));
    const ns = median(all.map((s) => s.workNs));
    const samples = mean(all.map((s) => s.samples));
    const beyond = (count: (c: Counters) => number): number =>
      mean(
        all.map((s) => (count(s.counters) - (perSecond(count) * s.workNs) / 1e9) / Math.max(s.samples, 1)),
      );
    return {
      profiler,
      hz: Number(hz),
      slowdownPercent: (100 * (ns - baseNs)) / baseNs,
      samples,
      usPerSample: (ns - baseNs) / 1000 / Math.max(samples, 1),
      l1EntriesPerSample: beyond(reflected),
      exitsPerSample: beyond((c) => c.exits),
    };
  });
}

const NAMES: Readonly<Record<Profiler, string>> = {
  none: 'not profiled',
  l0: 'hyperupcall',
  perf: 'perf record in L1',
  l1: 'events in L1',
};

/** For people: two tables. */
export function profileTable(r: ProfileBenchResult): string {
  const rows = profileCosts(r).map((c) =>
    [
      NAMES[c.profiler].padEnd(17),
      `${c.hz} Hz`.padStart(8),
      `${c.samples.toFixed(0)}`.padStart(8),
      `${c.slowdownPercent.toFixed(1)}%`.padStart(9),
      `${c.usPerSample.toFixed(1)}`.padStart(10),
      `${c.l1EntriesPerSample.toFixed(2)}`.padStart(12),
      `${c.exitsPerSample.toFixed(1)}`.padStart(8),
    ].join(' '),
  );
  const shares = r.accuracy.map(
    (a) => `  ${a.name.padEnd(12)} ${String(a.truth).padStart(4)}%  ${a.profiled.toFixed(1)}%`,
  );
  return [
    '                      rate  samples  slowdown  us/sample   L1 entries    exits   (per sample)',
    ...rows,
    '',
    '  function    truth  profiled',
    ...shares,
    '',
  ].join('\n');
}
