/**
 * What exits cost in instructions on VMX and EPT, by level: the counts that `hyperturtle bench model` multiplies with what
 * hardware takes for them. A guest without an operating system: not nested, as L2 on tmpfs, and as L2 on turtlefs.
 */
import { beforeAll, expect, it } from 'vitest';
import { RECORDED } from '../../src/bench/model/counts.ts';
import type { CountId } from '../../src/bench/model/counts.ts';
import { Acceleration, setFillUs, setGroupMax } from '../../src/testbed/acceleration.ts';
import { FaultTrace } from '../../src/testbed/fault-trace.ts';
import type { Traced } from '../../src/testbed/fault-trace.ts';
import type { FaultCost } from '../../src/testbed/fault-cost-schema.ts';
import { TinyVmm } from '../../src/testbed/tiny-vmm.ts';
import { CleanupStack } from '../../src/core/lifecycle.ts';
import { TURTLEFS_DIR } from '../../src/guest/vmm/arguments.ts';
import { runScript } from '../../src/lab/levels.ts';
import type { Level } from '../../src/lab/levels.ts';
import { STEP_MS, registered } from '../support/intel.ts';
import { useLab } from '../support/lab.ts';

const PAGES = 256;
const CPUIDS = 200;
const CPUID: Traced = { exits: new Set(['CPUID']) };
/** Bochs' TSC counts instructions. */
const TICKS = 1;
const TMPFS = '/dev/shm/tiny.ram';
const STEPS = [`touch:0:${PAGES}`, `touch:${PAGES}:${PAGES}`, 'cpuid:10', `cpuid:${CPUIDS}`];

const lab = useLab({ accel: 'bochs' });
let trace: FaultTrace;
beforeAll(async () => {
  trace = await FaultTrace.open(lab().l0, undefined, TICKS);
});

async function costs(vmm: TinyVmm, what: string, traced: Traced = {}): Promise<FaultCost[]> {
  await trace.begin();
  const { mismatches } = await vmm.step(STEP_MS);
  const found = await trace.end(traced);
  expect(mismatches).toBe(0);
  process.stdout.write(`  ${what}: ${JSON.stringify(found)}\n`);
  return found;
}

async function guest(level: Level, ram: string, steps: string[], undo: CleanupStack): Promise<TinyVmm> {
  const vmm = await TinyVmm.start(level, { ram, pages: 8 * PAGES, steps });
  undo.add('file', () => runScript(level, `rm -f ${ram}`).then(() => {}));
  undo.add('VMM', () => vmm[Symbol.asyncDispose]());
  return vmm;
}

/** The recorded count is this one, to within a twentieth. */
function expectRecorded(id: CountId, found: readonly FaultCost[]): void {
  const recorded = RECORDED.intel.counts[id];
  const instructions = found.reduce((n, c) => n + c.l0Instructions + c.l1Instructions, 0);
  const exits = found.reduce((n, c) => n + c.switches / 2, 0);
  expect(exits, id).toBe(recorded.exits);
  expect(Math.abs(instructions / recorded.instructions - 1), id).toBeLessThan(0.05);
}

it('exits of a guest that is not nested cost what is recorded', async () => {
  await using undo = new CleanupStack();
  const direct = await guest(lab().l0, TMPFS, STEPS, undo);
  await costs(direct, 'not nested, warming', { notNested: true });
  expectRecorded('direct', await costs(direct, 'not nested, touch', { notNested: true }));
  await costs(direct, 'not nested, warming', { ...CPUID, notNested: true });
  const [plain] = await costs(direct, 'not nested, CPUID', { ...CPUID, notNested: true });
  const { exitInstructions } = RECORDED.intel.basis;
  expect(Math.abs((plain?.l0Instructions ?? 0) / exitInstructions - 1)).toBeLessThan(0.05);
});

it('so do those of a nested one that L1 answers', async () => {
  await using undo = new CleanupStack();
  const vanilla = await guest(lab().l1, TMPFS, STEPS, undo);
  await costs(vanilla, 'vanilla, warming');
  expectRecorded('vanilla', await costs(vanilla, 'vanilla, touch'));
  await costs(vanilla, 'vanilla, warming', CPUID);
  expectRecorded('nested-cpuid', await costs(vanilla, 'vanilla, CPUID', CPUID));
});

it('and those that L0 answers, one page each; a group costs less a page', async () => {
  const { l0, l1 } = lab();
  await using undo = new CleanupStack();
  const acceleration = await Acceleration.on(lab(), { arenaMib: 8 });
  undo.add('modules', () => acceleration.off());
  await setFillUs(l0, 100_000); // as in npf.test.ts
  await setGroupMax(l1, 1);
  const steps = [...STEPS.slice(0, 2), `touch:${2 * PAGES}:${4 * PAGES}`];
  const vmm = await guest(l1, `${TURTLEFS_DIR}/tiny.ram`, steps, undo);
  await registered(l1, vmm, undo);
  await costs(vmm, 'one page, warming');
  const one = await costs(vmm, 'one page, touch');
  expectRecorded(
    'one-page',
    one.filter((c) => c.by === 'L0'),
  );
  await setGroupMax(l1, 64);
  const all = await costs(vmm, 'groups, touch');
  const aPage = all.reduce((n, c) => n + c.instructions, 0) / (4 * PAGES);
  expect(aPage).toBeLessThan(one[0]!.l0Instructions / 2);
});
