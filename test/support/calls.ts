/**
 * What the hook call must show on every processor: L1 and its nested guests call a program in L0, in their kernels and,
 * where the link says so, in user space; what is not of the link goes where it went.
 */
import { expect } from 'vitest';
import type { Acceleration, AccelerateOptions } from '../../src/testbed/acceleration.ts';
import { KvmCounters, countersBetween } from '../../src/testbed/kvm-counters.ts';
import type { Lab } from '../../src/lab/lab.ts';
import { run, runScript } from '../../src/lab/levels.ts';
import { compileBpf, findClang } from './bpf.ts';
import { HookTests } from './hook-tests.ts';
import type { HookTestOptions } from './hook-tests.ts';

export const COUNTERS = '/payload/bpf/counters.bpf.o';
export const NUMBER = 0x48540010;
/** In the guest's steps. */
const CALL = 'call:48540010';
const OTHER = NUMBER + 1;
/** What KVM says to a number that it does not know, and to user space. */
export const ENOSYS = '0xfffffffffffffc18';
const EPERM = '0xffffffffffffffff';
const ENOSYS_32 = 'fffffc18';

export interface CallStats {
  linked: boolean;
  runs: number;
  handled: number;
  overruns: number;
  reasons: Record<string, number>;
  calls: { l1: number; l2: number; channel: number };
}

/** All that a program is given comes back in what it answers. */
const TELLS = `
#include <hyperturtle/call.h>
SEC("raw_tp.w/hyperturtle_call")
int tells(struct bpf_raw_tracepoint_args *args)
{
	struct ht_call_ctx *ctx = (void *)args->args[0];

	switch (ctx->words[0]) {
	case 1:
		ctx->results[0] = ctx->words[1] ^ ctx->words[2] << 8 ^ ctx->words[3] << 16 ^ ctx->words[4] << 24 ^
				  ctx->words[5] << 32;
		break;
	case 2:
		ctx->results[0] = ctx->from | ctx->cpl << 8 | (__u64)ctx->bits << 16;
		ctx->results[1] = ctx->vcpu;
		ctx->results[2] = ctx->root;
		ctx->results[3] = ctx->number;
		break;
	case 3:
		ctx->results[1] = -1;
		ctx->results[3] = 0x123456789abcdef0;
		break;
	case 4:
		ctx->reason = HT_CALL_R_NOT_OURS;
		return 0;
	case 5:
		ctx->action = 7;
		return 0;
	}
	ctx->action = HT_CALL_HANDLED;
	return 0;
}
`;

export const callOptions = (
  arenaMib: number,
  options: readonly string[],
  program = COUNTERS,
): AccelerateOptions => ({
  arenaMib,
  hook: 'call',
  program,
  options: [`numbers=0x${NUMBER.toString(16)}`, ...options],
});

export class CallTests extends HookTests<CallStats> {
  constructor(lab: Lab, acceleration: Acceleration, options: HookTestOptions) {
    super('call', lab, acceleration, options);
  }

  /** An L1 calls, and gets four words. */
  async call(
    where: 'kernel' | 'user',
    words: readonly (number | string)[],
    o: { number?: number; repeat?: number } = {},
  ): Promise<string[]> {
    const { number = NUMBER, repeat = 1 } = o;
    const command = [
      '/payload/l2/programs/calls',
      where,
      String(number),
      String(repeat),
      ...words.map(String),
    ];
    return (JSON.parse(await run(this.lab.l1, command, { timeoutMs: 300_000 })) as { results: string[] })
      .results;
  }

  async attach(options: readonly string[], program?: string): Promise<void> {
    await this.acceleration.signalAttachment('TERM');
    await this.acceleration.attach(callOptions(this.arenaMib, options, program));
  }

  /** L1 and its nested guest share counters; L1 is entered for none of L2's calls. With COUNTERS, from both. */
  async servesBoth(): Promise<void> {
    expect(await this.call('kernel', [0, 3, 2], { repeat: 1000 })).toEqual(['0x0', '0x7d0', '0x3', '0x2']);
    const counters = await KvmCounters.start(this.lab.l0);
    let byCause: { exits: number; toL1: number };
    let lines: string[];
    try {
      const before = await counters.read();
      lines = await this.guest(
        'caller',
        `${CALL}:0:3:2:64 ${CALL}:1:3:0:3e8 ${CALL}:0:10:1:1 ${CALL}:2:3:0:1 call:99:0:0:0:1`,
      );
      const { l2ExitsByCause, reflectedByCause } = countersBetween(before, await counters.read());
      byCause = { exits: l2ExitsByCause['vmmcall'] ?? 0, toL1: reflectedByCause['vmmcall'] ?? 0 };
    } finally {
      await counters.stop();
    }
    // a hundred times two; the same read; no such counter; L2 may not set; KVM's own answer
    expect(lines.map((l) => l.split(' ').slice(1, 3).join(' '))).toEqual([
      '00000000 00000898',
      '00000000 00000898',
      'ffffffff 00000000',
      'ffffffff 00000002',
      `${ENOSYS_32} 00000000`,
    ]);
    expect(byCause).toEqual({ exits: 100 + 1000 + 3, toL1: 1 });
    expect(await this.call('kernel', [2, 3, 7])).toEqual(['0x0', '0x898', '0x3', '0x7']);
    expect(await this.call('kernel', [1, 3])).toEqual(['0x0', '0x7', '0x3', '0x0']);
    expect(await this.call('kernel', [1, 3], { number: OTHER })).toEqual([ENOSYS, '0x1', '0x3', '0x0']);
    // ring 0 only
    expect(await this.call('user', [1, 3])).toEqual([EPERM, '0x1', '0x3', '0x0']);
    const { calls, reasons, handled } = await this.stats();
    expect(calls).toEqual({ l1: 1002, l2: 1102, channel: 0 });
    expect({ handled, reasons }).toEqual({ handled: 2104, reasons: { USER: 1 } });
  }

