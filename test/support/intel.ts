/** What the tests on an emulated Intel processor share. */
import { CLI, jobSays } from '../../src/testbed/acceleration.ts';
import { countersBetween } from '../../src/testbed/kvm-counters.ts';
import type { KvmCounters } from '../../src/testbed/kvm-counters.ts';
import type { Counters } from '../../src/testbed/counters-schema.ts';
import type { TinyVmm, TinyVmmResult } from '../../src/testbed/tiny-vmm.ts';
import type { CleanupStack } from '../../src/core/lifecycle.ts';
import type { Job, Level } from '../../src/lab/levels.ts';

export const STEP_MS = 400_000;

export interface MeasuredStep {
  result: TinyVmmResult;
  counters: Counters;
}

/** The next step of the guest, and what KVM in L0 counted in it. */
export async function measuredStep(vmm: TinyVmm, counters: KvmCounters): Promise<MeasuredStep> {
  const before = await counters.read();
  const result = await vmm.step(STEP_MS);
  return { result, counters: countersBetween(before, await counters.read()) };
}

/** As src/bench/first-touch/summary.ts counts: a fault that L1 handled comes back once more, for L0 to copy the entry. */
export function faultsOf(m: MeasuredStep): { inL0: number; switchesPerPage: number } {
  const exits = m.counters.l2ExitsByCause['npf'] ?? 0;
  const reflected = m.counters.reflectedByCause['npf'] ?? 0;
  return {
    inL0: 1 - reflected / (exits - reflected),
    switchesPerPage: (2 * (exits + reflected)) / m.result.count,
  };
}

/** `hyperturtle guest register` in L1, which stays until it is ended. */
export async function registered(l1: Level, vmm: TinyVmm, undo: CleanupStack): Promise<Job> {
  const job = await l1.spawn([CLI, 'guest', 'register', '--pid', String(vmm.pid)]);
  undo.add('registration', () => endJob(job));
  await jobSays(job, /registered/, 'hyperturtle guest register', STEP_MS, undefined);
  return job;
}

export async function endJob(job: Job): Promise<void> {
  await job.kill('TERM');
  await job.wait({ timeoutMs: 300_000 });
}
