/** The exit hook on VMX: CPUID of a nested guest answered in L0 with what L1 answers. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Acceleration, CLI, jobSays } from '../../src/bench/accelerate.ts';
import { EXIT_CACHE } from '../../src/bench/exit.ts';
import { KvmCounters, countersBetween } from '../../src/bench/kvm-counters.ts';
import type { Counters } from '../../src/bench/schema.ts';
import { TinyVmm } from '../../src/bench/tiny-vmm.ts';
import type { TinyVmmResult } from '../../src/bench/tiny-vmm.ts';
import { CleanupStack } from '../../src/core/lifecycle.ts';
import { TURTLEFS_DIR } from '../../src/guest/l2-spec.ts';
import { runScript } from '../../src/lab/levels.ts';
import { useLab } from '../support/lab.ts';

const VANILLA = 500;
const CPUIDS = 2000;
const RAM = `${TURTLEFS_DIR}/tiny.ram`;
const STEP_MS = 400_000;

const lab = useLab({ accel: 'bochs' });
const undo = new CleanupStack();
let counters: KvmCounters;
let vmm: TinyVmm;

beforeAll(async () => {
  const { l0, l1 } = lab();
  const acceleration = await Acceleration.on(lab(), {
    ...{ arenaMib: 8, hook: 'exit', program: EXIT_CACHE, options: ['exits=cpuid'] },
  });
  undo.add('modules', () => acceleration.off());
  counters = await KvmCounters.start(l0);
  undo.add('counters', () => counters.stop());
  vmm = await TinyVmm.start(l1, {
    ...{ ram: RAM, pages: 512, steps: [`cpuid:${VANILLA}`, `cpuid:${CPUIDS}`] },
  });
  undo.add('VMM', () => vmm[Symbol.asyncDispose]());
  undo.add('file', () => runScript(l1, `rm -f ${RAM}`).then(() => {}));
});
afterAll(() => undo.run());

async function measured(): Promise<{ result: TinyVmmResult; counters: Counters }> {
  const before = await counters.read();
  const result = await vmm.step(STEP_MS);
  const m = { result, counters: countersBetween(before, await counters.read()) };
  process.stdout.write(`  ${result.step} ${result.count}: ${JSON.stringify(m)}\n`);
  return m;
}

it('a loop of CPUID gets the same answers without entering L1', async () => {
  const vanilla = await measured();
  expect(vanilla.counters.reflectedByCause['cpuid']).toBeGreaterThanOrEqual(VANILLA);
  const register = await lab().l1.spawn([CLI, 'guest', 'register', '--pid', String(vmm.pid)]);
  undo.add('registration', async () => {
    await register.kill('TERM');
    await register.wait({ timeoutMs: 300_000 });
  });
  await jobSays(register, /registered/, 'hyperturtle guest register', 400_000, undefined);
  const m = await measured();
  expect(m.counters.l2ExitsByCause['cpuid']).toBeGreaterThanOrEqual(CPUIDS);
  expect(m.counters.reflectedByCause['cpuid'] ?? 0).toBeLessThanOrEqual(CPUIDS / 20);
  expect(m.result.registers).toEqual(vanilla.result.registers);
});