  /** What a program is told and what it may answer, also in user space. */
  async tellsAll(): Promise<void> {
    const clang = findClang();
    expect(clang, 'the clang of the lab').toBeDefined();
    await this.lab.l0.writeFile('/run/tells.bpf.o', compileBpf(clang!, TELLS));
    await this.attach(['from=both', 'user'], '/run/tells.bpf.o');
    const both = ['kernel', 'user'] as const;
    for (const where of both) {
      expect(await this.call(where, [1, 1, 2, 3, 4, 5])).toEqual(['0x504030201', '0x1', '0x1', '0x2']);
      const [who, vcpu, root, number] = await this.call(where, [2]);
      expect([who, root, number]).toEqual([
        where === 'user' ? '0x400301' : '0x400001',
        '0x0',
        `0x${NUMBER.toString(16)}`,
      ]);
      expect(Number(vcpu)).toBeLessThan(this.lab.environment().l1.cpus);
      const all = '0xffffffffffffffff';
      expect(await this.call(where, [3, all, all])).toEqual(['0x0', all, all, '0x123456789abcdef0']);
    }
    // to its own KVM, which knows the number as little
    expect(await this.call('kernel', [4])).toEqual([ENOSYS, '0x4', '0x0', '0x0']);
    expect(await this.call('kernel', [5])).toEqual([ENOSYS, '0x5', '0x0', '0x0']);
    const lines = await this.guest('told', `${CALL}:2:0:0:1 ${CALL}:3:0:0:1 ${CALL}:4:0:0:1`);
    const [told = [], upper = [], passed = []] = lines.map((l) => l.split(' ').slice(1, 5));
    expect(told[0]).toBe('00200002');
    expect(parseInt(told[2] ?? '', 16) & 0xfff).toBe(0);
    expect(parseInt(told[2] ?? '', 16)).toBeGreaterThan(0);
    expect(upper).toEqual(['00000000', 'ffffffff', '00000000', '9abcdef0']);
    expect(passed[0]).toBe(ENOSYS_32);
    expect((await this.stats()).reasons).toEqual({ NOT_OURS: 2, BAD_ANSWER: 1 });
  }

  /** A link for one of them leaves the other's calls alone. */
  async asksForOne(): Promise<void> {
    await this.attach(['from=l2']);
    expect(await this.call('kernel', [0, 0, 1])).toEqual([ENOSYS, '0x0', '0x0', '0x1']);
    expect((await this.guest('only-l2', `${CALL}:0:0:1:5`))[0]).toMatch(/^call 00000000 00000005 /);
    await this.attach(['from=l1']);
    expect(await this.call('kernel', [0, 0, 1])).toEqual(['0x0', '0x1', '0x0', '0x1']);
    expect((await this.guest('only-l1', `${CALL}:0:0:1:5`))[0]).toMatch(
      new RegExp(`^call ${ENOSYS_32} 00000000 `),
    );
    expect((await this.stats()).calls).toEqual({ l1: 1, l2: 0, channel: 0 });
  }

  /** No call is lost, and none is made twice, while the program comes and goes. With COUNTERS, from both. */
  async racesLinks(links: number): Promise<void> {
    await this.attach(['from=both']);
    const stop = '/run/calls-stop';
    await runScript(this.lab.l1, `rm -f ${stop}`);
    const loop = `while [ ! -e ${stop} ]; do /payload/l2/programs/calls kernel ${NUMBER} 2000 0 5 1 >/dev/null || exit 1; done`;
    const calling = await this.lab.l1.spawn(['sh', '-c', loop]);
    const guest = this.guest('raced', `${CALL}:0:5:1:6000`);
    await this.acceleration.churnLinks(links);
    await runScript(this.lab.l1, `touch ${stop}`);
    expect(await calling.wait({ timeoutMs: 300_000 })).toBe(0);
    expect((await guest)[0]).toMatch(/^call (00000000|fffffc18) /);
    const { calls, reasons, overruns } = await this.stats();
    expect(calls.l1).toBeGreaterThan(0);
    expect(calls.l2).toBeGreaterThan(0);
    expect({ reasons, overruns }).toEqual({ reasons: {}, overruns: 0 });
    const [ok, sum] = await this.call('kernel', [1, 5]);
    expect([ok, Number(sum)]).toEqual(['0x0', calls.l1 + calls.l2]);
  }
}
