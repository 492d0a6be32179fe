/**
 * A live patch of functions that are hooked, as a fix of nested virtualization is one: it comes first or second, goes again,
 * and all the while exits are answered and those that are not pass through the patch.
 */
import { expect, it } from 'vitest';
import { Acceleration, insmod, rmmod } from '../../src/testbed/acceleration.ts';
import { ARENA_MIB } from '../../src/cli/bench/command.ts';
import { waitFor } from '../../src/core/wait.ts';
import { runScript } from '../../src/lab/levels.ts';
import { cacheOptions, ExitTests } from '../support/exits.ts';
import { useLab } from '../support/lab.ts';

const lab = useLab();
const PATCH = 'hyperturtle_livepatch';
const SYSFS = `/sys/kernel/livepatch/${PATCH}`;

/** Every task has left the functions, or come back into the patch. */
const settled = (state: string): Promise<true> =>
  waitFor(
    `the patch ${state}`,
    async () => {
      const says = `cat ${SYSFS}/transition ${SYSFS}/enabled 2> /dev/null | xargs; true`;
      return (await runScript(lab().l0, says)).trim() === state ? true : undefined;
    },
    { timeoutMs: 120_000 },
  );

async function patch(): Promise<void> {
  await insmod(lab().l0, PATCH, undefined);
  await settled('0 1');
}

async function unpatch(): Promise<void> {
  await runScript(lab().l0, `echo 0 > ${SYSFS}/enabled`);
  await settled(''); // it is gone
  await rmmod(lab().l0, PATCH);
}

const calls = async (): Promise<number[]> =>
  (await runScript(lab().l0, `cd /sys/module/${PATCH}/parameters && cat vmexit_calls vmrun_calls`))
    .trim()
    .split('\n')
    .map(Number);

const accelerated = async (): Promise<[Acceleration, ExitTests]> => {
  const a = await Acceleration.on(lab(), cacheOptions(ARENA_MIB));
  return [a, new ExitTests(lab(), a, { arenaMib: ARENA_MIB })];
};

/** A guest has its exits answered, while others pass through the patch. */
async function bothAreThere(tests: ExitTests, name: string): Promise<void> {
  const before = { calls: await calls(), handled: (await tests.stats()).handled };
  expect((await tests.guest(name, 'cpuid:1:0:200'))[0]).toMatch(/^cpuid n 00000200 /);
  expect((await tests.stats()).handled - before.handled).toBeGreaterThanOrEqual(0x200 - 8);
  const after = await calls();
  for (const [i, n] of before.calls.entries()) expect(after[i]).toBeGreaterThan(n);
}

it('a patch that was there first does not keep the module out, and goes under it', async () => {
  await patch();
  const [a, tests] = await accelerated();
  try {
    await bothAreThere(tests, 'first');
    await unpatch();
    expect((await tests.guest('gone', 'cpuid:1:0:200'))[0]).toMatch(/^cpuid n 00000200 /);
  } finally {
    await a.off();
  }
});

it('a patch that comes second is let in beside running hooks, and stays when they go', async () => {
  const [a, tests] = await accelerated();
  try {
    const running = tests.guest('running', 'cpuid:1:0:4000');
    await patch();
    expect((await running)[0]).toMatch(/^cpuid n 00004000 /);
    await bothAreThere(tests, 'second');
  } finally {
    await a.off();
  }
  await unpatch();
});
