/**
 * KVM's selftests in L1, once without anything of HyperTurtle and once with both modules loaded and npf linked: verdicts must
 * be the same. L1 runs them, so that their VMs are nested guests, whose faults come to L0's hook.
 */
import { HyperturtleError } from '../../core/errors.ts';
import { patient } from '../../core/patience.ts';
import type { Progress } from '../../core/progress.ts';
import { waitFor } from '../../core/wait.ts';
import { kernelTroubles } from '../../lab/kernel-log.ts';
import { SELFTESTS_LIST } from '../../lab/kvm-selftests.ts';
import type { Lab } from '../../lab/lab.ts';
import { run, runScript } from '../../lab/levels.ts';
import type { Level } from '../../lab/levels.ts';
import { IN_GUEST } from '../../lab/artifacts.ts';
import { Acceleration } from '../../testbed/acceleration.ts';

/** `crash 11`: by signal 11. `unbuilt`: does not compile from this source. */
type Verdict = 'ok' | 'skip' | 'fail' | 'timeout' | `crash ${number}` | 'unbuilt';

interface SelftestRow {
  name: string;
  without: Verdict;
  with: Verdict;
  /** Where both differ: of further runs with our modules, until one is as without. Some tests fail when they are slow. */
  again?: Verdict[];
  seconds: { without: number; with: number };
}

export interface SelftestReport {
  kernel: string;
  rows: SelftestRow[];
  /** Runs of npf in the second pass, which says that the hook was there. */
  npfRuns: number;
  /** New lines of trouble in the kernel logs of either level, by pass. */
  troubles: { without: string[]; with: string[] };
  problems: string[];
}

export interface SelftestSpec {
  /** Deadline of each program. */
  timeoutSeconds: number;
  /** Only programs with one of these in their name; default all but heavy ones. */
  only?: readonly string[];
  progress: Progress;
  signal?: AbortSignal | undefined;
}

/**
 * What measures rather than tests, or takes minutes or most of L1's memory under emulation: only run when asked for.
 * Linux 6.1's kvm_page_table_test stood still in an L1 of 2 GiB, without anything of HyperTurtle.
 */
const HEAVY =
  /(_perf_test|stress_test|max_guest_memory_test|kvm_page_table_test|create_max_vcpus|demand_paging_test|hardware_disable_test)$/;

const RESULTS = '/run/kvm-selftests';
const ARENA_MIB = 16;
/** Further runs of a program whose verdicts differ. */
const AGAIN = 5;
/** A run of kselftest ends with it when the machine has not what it tests. */
const SKIP_STATUS = 4;

/** The lab must have been started with `kvmSelftests`. It is left as it was found. */
export async function runSelftests(lab: Lab, spec: SelftestSpec): Promise<SelftestReport> {
  const { built, missing } = selected(
    await runScript(lab.l1, `cat ${IN_GUEST.images}/${SELFTESTS_LIST}`, { signal: spec.signal }),
    spec.only,
  );
  const without = await pass(lab, built, 'without', spec);
  const { progress, signal } = spec;
  const step = progress.step('modules, and npf linked');
  const a = await Acceleration.on(lab, { arenaMib: ARENA_MIB, signal });
  try {
    step.done();
    const before = await a.hookCounts(signal);
    const withUs = await pass(lab, built, 'with', spec);
    const again = await runAgain(lab, without, withUs, spec);
    const npfRuns = (await a.hookCounts(signal)).runs - before.runs;
    const unbuilt = { verdict: 'unbuilt', seconds: 0 } as const;
    const rows = [...built, ...missing].map((name): SelftestRow => {
      const [x, y] = [without.results.get(name) ?? unbuilt, withUs.results.get(name) ?? unbuilt];
      return {
        name,
        without: x.verdict,
        with: y.verdict,
        ...(again.has(name) ? { again: again.get(name)! } : {}),
        seconds: { without: x.seconds, with: y.seconds },
      };
    });
    const report = {
      kernel: lab.environment().kernelVersion,
      rows,
      npfRuns,
      troubles: { without: without.troubles, with: withUs.troubles },
    };
    return { ...report, problems: selftestProblems(report) };
  } finally {
    await a.off();
  }
}

