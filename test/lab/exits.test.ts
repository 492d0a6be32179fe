/**
 * The exit hook in real kernels: what exit-cache answers is what L1 answers, also after L1 changed it; links come and go
 * while L2s run; a killed daemon and an unloaded module leave nothing. One attachment after the other, in this order.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Acceleration, CLI } from '../../src/bench/accelerate.ts';
import type { AccelerateOptions } from '../../src/bench/accelerate.ts';
import { CACHE_OPTIONS, EXIT_CACHE, exitsGuest } from '../../src/bench/exit.ts';
import { KvmCounters, countersBetween } from '../../src/bench/kvm-counters.ts';
import { ARENA_MIB } from '../../src/cli/bench.ts';
import { CACHED_MSRS } from '../../src/guest/exit-counts.ts';
import { runScript } from '../../src/lab/levels.ts';
import { L1_RUN } from '../../src/lab/machine.ts';
import { compileBpf, findClang } from '../support/bpf.ts';
import { useLab } from '../support/lab.ts';

const CACHE: AccelerateOptions = {
  arenaMib: ARENA_MIB,
  hook: 'exit',
  program: EXIT_CACHE,
  options: CACHE_OPTIONS,
};
const HYPERCALL: AccelerateOptions = {
  ...CACHE,
  program: '/payload/bpf/hypercall.bpf.o',
  options: ['exits=hypercall'],
};

interface Stats {
  handled: number;
  reasons: Record<string, number>;
  exits: Record<string, { seen: number; handled: number; returned: number }>;
}

/** Of nobody: L1 answers both with a fault. */
const MSR = '04b56770';
const OTHER = '04b56771';

const ANSWERS = `
#include <hyperturtle/exit.h>
struct { __uint(type, 2); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); } written SEC(".maps");
SEC("raw_tp.w/hyperturtle_exit")
int answers(struct bpf_raw_tracepoint_args *args)
{
	struct ht_exit_ctx *ctx = (void *)args->args[0];
	__u32 zero = 0;
	__u64 *w = bpf_map_lookup_elem(&written, &zero);

	ctx->reason = HT_EXIT_R_NOT_OURS;
	if (!w || ctx->phase != HT_EXIT_BEFORE)
		return 0;
	switch (ctx->kind) {
	case HT_EXIT_IO:
		if (ctx->arg != 0x77 || ctx->bytes != 1)
			return 0;
		if (!ctx->write)
			ctx->regs[HT_RAX] = (ctx->regs[HT_RAX] & ~0xffull) | 0x5a;
		break;
	case HT_EXIT_WRMSR:
		*w = ctx->regs[HT_RDX] << 32 | (__u32)ctx->regs[HT_RAX];
		break;
	case HT_EXIT_RDMSR:
		ctx->regs[HT_RAX] = (__u32)*w;
		ctx->regs[HT_RDX] = *w >> 32;
		break;
	}
	ctx->action = HT_EXIT_HANDLED;
	return 0;
}
`;

const lab = useLab();
let a: Acceleration;
beforeAll(async () => {
  a = await Acceleration.on(lab(), CACHE);
});
afterAll(() => a?.off());

const l1 = (name: string, steps: string, ram: 'turtlefs' | 'anonymous' = 'turtlefs'): Promise<string[]> =>
  exitsGuest(lab().l1, { name, steps, ram });
const stats = async (): Promise<Stats> =>
  JSON.parse(
    await runScript(lab().l0, `${CLI} host stats --hook exit --qmp ${L1_RUN.qmpSocket} --json`),
  ) as Stats;

describe('exit-cache', () => {
  it('answers each leaf of CPUID and each listed MSR as L1 does, also when an answer changes', async () => {
    const msrs = CACHED_MSRS.map((m) => `rdmsr:${m.toString(16)}:2`).join(' ');
    // without its APIC a processor has no APIC bit in leaf 1
    const apic =
      'rdmsr:1b:2 cpuid:1:0:2 wrmsr:1b:fee00000:0 rdmsr:1b:2 cpuid:1:0:2 wrmsr:1b:fee00900:0 cpuid:1:0:2';
    const steps = `dump ${msrs} ${apic} osxsave:1 xcr0:3 xcr0:7 xcr0:1 osxsave:0 ${msrs}`;
    await a.setLinked(false);
    const expected = await l1('vanilla', steps);
    await a.setLinked(true);
    const before = await stats();
    const found = await l1('cached', steps);
    const words = (lines: readonly string[]): string[] => lines.filter((l) => !l.includes('ticks'));
    expect(words(found)).toEqual(words(expected));
    const leaves = words(found).filter((l) => l.startsWith('leaf'));
    const { exits } = await stats();
    // the guest asks each twice and tells the second answer: that came from the cache
    expect((exits['cpuid']?.handled ?? 0) - (before.exits['cpuid']?.handled ?? 0)).toBeGreaterThan(
      leaves.length * 0.9,
    );
    expect(exits['rdmsr']?.handled).toBeGreaterThan(CACHED_MSRS.length);
    const features = new Set(leaves.filter((l) => l.startsWith('leaf 00000001 00000000')));
    expect(features.size, 'leaf 1 has changed').toBeGreaterThan(1);
    expect(leaves.length).toBeGreaterThan(80);
  });

  it('keeps L1 out of loops of CPUID and RDMSR', async () => {
    const counters = await KvmCounters.start(lab().l0);
    try {
      const reflected = async (n: string): Promise<Record<string, number>> => {
        const before = await counters.read();
        await l1(`loops${n}`, `cpuid:1:0:${n} rdmsr:8b:${n}`);
        const { reflectedByCause, l2ExitsByCause } = countersBetween(before, await counters.read());
        expect(l2ExitsByCause['cpuid']).toBeGreaterThanOrEqual(parseInt(n, 16));
        return reflectedByCause;
      };
      // firmware and the first of each go to L1, and as many of ten as of two thousand
      const few = await reflected('a');
      const many = await reflected('7d0');
      expect(many['cpuid']).toBe(few['cpuid']);
      expect(many['msr']).toBe(few['msr']);
    } finally {
      await counters.stop();
    }
  });

  it('knows nothing of an L2 that nobody registered: L1 answers', async () => {
    const before = await stats();
    expect((await l1('stranger', 'cpuid:0:0:10', 'anonymous')).at(-1)).toMatch(/^leaf 00000000/);
    const after = await stats();
    expect(after.handled).toBe(before.handled);
    expect(after.reasons['NO_L2']).toBeGreaterThan(before.reasons['NO_L2'] ?? 0);
  });
});

