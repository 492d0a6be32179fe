/**
 * What the exit hook must show on every processor: a cache answers as L1 does, the documented example serves an L2, and
 * a program answers each kind of exit that it may.
 */
import { expect } from 'vitest';
import type { Acceleration, AccelerateOptions } from '../../src/testbed/acceleration.ts';
import { CACHE_OPTIONS, EXIT_CACHE } from '../../src/bench/exits/run.ts';
import { CACHED_MSRS } from '../../src/guest/exit-counts.ts';
import type { Lab } from '../../src/lab/lab.ts';
import { compileBpf, findClang } from './bpf.ts';
import { HookTests } from './hook-tests.ts';
import type { HookTestOptions } from './hook-tests.ts';

export interface Stats {
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

export const cacheOptions = (arenaMib: number): AccelerateOptions => ({
  arenaMib,
  hook: 'exit',
  program: EXIT_CACHE,
  options: CACHE_OPTIONS,
});

export class ExitTests extends HookTests<Stats> {
  constructor(lab: Lab, acceleration: Acceleration, options: HookTestOptions) {
    super('exit', lab, acceleration, options);
  }

  /** Each leaf of CPUID and each listed MSR, also when an answer changes: with exit-cache attached. */
  async answersAsL1(): Promise<void> {
    const msrs = CACHED_MSRS.map((m) => `rdmsr:${m.toString(16)}:2`).join(' ');
    // without its APIC a processor has no APIC bit in leaf 1
    const apic =
      'rdmsr:1b:2 cpuid:1:0:2 wrmsr:1b:fee00000:0 rdmsr:1b:2 cpuid:1:0:2 wrmsr:1b:fee00900:0 cpuid:1:0:2';
    const steps = `dump ${msrs} ${apic} osxsave:1 xcr0:3 xcr0:7 xcr0:1 osxsave:0 ${msrs}`;
    await this.acceleration.setLinked(false);
    const expected = await this.guest('vanilla', steps);
    await this.acceleration.setLinked(true);
    const before = await this.stats();
    const found = await this.guest('cached', steps);
    const words = (lines: readonly string[]): string[] => lines.filter((l) => !l.includes('ticks'));
    expect(words(found)).toEqual(words(expected));
    const leaves = words(found).filter((l) => l.startsWith('leaf'));
    const { exits } = await this.stats();
    // the guest asks each twice and tells the second answer: that came from the cache
    expect((exits['cpuid']?.handled ?? 0) - (before.exits['cpuid']?.handled ?? 0)).toBeGreaterThan(
      leaves.length * 0.9,
    );
    expect(exits['rdmsr']?.handled).toBeGreaterThan(CACHED_MSRS.length);
    const features = new Set(leaves.filter((l) => l.startsWith('leaf 00000001 00000000')));
    expect(features.size, 'leaf 1 has changed').toBeGreaterThan(1);
    expect(leaves.length).toBeGreaterThan(80);
  }

  /** The example of docs/hooks.md: a service that an L2 calls without L1; other calls are L1's. */
  async servesCalls(): Promise<void> {
    await this.acceleration.attach({
      ...cacheOptions(this.arenaMib),
      program: '/payload/bpf/hypercall.bpf.o',
      options: ['exits=hypercall'],
    });
    const add = 'call:48540001:0:3:2:64';
    const lines = await this.guest(
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
    const { exits, reasons } = await this.stats();
    expect(exits['hypercall']).toMatchObject({ seen: 104, handled: 103, returned: 1 });
    expect(reasons).toEqual({ NOT_OURS: 1 });
  }

  /** Port I/O, RDMSR and WRMSR of what nobody has, HLT and PAUSE; what the program leaves alone L1 answers. */
  async answersEachKind(): Promise<void> {
    const clang = findClang();
    expect(clang, 'the clang of the lab').toBeDefined();
    await this.lab.l0.writeFile('/run/answers.bpf.o', compileBpf(clang!, ANSWERS));
    await this.acceleration.attach({
      ...cacheOptions(this.arenaMib),
      program: '/run/answers.bpf.o',
      options: ['exits=io,rdmsr,wrmsr,hlt,pause', `msrs=0x${MSR}`],
    });
    // a port and an MSR of its own, and a port and an MSR that it leaves to L1: no device, and a fault
    const others = `in:78:1 rdmsr:${OTHER}:1`;
    const own = `in:77:5 wrmsr:${MSR}:5678:1234 rdmsr:${MSR}:2`;
    const words = (lines: readonly string[]): string[] => lines.map((l) => l.replace(/ n .*/, ''));
    // nobody wakes this guest: that it goes on is the answer to HLT
    expect(words(await this.guest('answered', `${own} hlt:3 pause:4 ${others}`))).toEqual([
      ...['in 0000005a', 'wrmsr ok', 'rdmsr', `msr ${MSR} 00001234 00005678`, 'hlt', 'pause'],
      ...['in 000000ff', 'rdmsr', `msr ${OTHER} gp`],
    ]);
    const { exits } = await this.stats();
    expect(exits['wrmsr']).toMatchObject({ seen: 1, handled: 1 });
    expect(exits['rdmsr']).toMatchObject({ seen: 2, handled: 2 });
    // QEMU from 9 on ends some time after the guest has said so, and until then this one halts again and again
    expect(exits['hlt']?.handled).toBeGreaterThanOrEqual(3);
    expect(exits['hlt']?.handled).toBe(exits['hlt']?.seen);
    expect(exits['io']?.handled).toBe(5);
    expect(exits['io']?.returned).toBeGreaterThan(0);
    await this.acceleration.setLinked(false);
    expect(words(await this.guest('unanswered', own))).toEqual([
      ...['in 000000ff', 'wrmsr gp', 'rdmsr', `msr ${MSR} gp`],
    ]);
  }
}
