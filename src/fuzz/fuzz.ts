/**
 * `hyperturtle fuzz`: a hostile L1 does what it can to L0, in turns with quiet ones, while another L1 of the same L0
 * checks its pages and times its faults. What counts is L0: its kernel log stays clean, it answers, and the other L1
 * notices nothing. The hostile L1 may break, and is started again.
 */
import { ManagedHost } from '../testbed/managed.ts';
import type { ManagedVmSpec } from '../testbed/managed.ts';
import { isHyperturtleError, messageOf } from '../core/errors.ts';
import type { HyperturtleError } from '../core/errors.ts';
import { CleanupStack } from '../core/lifecycle.ts';
import type { Progress } from '../core/progress.ts';
import { sleep } from '../core/wait.ts';
import type { Lab } from '../lab/lab.ts';
import { runScript } from '../lab/levels.ts';
import { FIRST_SEAT, SECOND_SEAT } from '../lab/machine.ts';
import type { LabClock } from '../lab/machine.ts';
import { Attacker } from './attacker.ts';
import { fuzzProblems, judgeLog, newLines, sumOperations } from './report.ts';
import type { FuzzReport, HookTotals } from './report.ts';
import { Watched, faultTimes } from './watched.ts';
import type { Slice } from './watched.ts';
import { addOwn } from '../core/own.ts';

export interface FuzzSpec {
  /** Minutes of turns: neither setting up nor starting a broken L1 again counts. */
  minutes: number;
  seed: number;
  kernel: string;
  /** The lab's; for the report. */
  clock: LabClock;
  /** Operations at each entry of the hostile L1's nested guest. */
  batch: number;
  /** Not an attack, but programs as slow as admission lets them be. */
  slow: boolean;
  /** The run goes on until there are so many; fewer are a problem. */
  atLeast: number;
  /** Quiet time in one turn. */
  quietSeconds: number;
  attackSeconds: number;
  progress: Progress;
  signal?: AbortSignal | undefined;
}

const VMS: ManagedVmSpec[] = [
  { name: 'watched', seat: FIRST_SEAT, arenaMib: 8 },
  { name: 'hostile', seat: SECOND_SEAT, arenaMib: 1 },
];
const LINES = 60;
const LOOK_SECONDS = 5;
/** A run ends after so many times the minutes that it was asked for, whatever it has reached. */
const PATIENCE = 10;

/** The lab must have memory for a second L1. It is left as it was found. */
export async function runFuzz(lab: Lab, spec: FuzzSpec): Promise<FuzzReport> {
  const undo = new CleanupStack();
  try {
    const { progress, signal } = spec;
    const step = progress.step('two L1s, one of them hostile');
    const host = new ManagedHost(lab.l0);
    await host.setUp(undo, VMS, signal);
    const watched = await Watched.start(lab.l1, undo, signal);
    const attacker = new Attacker(lab, spec.seed, spec.batch, spec.slow);
    undo.add('hostile L1', () => attacker.end());
    await attacker.start(signal);
    step.done();
    return await new Fuzz(lab, spec, host, watched, attacker).run();
  } finally {
    await undo.run();
  }
}

type Phase = 'quiet' | 'attack';