/**
 * Programs to run: those asked for by name, else all that are not heavy; of the disk's list, and of what did not
 * compile.
 */
export function selected(
  list: string,
  only: readonly string[] | undefined,
): { built: string[]; missing: string[] } {
  const asked = list
    .split('\n')
    .filter((l) => l !== '' && (only === undefined ? !HEAVY.test(l) : only.some((o) => l.includes(o))));
  const found = {
    built: asked.filter((l) => !l.startsWith('!')),
    missing: asked.filter((l) => l.startsWith('!')).map((l) => l.slice(1)),
  };
  if (found.built.length === 0)
    throw new HyperturtleError('HT_NOT_FOUND', `no selftest has ${only?.join(' or ')} in its name`);
  return found;
}

interface Pass {
  results: Map<string, { verdict: Verdict; seconds: number }>;
  troubles: string[];
}

async function pass(
  lab: Lab,
  names: readonly string[],
  what: 'without' | 'with',
  spec: SelftestSpec,
): Promise<Pass> {
  const { progress, signal } = spec;
  const step = progress.step(`${names.length} selftests ${what} our modules`);
  const before = await logs(lab, signal);
  const seconds = Math.ceil(patient(spec.timeoutSeconds * 1000) / 1000);
  await lab.l1.writeFile('/run/kvm-selftests.sh', passScript(names, seconds), { signal });
  const job = await lab.l1.spawn(['sh', '/run/kvm-selftests.sh'], { logPath: `${RESULTS}-${what}`, signal });
  try {
    await waitFor(
      'the selftests',
      async () => {
        const done = (await job.output()).split('\n').length - 1;
        step.update(`${done} of ${names.length}: ${names[done] ?? 'done'}`);
        return (await job.status()) === undefined ? undefined : true;
      },
      { timeoutMs: names.length * (seconds + 30) * 1000, intervalMs: 2000, signal },
    );
  } catch (e) {
    step.fail();
    await job.kill('KILL');
    throw e;
  }
  const results = parseResults(await job.output(), seconds);
  step.done();
  return { results, troubles: newTroubles(before, await logs(lab, signal)) };
}

/**
 * Verdicts of further runs with our modules, by name, of programs whose verdicts differ. Troubles that come up are put to
 * those of `withUs`.
 */
async function runAgain(
  lab: Lab,
  without: Pass,
  withUs: Pass,
  spec: SelftestSpec,
): Promise<Map<string, Verdict[]>> {
  const again = new Map<string, Verdict[]>();
  const wanted = (name: string): Verdict | undefined => without.results.get(name)?.verdict;
  let names = [...withUs.results].filter(([name, r]) => r.verdict !== wanted(name)).map(([name]) => name);
  for (let i = 0; i < AGAIN && names.length > 0; i++) {
    const { results, troubles } = await pass(lab, names, 'with', spec);
    withUs.troubles.push(...troubles);
    for (const name of names)
      again.set(name, [...(again.get(name) ?? []), results.get(name)?.verdict ?? 'fail']);
    names = names.filter((name) => results.get(name)?.verdict !== wanted(name));
  }
  return again;
}

/** Whether our modules make a difference to it. */
const differs = (row: SelftestRow): boolean => ![row.with, ...(row.again ?? [])].includes(row.without);

/** One line for each: name, exit status, seconds. */
export function passScript(names: readonly string[], timeoutSeconds: number): string {
  return [
    `mkdir -p ${RESULTS}; cd ${RESULTS}`,
    'one() {',
    '  read -r a _ </proc/uptime',
    `  timeout -s KILL ${timeoutSeconds} ${IN_GUEST.images}/$1 >out 2>&1 </dev/null; s=$?`,
    '  read -r b _ </proc/uptime',
    '  echo "$1 $s $a $b"',
    '}',
    ...names.map((n) => `one ${n}`),
    '',
  ].join('\n');
}

