/**
 * The hook call in real kernels: L1 and its nested guests call a program in L0, by hand and over the channel; links come
 * and go while they do; a killed daemon and an unloaded module leave nothing. One attachment after the other, in this order.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Acceleration, rmmod } from '../../src/testbed/acceleration.ts';
import { ManagedAcceleration } from '../../src/testbed/managed.ts';
import { ARENA_MIB } from '../../src/cli/bench/command.ts';
import { exitsGuest } from '../../src/bench/exits/run.ts';
import { runScript } from '../../src/lab/levels.ts';
import { callOptions, CallTests, COUNTERS, ENOSYS, NUMBER } from '../support/calls.ts';
import { useLab } from '../support/lab.ts';
import { soak } from '../support/scale.ts';

const LINKS = soak(2000, 10_000);
const HEX = `0x${NUMBER.toString(16)}`;

const lab = useLab();
let a: Acceleration;
let tests: CallTests;
beforeAll(async () => {
  a = await Acceleration.on(lab(), callOptions(ARENA_MIB, ['from=both']));
  tests = new CallTests(lab(), a, { arenaMib: ARENA_MIB });
});
afterAll(() => a?.off());

describe('a program that is linked to call', () => {
  it('serves L1 and its nested guests, who share what it keeps, and enters L1 for none of their calls', () =>
    tests.servesBoth());

  it('is told who calls and all six words, and what it answers is all that is taken', () => tests.tellsAll());

  it('is not run for calls that its link does not ask for', () => tests.asksForOne());

  it(`comes and goes ${LINKS} times while both call all the time: no call is lost or made twice`, () =>
    tests.racesLinks(LINKS));

  it('goes with the process that linked it, however that ends, and callers go on', async () => {
    const running = tests.guest('orphan', 'call:48540010:0:1:1:3000');
    expect((await lab().l0.exec(['rmmod', 'hyperturtle_host'])).status).not.toBe(0);
    await a.signalAttachment('KILL');
    expect((await running)[0]).toMatch(/^call (00000000|fffffc18) /);
    expect((await tests.call('kernel', [1, 1]))[0]).toBe(ENOSYS);
  });
});

describe('the module', () => {
  it('is unloaded with nothing left while L1 calls on, and loaded again', async () => {
    const { l0, l1 } = lab();
    // the arena that the killed one has left in L1 goes with the next one
    await tests.attach(['from=both']);
    await a.signalAttachment('TERM');
    const calling = await l1.spawn(['/payload/l2/programs/calls', 'user', HEX, '200000']);
    const reload = 'insmod /payload/modules/hyperturtle_host.ko';
    await rmmod(l0, 'hyperturtle_host');
    await runScript(l0, `${reload} && rmmod hyperturtle_host && ${reload}`);
    expect(await calling.wait({ timeoutMs: 300_000 })).toBe(0);
    expect(await calling.output()).toContain('"0xffffffffffffffff"');
    await a.attach(callOptions(ARENA_MIB, ['from=both']));
    expect(await tests.call('kernel', [0, 0, 3])).toEqual(['0x0', '0x3', '0x0', '0x3']);
    await a.off();
    expect(await runScript(l0, 'lsmod')).not.toMatch(/hyperturtle_(host|guest)/);
  });
});

describe('with a daemon and an agent', () => {
  it('L1 calls over the channel and directly, beside the hooks exit and npf', async () => {
    await using m = await ManagedAcceleration.on(lab(), { arenaMib: ARENA_MIB });
    const json = async (...args: string[]): Promise<{ results: string[] }> =>
      JSON.parse((await m.guest.command([...args, '--json'])).trim().split('\n').at(-1)!) as {
        results: string[];
      };
    const options = ['--option', `numbers=${HEX}`, '--option', 'from=both'];
    await m.guest.command(['load', COUNTERS, '--link', ...options]);
    await m.guest.command(['load', '/payload/bpf/hypercall.bpf.o', '--link', '--option', 'exits=hypercall']);
    expect((await json('call', 'counters', '--words', '0,3,2')).results).toEqual([
      '0x0',
      '0x2',
      '0x0',
      '0x0',
    ]);
    const direct = ['call', 'counters', '--direct', '--repeat', '10', '--words', '0,3,1'];
    expect((await json(...direct)).results).toEqual(['0x0', '0xc', '0x3', '0x1']);
    const guest = {
      name: 'both',
      steps: 'call:48540010:0:3:1:4 call:48540001:0:3:5:1',
      ram: 'turtlefs',
    } as const;
    // the agent registers it
    const lines = await exitsGuest(lab().l1, { ...guest, registeredBy: 'agent' });
    expect(lines[0]).toMatch(/^call 00000000 00000010 /);
    expect(lines[1]).toMatch(/^call 00000000 00000005 /);
    expect((await json('call', 'counters', '--words', '2,3')).results).toEqual(['0x0', '0x10', '0x0', '0x0']);
    await expect(json('call', 'counters', '--number', '0x48540099')).rejects.toThrow(
      /has the numbers 0x48540010/,
    );
    await expect(json('call', 'npf')).rejects.toThrow(/no program of 'npf' is linked to hook call/);
    await m.guest.command(['unload', 'counters', '--force']);
    await expect(json('call', '--direct', '--number', HEX)).rejects.toThrow(/nobody answers/);
    await m.guest.command(['unload', 'hypercall', '--force']);
  });
});
