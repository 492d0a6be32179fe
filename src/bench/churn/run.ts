/** Hundreds of L2s created, run and destroyed, several at once; nothing may be left anywhere. */
import { HyperturtleError } from '../../core/errors.ts';
import type { Progress } from '../../core/progress.ts';
import { sleep } from '../../core/wait.ts';
import type { ChurnResult } from '../../testbed/l2-churn.ts';
import type { Lab } from '../../lab/lab.ts';
import type { Job } from '../../lab/levels.ts';
import { Acceleration } from '../../testbed/acceleration.ts';
import { l0Descriptors, troubles } from '../../testbed/leftovers.ts';

export interface ChurnSpec {
  cycles: number;
  parallel: number;
  memMib: number;
  arenaMib: number;
  progress: Progress;
  signal?: AbortSignal | undefined;
}

export interface ChurnReport extends ChurnResult {
  /** Faults of all these L2s that L0 answered without L1. */
  handledInL0: number;
  /** Descriptors that L0's processes have more than before. */
  leftInL0: { qemu: number; attach: number };
  kernelTroubles: string[];
  durationSeconds: number;
  /** Empty: nothing is wrong. */
  problems: string[];
}

/** A cycle under emulation, four at a time on one CPU, with a wide margin. */
const CYCLE_TIMEOUT_MS = 60_000;
/** Each poll costs the emulated machine time. */
const POLL_MS = 3_000;

export async function runChurn(lab: Lab, spec: ChurnSpec): Promise<ChurnReport> {
  const { progress, signal } = spec;
  const t0 = performance.now();
  const acceleration = await Acceleration.on(lab, { arenaMib: spec.arenaMib, signal });
  try {
    const before = await l0Descriptors(lab, signal);
    const job = await lab.l1.spawn(
      [
        ...['/payload/bin/hyperturtle', 'guest', 'l2', 'churn', '--cycles', String(spec.cycles)],
        ...['--parallel', String(spec.parallel), '--mem-mib', String(spec.memMib)],
      ],
      { signal },
    );
    const step = progress.step(`${spec.cycles} cycles, ${spec.parallel} at a time`);
    let result: ChurnResult;
    try {
      result = await follow(job, spec, (done) => step.update(`${done} of ${spec.cycles}`));
    } catch (e) {
      step.fail();
      await job.kill('TERM');
      await job.wait({ timeoutMs: 60_000 });
      throw e;
    }
    step.done();
    const after = await l0Descriptors(lab, signal);
    const report = {
      ...result,
      handledInL0: (await acceleration.hookCounts(signal)).handled,
      leftInL0: { qemu: after.qemu - before.qemu, attach: after.attach - before.attach },
      kernelTroubles: await troubles(lab, signal),
      durationSeconds: Math.round((performance.now() - t0) / 1000),
    };
    return { ...report, problems: problemsOf(report) };
  } finally {
    await acceleration.off();
  }
}

/** Everything that should be zero and isn't, in words. Pure. */
export function problemsOf(r: Omit<ChurnReport, 'problems'>): string[] {
  const problems: string[] = [];
  for (const [what, n] of Object.entries(r.left)) if (n !== 0) problems.push(`left in L1: ${n} ${what}`);
  for (const [what, n] of Object.entries(r.leftInL0))
    if (n > 0) problems.push(`left in L0: ${n} descriptors of ${what}`);
  if (r.passed + r.killed !== r.cycles)
    problems.push(`${r.passed} passed and ${r.killed} were killed, of ${r.cycles} cycles`);
  if (r.handledInL0 === 0) problems.push('L0 answered no fault: nothing was accelerated');
  if (r.kernelTroubles.length > 0) problems.push(`${r.kernelTroubles.length} complaints in kernel logs`);
  return problems;
}

async function follow(job: Job, spec: ChurnSpec, onProgress: (done: number) => void): Promise<ChurnResult> {
  const end = performance.now() + spec.cycles * CYCLE_TIMEOUT_MS;
  for (;;) {
    await sleep(POLL_MS, spec.signal);
    const ended = await job.status();
    const lines = (await job.output()).trim().split('\n');
    const last = lines.at(-1) ?? '';
    if (ended === 0) return JSON.parse(last) as ChurnResult;
    if (ended !== undefined)
      throw new HyperturtleError('HT_COMMAND_FAILED', `churn in L1: status ${ended}: ${last.slice(0, 800)}`);
    const done = /"done":(\d+)/.exec(last);
    if (done) onProgress(Number(done[1]));
    if (performance.now() > end)
      throw new HyperturtleError(
        'HT_TIMEOUT',
        `churn: not over after ${spec.cycles * (CYCLE_TIMEOUT_MS / 1000)} s`,
      );
  }
}