describe('links of the exit hook', () => {
  it('come and go 10,000 times while an L2 exits all the time, which gets every answer', async () => {
    // the guest says "cpuid changed" when one answer was not the first one
    const running = l1('raced', 'cpuid:1:0:2000');
    await a.churnLinks(10_000);
    expect((await running)[0]).toMatch(/^cpuid n 00002000 /);
  });

  it('go with the process that made them, however it ends, and L2 runs on', async () => {
    const running = l1('orphan', 'cpuid:0:0:3000');
    expect((await lab().l0.exec(['rmmod', 'hyperturtle_host'])).status).not.toBe(0);
    await a.signalAttachment('KILL');
    expect((await running).at(-1)).toMatch(/^leaf 00000000/);
  });
});

describe('the example of docs/hooks.md', () => {
  it('is a service that an L2 calls without L1, and leaves other calls to L1', async () => {
    await a.attach(HYPERCALL);
    const add = 'call:48540001:0:3:2:64';
    const lines = await l1(
      'caller',
      `${add} call:48540001:1:3:0:1 call:48540001:0:10:1:1 call:48540001:2:0:0:1 call:99:0:0:0:1`,
    );
    // a hundred times two; the same read; no such counter; no such operation; KVM's own answer: ENOSYS
    expect(lines.map((l) => l.split(' ').slice(1, 3).join(' '))).toEqual([
      '00000000 000000c8',
      '00000000 000000c8',
      'ffffffff 00000000',
      'ffffffff 00000002',
      'fffffc18 00000000',
    ]);
    const { exits, reasons } = await stats();
    expect(exits['hypercall']).toMatchObject({ seen: 104, handled: 103, returned: 1 });
    expect(reasons).toEqual({ NOT_OURS: 1 });
  });
});

describe('a program', () => {
  it('answers port I/O, RDMSR and WRMSR of what nobody has, HLT and PAUSE; what it leaves alone L1 answers', async () => {
    await a.signalAttachment('TERM');
    const clang = findClang();
    expect(clang, 'the clang of the lab').toBeDefined();
    await lab().l0.writeFile('/run/answers.bpf.o', compileBpf(clang!, ANSWERS));
    await a.attach({
      ...{ ...CACHE, program: '/run/answers.bpf.o' },
      options: ['exits=io,rdmsr,wrmsr,hlt,pause', `msrs=0x${MSR}`],
    });
    // a port and an MSR of its own, and a port and an MSR that it leaves to L1: no device, and a fault
    const others = `in:78:1 rdmsr:${OTHER}:1`;
    const own = `in:77:5 wrmsr:${MSR}:5678:1234 rdmsr:${MSR}:2`;
    const words = (lines: readonly string[]): string[] => lines.map((l) => l.replace(/ n .*/, ''));
    // nobody wakes this guest: that it goes on is the answer to HLT
    expect(words(await l1('answered', `${own} hlt:3 pause:4 ${others}`))).toEqual([
      ...['in 0000005a', 'wrmsr ok', 'rdmsr', `msr ${MSR} 00001234 00005678`, 'hlt', 'pause'],
      ...['in 000000ff', 'rdmsr', `msr ${OTHER} gp`],
    ]);
    const { exits } = await stats();
    expect(exits['wrmsr']).toMatchObject({ seen: 1, handled: 1 });
    expect(exits['rdmsr']).toMatchObject({ seen: 2, handled: 2 });
    expect(exits['hlt']).toMatchObject({ handled: 3 });
    expect(exits['io']?.handled).toBe(5);
    expect(exits['io']?.returned).toBeGreaterThan(0);
    await a.setLinked(false);
    expect(words(await l1('unanswered', own))).toEqual(['in 000000ff', 'wrmsr gp', 'rdmsr', `msr ${MSR} gp`]);
  });
});

describe('the module', () => {
  it('is unloaded with nothing left, and loaded again', async () => {
    await a.off();
    const { l0 } = lab();
    await runScript(l0, 'insmod /payload/modules/hyperturtle_host.ko && rmmod hyperturtle_host');
    expect(await runScript(l0, 'lsmod')).not.toContain('hyperturtle');
  });
});
