/**
 * What KVM in L0 itself counts about L1's VM: its statistics in debugfs, and histograms of its own nested
 * exit tracepoints by cause (CONFIG_HIST_TRIGGERS, set in Debian's kernels). Nothing here comes from our module.
 */
import { HyperturtleError } from '../core/errors.ts';
import { run, runScript } from '../lab/levels.ts';
import type { Level } from '../lab/levels.ts';
import { L1_RUN } from '../lab/machine.ts';
import type { Counters } from './counters-schema.ts';
import { subtractCounts } from '../core/counts.ts';
import { addOwn } from '../core/own.ts';

const TRACING = '/sys/kernel/tracing/events/kvm';
const EXITS = `${TRACING}/kvm_nested_vmexit`;
const REFLECTED = `${TRACING}/kvm_nested_vmexit_inject`;

/** AMD's exit codes as the tracepoints give them (APM volume 2, appendix C). */
const SVM_CAUSES: Readonly<Record<number, string>> = {
  0x40: 'exception',
  0x60: 'interrupt',
  0x61: 'nmi',
  0x62: 'smi',
  0x64: 'interrupt-window',
  0x72: 'cpuid',
  0x77: 'pause',
  0x78: 'hlt',
  0x79: 'invlpg',
  0x7b: 'io',
  0x7c: 'msr',
  0x80: 'vmrun',
  0x81: 'vmmcall',
  0x87: 'rdtscp',
  0x89: 'wbinvd',
  0x8a: 'monitor',
  0x8b: 'mwait',
  0x8d: 'xsetbv',
  0x400: 'npf',
};

/** Intel's basic exit reasons (SDM volume 3, appendix C). */
const VMX_CAUSES: Readonly<Record<number, string>> = {
  0: 'exception',
  1: 'interrupt',
  7: 'interrupt-window',
  10: 'cpuid',
  12: 'hlt',
  14: 'invlpg',
  18: 'vmmcall',
  24: 'vmrun',
  28: 'control-register',
  30: 'io',
  31: 'msr',
  32: 'msr',
  40: 'pause',
  48: 'npf',
  49: 'npf',
  52: 'timer',
  54: 'wbinvd',
  55: 'xsetbv',
};

/** Same words for both vendors, so that anyone who reads them need not know which it was. */
export function causeName(exitCode: number, vendor: 'amd' | 'intel'): string {
  const known = (vendor === 'amd' ? SVM_CAUSES : VMX_CAUSES)[exitCode];
  if (known !== undefined) return known;
  // reads and writes of control registers, reads and writes of debug registers, exceptions by vector
  if (vendor === 'amd' && exitCode < 0x20) return 'control-register';
  if (vendor === 'amd' && exitCode < 0x40) return 'debug-register';
  if (vendor === 'amd' && exitCode < 0x60) return 'exception';
  return `exit-0x${exitCode.toString(16)}`;
}

/** Counts by key of one `hist` file: lines like `{ exit_reason:       1024 } hitcount:         12`. */
export function parseHistogram(text: string): Map<number, number> {
  const counts = new Map<number, number>();
  for (const m of text.matchAll(/^\{ \w+: +(\d+) +\} hitcount: +(\d+)/gm))
    counts.set(Number(m[1]), Number(m[2]));
  return counts;
}

function byCause(text: string, vendor: 'amd' | 'intel'): Record<string, number> {
  const out: Record<string, number> = {};
  for (const [code, n] of parseHistogram(text)) {
    const name = causeName(code, vendor);
    addOwn(out, name, n);
  }
  return out;
}

export class KvmCounters {
  readonly #l0: Level;
  readonly #script: string;
  readonly #vendor: 'amd' | 'intel';

  private constructor(l0: Level, statistics: string, vendor: 'amd' | 'intel') {
    this.#l0 = l0;
    this.#vendor = vendor;
    this.#script = `cat ${statistics}/exits ${statistics}/nested_run; echo ---; cat ${EXITS}/hist; echo ---; cat ${REFLECTED}/hist`;
  }

  /** Starts the histograms. stop() ends them. Throws HT_UNSUPPORTED when this kernel cannot count by cause. */
  static async start(l0: Level, signal?: AbortSignal): Promise<KvmCounters> {
    const pid = (await run(l0, ['cat', L1_RUN.pidFile], { signal })).trim();
    const found = await runScript(
      l0,
      `set -e
cd /sys/kernel/debug/kvm && echo "$PWD/$(ls -d ${pid}-* | head -n 1)"
[ -d /sys/module/kvm_amd ] && echo amd || echo intel
for e in ${EXITS} ${REFLECTED}; do
	key=$(grep -o 'exit_code\\|exit_reason' $e/format | head -n 1)
	echo "hist:keys=$key:size=256" > $e/trigger
done`,
      { signal },
    ).catch((e: unknown) => {
      throw new HyperturtleError(
        'HT_UNSUPPORTED',
        "L0's kernel does not count nested exits (debugfs, CONFIG_HIST_TRIGGERS needed)",
        { cause: e },
      );
    });
    const [statistics, vendor] = found.trim().split('\n');
    if (statistics === undefined || (vendor !== 'amd' && vendor !== 'intel'))
      throw new HyperturtleError('HT_UNSUPPORTED', `KVM's statistics of L1 not found in L0: ${found}`);
    return new KvmCounters(l0, statistics, vendor);
  }

  async read(signal?: AbortSignal): Promise<Counters> {
    const text = await runScript(this.#l0, this.#script, { signal });
    return parseCounters(text, this.#vendor);
  }

  async stop(): Promise<void> {
    await runScript(
      this.#l0,
      `for e in ${EXITS} ${REFLECTED}; do t=$(grep -v '^#' $e/trigger | head -n 1); echo "!\${t%% \\[*}" > $e/trigger; done`,
    );
  }
}

/** Three parts with `---` between: statistics, nested exits, nested exits passed to L1. */
export function parseCounters(text: string, vendor: 'amd' | 'intel'): Counters {
  const [statistics = '', exits = '', reflected = ''] = text.split('---\n');
  const [all, runs] = statistics.trim().split('\n').map(Number);
  if (!Number.isInteger(all) || !Number.isInteger(runs))
    throw new HyperturtleError('HT_KERNEL', `KVM's statistics in L0: two numbers expected: ${statistics}`);
  return {
    exits: all!,
    nestedRuns: runs!,
    l2ExitsByCause: byCause(exits, vendor),
    reflectedByCause: byCause(reflected, vendor),
  };
}

/** What happened in between. */
export function countersBetween(before: Counters, after: Counters): Counters {
  const n = subtractCounts(
    { exits: after.exits, nestedRuns: after.nestedRuns },
    { exits: before.exits, nestedRuns: before.nestedRuns },
  );
  return {
    exits: n['exits'] ?? 0,
    nestedRuns: n['nestedRuns'] ?? 0,
    l2ExitsByCause: subtractCounts(after.l2ExitsByCause, before.l2ExitsByCause),
    reflectedByCause: subtractCounts(after.reflectedByCause, before.reflectedByCause),
  };
}
