/**
 * The other hooks on VMX: CPUID of a nested guest answered in L0 with what L1 answers, and where the guest spends its
 * time, sampled by L0.
 */
import { afterAll, expect, it } from 'vitest';
import { Acceleration, CLI, insmod, rmmod } from '../../src/testbed/acceleration.ts';
import { EXIT_CACHE } from '../../src/bench/exits/run.ts';
import { KvmCounters } from '../../src/testbed/kvm-counters.ts';
import { TinyVmm } from '../../src/testbed/tiny-vmm.ts';
import { CleanupStack } from '../../src/core/lifecycle.ts';
import { TURTLEFS_DIR } from '../../src/guest/vmm/arguments.ts';
import { run, runScript } from '../../src/lab/levels.ts';
import { L1_RUN } from '../../src/lab/machine.ts';
import { measuredStep, registered, STEP_MS } from '../support/intel.ts';
import type { MeasuredStep } from '../support/intel.ts';
import { useLab } from '../support/lab.ts';

const VANILLA = 500;
const CPUIDS = 2000;
const LINKS = 1000;
const RACED = 60_000;
const RAM = `${TURTLEFS_DIR}/tiny.ram`;
/** Of tiny_vmm: the guest's code. */
const CODE = [0x10000, 0x11000] as const;

const lab = useLab({ accel: 'bochs' });
const undo = new CleanupStack();
afterAll(() => undo.run());

async function measured(vmm: TinyVmm, counters: KvmCounters): Promise<MeasuredStep> {
  const m = await measuredStep(vmm, counters);
  process.stdout.write(`  ${m.result.step} ${m.result.count}: ${JSON.stringify(m)}\n`);
  return m;
}

it('a loop of CPUID gets the same answers without entering L1', async () => {
  const { l0, l1 } = lab();
  const acceleration = await Acceleration.on(lab(), {
    arenaMib: 8,
    hook: 'exit',
    program: EXIT_CACHE,
    options: ['exits=cpuid'],
  });
  undo.add('modules', () => acceleration.off());
  const counters = await KvmCounters.start(l0);
  undo.add('counters', () => counters.stop());
  const vmm = await TinyVmm.start(l1, {
    ram: RAM,
    pages: 512,
    steps: [`cpuid:${VANILLA}`, `cpuid:${CPUIDS}`, `cpuid:${RACED}`],
  });
  undo.add('file', () => runScript(l1, `rm -f ${RAM}`).then(() => {}));
  undo.add('VMM', () => vmm[Symbol.asyncDispose]());

  const vanilla = await measured(vmm, counters);
  expect(vanilla.counters.reflectedByCause['cpuid']).toBeGreaterThanOrEqual(VANILLA);
  await registered(l1, vmm, undo);
  const m = await measured(vmm, counters);
  expect(m.counters.l2ExitsByCause['cpuid']).toBeGreaterThanOrEqual(CPUIDS);
  expect(m.counters.reflectedByCause['cpuid'] ?? 0).toBeLessThanOrEqual(CPUIDS / 20);
  expect(m.result.registers).toEqual(vanilla.result.registers);
  expect(m.result.registers.some((r) => r !== 0)).toBe(true);
  expect(m.result.mismatches).toBe(0);

  // and while the program comes and goes
  const begin = performance.now();
  const handled = (await acceleration.hookCounts()).handled;
  await vmm.begin();
  await acceleration.churnLinks(LINKS);
  const linked = performance.now();
  const raced = await vmm.result(STEP_MS);
  process.stdout.write(
    `  ${LINKS} links in ${Math.round(linked - begin)} ms, the loop in ${Math.round(performance.now() - begin)} ms: ${JSON.stringify(raced)}\n`,
  );
  expect(raced.mismatches).toBe(0);
  expect(raced.registers).toEqual(vanilla.result.registers);
  expect((await acceleration.hookCounts()).handled).toBeGreaterThan(handled);
  await undo.run();
});

interface Profile {
  source: string;
  samples: number;
  hottest: { name: string; samples: number }[];
}

/** Of four seconds of a guest that works at this step all the time. */
async function profiled(step: string, output: readonly string[] = []): Promise<Profile> {
  const { l0, l1 } = lab();
  await insmod(l0, 'hyperturtle_host', undefined);
  undo.add('module', () => rmmod(l0, 'hyperturtle_host'));
  const vmm = await TinyVmm.start(l1, { ram: '-', pages: 64, steps: [step] });
  undo.add('VMM', () => vmm[Symbol.asyncDispose]());
  await vmm.begin();
  const command = [CLI, 'host', 'profile', '--qmp', L1_RUN.qmpSocket, '--json', '--rows', '1000'];
  const said = await run(l0, [...command, '--hz', '499', '--seconds', '4', ...output], {
    timeoutMs: STEP_MS,
  });
  process.stdout.write(`  ${said}`);
  await undo.run();
  return JSON.parse(said.trim().split('\n').at(-1)!) as Profile;
}

function expectInCode(name: string): number {
  const address = parseInt(/^\[kernel (0x[0-9a-f]+)\]/.exec(name)?.[1] ?? '', 16);
  expect(address, name).toBeGreaterThanOrEqual(CODE[0]);
  expect(address, name).toBeLessThan(CODE[1]);
  return address;
}

it('a sample has the state of the nested guest that it interrupted', async () => {
  const profile = await profiled('share:0:16:2:100000000');
  expect(profile.source).toBe('cpu-clock');
  expect(profile.samples).toBeGreaterThan(100);
  // this guest is a kernel, and its only code is a loop of 0x100 bytes
  for (const h of profile.hottest) expectInCode(h.name);
});

it('a sample has who called whom, by the frame pointers of the nested guest through both page tables', async () => {
  const file = '/run/calls.folded';
  const profile = await profiled('calls:100000000000', ['-o', file]);
  expect(profile.samples).toBeGreaterThan(100);
  const lines = (await runScript(lab().l0, `cat ${file}; rm ${file}`)).trim().split('\n');
  process.stdout.write(`  ${lines.join('\n  ')}\n`);
  const callers = new Map<string, number>();
  for (const line of lines) {
    const [stack, samples] = line.split(/ (?=\d+$)/) as [string, string];
    const frames = stack.split(';').map(expectInCode);
    // the loop is the innermost of three functions, called by code that ends in none
    const key = frames.length === 4 ? frames.slice(0, 3).join(' ') : 'other';
    callers.set(key, (callers.get(key) ?? 0) + Number(samples));
  }
  const [[key, most]] = [...callers].sort((a, b) => b[1] - a[1]) as [[string, number]];
  expect(most / profile.samples).toBeGreaterThan(0.95);
  const [outer, middle, inner] = key.split(' ').map(Number) as [number, number, number];
  expect(outer).toBeLessThan(middle);
  expect(middle).toBeLessThan(inner);
});