class Fuzz {
  readonly #lab: Lab;
  readonly #spec: FuzzSpec;
  readonly #host: ManagedHost;
  readonly #watched: Watched;
  readonly #attacker: Attacker;
  readonly #slices: Record<Phase, Slice[]> = { quiet: [], attack: [] };
  readonly #handled: Record<Phase, number> = { quiet: 0, attack: 0 };
  readonly #hooks: Record<'npf' | 'exit', HookTotals> = {
    npf: { runs: 0, handled: 0, hostileRuns: 0, longestHostileUs: 0 },
    exit: { runs: 0, handled: 0, hostileRuns: 0, longestHostileUs: 0 },
  };
  readonly #reasons: Record<string, number> = {};
  #hostileMetrics = new Map<string, number>();
  #log = '';
  readonly #reports: string[] = [];
  readonly #complaints: Record<string, number> = {};
  /** Time of all turns so far. */
  #turnedMs = 0;

  constructor(lab: Lab, spec: FuzzSpec, host: ManagedHost, watched: Watched, attacker: Attacker) {
    this.#lab = lab;
    this.#spec = spec;
    this.#host = host;
    this.#watched = watched;
    this.#attacker = attacker;
  }

  async run(): Promise<FuzzReport> {
    const { progress, quietSeconds, attackSeconds } = this.#spec;
    const t0 = performance.now();
    const step = progress.step(`fuzzing, seed ${this.#spec.seed}`);
    this.#log = await this.#dmesg();
    try {
      do {
        await this.#turn('quiet', quietSeconds);
        await this.#turn('attack', attackSeconds);
        const n = sumOperations(this.#attacker.counts, this.#hooks);
        step.update(
          `${n} operations in ${Math.round(this.#turnedMs / 1000)} s, ${this.#attacker.restarts.length} restarts`,
        );
      } while (this.#reports.length === 0 && this.#goesOn(performance.now() - t0));
      step.done();
    } catch (e) {
      // L0 that does not answer is what is looked for
      step.fail();
      if (!isHyperturtleError(e) || isHyperturtleError(e, 'HT_INTERRUPTED')) throw e;
      const tail = await this.#lab.serialTail(0, 60);
      const { reports } = judgeLog(tail);
      this.#reports.push(...(reports.length > 0 ? reports : [`the run ended: ${messageOf(e)}`]));
    }
    return this.#report(Math.round((performance.now() - t0) / 1000));
  }

  #goesOn(elapsedMs: number): boolean {
    const { minutes, atLeast } = this.#spec;
    if (elapsedMs > PATIENCE * minutes * 60_000) return false;
    return this.#turnedMs < minutes * 60_000 || sumOperations(this.#attacker.counts, this.#hooks) < atLeast;
  }

  /** One turn; the hostile L1 is started again when it broke in it, which is nobody's time. */
  async #turn(phase: Phase, seconds: number): Promise<void> {
    const { signal } = this.#spec;
    const attacker = this.#attacker;
    let broke = await this.#guarded(async () => {
      if (phase === 'attack') await attacker.attack(signal);
      else await attacker.beQuiet(signal);
    });
    await this.#watched.slice(signal); // what was between the turns is nobody's
    const handled = await this.#watchedHandled();
    await this.#count(false);
    const end = performance.now() + seconds * 1000;
    while (performance.now() < end && broke === undefined) {
      const from = performance.now();
      broke = await this.#guarded(async () => {
        if (phase === 'attack') await attacker.write(LINES, signal);
        await sleep(Math.min(LOOK_SECONDS * 1000, Math.max(0, end - performance.now())), signal);
        await attacker.look(signal);
      });
      this.#turnedMs += performance.now() - from;
      await this.#readLog();
      if (this.#reports.length > 0) return;
    }
    await this.#count(phase === 'attack');
    const slice = await this.#watched.slice(signal);
    this.#handled[phase] += (await this.#watchedHandled()) - handled;
    this.#slices[phase].push(slice);
    if (phase === 'attack' && broke === undefined) broke = await this.#guarded(() => attacker.settle(signal));
    if (broke !== undefined) await this.#revive(broke);
  }

  /** Why the hostile L1 broke, if it did. L0's trouble is another matter, and read here. */
  async #guarded(what: () => Promise<void>): Promise<HyperturtleError | undefined> {
    try {
      await what();
      return undefined;
    } catch (e) {
      if (!isHyperturtleError(e) || isHyperturtleError(e, 'HT_INTERRUPTED')) throw e;
      await this.#readLog();
      return e;
    }
  }

  async #revive(broke: HyperturtleError): Promise<void> {
    if (this.#reports.length > 0) return;
    this.#spec.progress.note(`  the hostile L1 broke: ${messageOf(broke).slice(0, 160)}`);
    await this.#attacker.restart(broke, this.#spec.signal);
  }

  #dmesg(): Promise<string> {
    return runScript(this.#lab.l0, 'dmesg', { timeoutMs: 60_000, signal: this.#spec.signal });
  }

  async #readLog(): Promise<void> {
    const now = await this.#dmesg();
    const { reports, complaints } = judgeLog(newLines(this.#log, now));
    this.#log = now;
    this.#reports.push(...reports);
    for (const [k, n] of Object.entries(complaints)) addOwn(this.#complaints, k, n);
  }

  async #watchedHandled(): Promise<number> {
    return (await this.#host.metrics('watched', this.#spec.signal)).get('hook_handled npf') ?? 0;
  }

  /** Adds what the hooks of the hostile L1 did since the last time. */
  async #count(attack: boolean): Promise<void> {
    const now = await this.#host.metrics('hostile', this.#spec.signal);
    const since = (key: string): number => {
      const [a, b] = [this.#hostileMetrics.get(key) ?? 0, now.get(key) ?? 0];
      return b >= a ? b - a : b; // attached again
    };
    for (const hook of ['npf', 'exit'] as const) {
      const runs = since(`hook_runs ${hook}`);
      this.#hooks[hook].runs += runs;
      this.#hooks[hook].handled += since(`hook_handled ${hook}`);
      if (!attack || !this.#attacker.isHostile(hook)) continue;
      const h = this.#hooks[hook];
      h.hostileRuns += runs;
      const longestUs = Math.round((now.get(`hook_longest_run_seconds ${hook}`) ?? 0) * 1e7) / 10;
      h.longestHostileUs = Math.max(h.longestHostileUs, longestUs);
    }
    for (const key of now.keys())
      if (key.startsWith('hook_reasons ')) {
        const name = key.slice('hook_reasons '.length);
        addOwn(this.#reasons, name, since(key));
      }
    this.#hostileMetrics = now;
  }

  #report(seconds: number): FuzzReport {
    const { seed, kernel, clock, batch, slow, atLeast } = this.#spec;
    const all = [...this.#slices.quiet, ...this.#slices.attack];
    const [quiet, attack] = [faultTimes(this.#slices.quiet), faultTimes(this.#slices.attack)];
    const share = (phase: Phase): number => {
      const faults = this.#slices[phase].reduce((n, s) => n + s.faults, 0);
      return faults === 0 ? 0 : Math.round((this.#handled[phase] / faults) * 1000) / 1000;
    };
    const report = {
      seed,
      kernel,
      clock,
      batch,
      slow,
      seconds,
      attack: this.#attacker.counts,
      hooks: this.#hooks,
      operations: sumOperations(this.#attacker.counts, this.#hooks),
      reasons: Object.fromEntries(Object.entries(this.#reasons).filter(([, n]) => n > 0)),
      restarts: this.#attacker.restarts,
      watched: {
        checked: all.reduce((n, s) => n + s.checked, 0),
        mismatches: all.reduce((n, s) => n + s.mismatches, 0),
        quiet,
        attack,
        p99Ratio: quiet.p99Us > 0 ? Math.round((attack.p99Us / quiet.p99Us) * 100) / 100 : 0,
        handledShare: { quiet: share('quiet'), attack: share('attack') },
      },
      reports: this.#reports,
      complaints: this.#complaints,
    };
    return { ...report, problems: fuzzProblems(report, atLeast) };
  }
}