/** Verdict by exit status. `timeout -s KILL` ends with the status of a killed command, so the time tells them apart. */
function verdictOf(status: number, timedOut: boolean): Verdict {
  if (timedOut) return 'timeout';
  if (status === 0) return 'ok';
  if (status === SKIP_STATUS) return 'skip';
  return status > 128 && status < 160 ? `crash ${status - 128}` : 'fail';
}

export function parseResults(output: string, timeoutSeconds: number): Pass['results'] {
  const results: Pass['results'] = new Map();
  for (const line of output.split('\n')) {
    const m = /^(\S+) (\d+) ([\d.]+) ([\d.]+)$/.exec(line);
    if (!m) continue;
    const seconds = Math.round((Number(m[4]) - Number(m[3])) * 10) / 10;
    const status = Number(m[2]);
    results.set(m[1]!, {
      verdict: verdictOf(status, status === 137 && seconds >= timeoutSeconds - 1),
      seconds,
    });
  }
  return results;
}

function logs(lab: Lab, signal: AbortSignal | undefined): Promise<string[]> {
  const read = (level: Level): Promise<string> => run(level, ['dmesg'], { timeoutMs: 60_000, signal });
  return Promise.all([read(lab.l0), read(lab.l1)]);
}

const withoutNumbers = (text: string): string =>
  (text.split('\n')[0] ?? '').replace(/^\[ *[\d.]+\] */, '').replace(/0x[0-9a-f]+|\d+/gi, 'N');

/** First lines of what is in logs now and was not before. */
export function newTroubles(before: readonly string[], now: readonly string[]): string[] {
  return now.flatMap((log, level) => {
    const old = kernelTroubles(before[level] ?? '').length;
    return kernelTroubles(log)
      .slice(old)
      .map((t) => `L${level}: ${withoutNumbers(t)}`);
  });
}

/** All that should not be, in words. */
export function selftestProblems(r: Omit<SelftestReport, 'problems'>): string[] {
  const problems = r.rows
    .filter(differs)
    .map(
      (row) =>
        `${row.name}: ${row.without} without our modules, ${row.with} with them${row.again ? `, ${row.again.length + 1} times` : ''}`,
    );
  const known = new Set(r.troubles.without);
  for (const t of new Set(r.troubles.with)) if (!known.has(t)) problems.push(`only with our modules: ${t}`);
  if (!r.rows.some((row) => row.without === 'ok'))
    problems.push('no selftest was passed without our modules');
  if (r.npfRuns === 0) problems.push('the npf hook never ran: nothing was compared');
  return problems;
}

/** Two verdicts a line, those that differ marked. */
export function selftestTable(r: SelftestReport): string {
  const width = Math.max(...r.rows.map((row) => row.name.length));
  const lines = r.rows.map((row) =>
    [
      row.name.padEnd(width),
      row.without.padEnd(8),
      row.with.padEnd(8),
      `${row.seconds.without.toFixed(1)} s`.padStart(8),
      `${row.seconds.with.toFixed(1)} s`.padStart(8),
      row.again ? `  again: ${row.again.join(', ')}` : '',
      differs(row) ? '  DIFFERS' : '',
    ].join(' '),
  );
  const count = (v: Verdict): number => r.rows.filter((row) => row.with === v).length;
  const kinds = [...new Set(r.rows.map((row) => row.with))].sort();
  return [
    `${'selftest'.padEnd(width)} without  with`,
    ...lines.map((l) => l.trimEnd()),
    `Linux ${r.kernel}: ${r.rows.length} selftests, with our modules ${kinds.map((k) => `${count(k)} ${k}`).join(', ')}; npf ran ${r.npfRuns} times`,
    '',
  ].join('\n');
}
