/**
 * What exits of L2 that L1 was entered for were about, by L1's own KVM: histograms of its tracepoints by MSR, port, leaf and
 * address (CONFIG_HIST_TRIGGERS), in a tracing instance of their own. Nothing here comes from our module. They cost L1
 * something in each exit, so times beside them are not to be compared with times without.
 */
import { HyperturtleError, isHyperturtleError } from '../core/errors.ts';
import { subtractCounts } from '../core/counts.ts';
import { addOwn, own } from '../core/own.ts';
import { runScript } from '../lab/levels.ts';
import type { Level } from '../lab/levels.ts';
import { causeName, parseHistogram } from './kvm-counters.ts';

const INSTANCE = '/sys/kernel/tracing/instances/hyperturtle-exits';
/** Keys of each tracepoint; one that this kernel or vendor does not have is left out. */
const KEYS = {
  kvm_exit: 'exit_reason',
  kvm_msr: 'write,ecx',
  kvm_pio: 'rw,port',
  kvm_cpuid: 'function',
  kvm_mmio: 'type,len,gpa',
  kvm_fast_mmio: 'gpa',
} as const;
type Tracepoint = keyof typeof KEYS;
const TRACEPOINTS = Object.keys(KEYS) as Tracepoint[];
/** Causes that other tracepoints tell more about. */
const TOLD: ReadonlySet<string> = new Set(['msr', 'io', 'cpuid']);
/** Types of kvm_mmio that count one access each: what was read, when it is there; what was written. */
const MMIO: ReadonlyMap<number, string> = new Map([
  [1, 'read'],
  [2, 'write'],
]);
const DEVICE = 'mmio ';
const NESTED_FAULT = 'npf';

const hex = (n: bigint): string => `0x${n.toString(16)}`;

/** Lines like `{ write:          1, ecx:       2059 } hitcount:        412`: values in the order of the keys, and how often. */
export function parseKeys(text: string): { values: bigint[]; n: number }[] {
  return [...text.matchAll(/^\{ (.*?) \} hitcount: +(\d+)/gm)].map(([, keys = '', n]) => ({
    values: keys.split(',').map((k) => BigInt(k.slice(k.indexOf(':') + 1).trim())),
    n: Number(n),
  }));
}

/** A histogram of each tracepoint, as counts by what was exited for; `npf` has accesses to devices in it. */
export function countsByWhat(
  parts: Partial<Record<Tracepoint, string>>,
  vendor: 'amd' | 'intel',
): Record<string, number> {
  const found: Record<string, number> = {};
  const add = (tracepoint: Tracepoint, name: (v: bigint[]) => string | undefined): void => {
    for (const { values, n } of parseKeys(parts[tracepoint] ?? '')) {
      const what = name(values);
      if (what !== undefined) addOwn(found, what, n);
    }
  };
  add('kvm_msr', ([write, msr]) => `${write === 0n ? 'rdmsr' : 'wrmsr'} ${hex(msr!)}`);
  add('kvm_pio', ([rw, port]) => `${rw === 0n ? 'in' : 'out'} ${hex(port!)}`);
  add('kvm_cpuid', ([leaf]) => `cpuid ${hex(leaf!)}`);
  add('kvm_mmio', ([type, len, gpa]) => {
    const way = MMIO.get(Number(type));
    return way === undefined ? undefined : `${DEVICE}${way} of ${len} at ${hex(gpa!)}`;
  });
  add('kvm_fast_mmio', ([gpa]) => `${DEVICE}write of 2 at ${hex(gpa!)}`);
  for (const [code, n] of parseHistogram(parts.kvm_exit ?? '')) {
    const cause = causeName(code, vendor);
    if (!TOLD.has(cause)) addOwn(found, cause, n);
  }
  return found;
}

/** What happened in between, page faults without accesses to devices, which are page faults as well. */
export function exitsBetween(
  before: Readonly<Record<string, number>>,
  after: Readonly<Record<string, number>>,
): Record<string, number> {
  const found = subtractCounts(after, before);
  const devices = Object.entries(found).reduce(
    (sum, [what, n]) => sum + (what.startsWith(DEVICE) ? n : 0),
    0,
  );
  const faults = (own(found, NESTED_FAULT) ?? 0) - devices;
  const others = Object.entries(found).filter(([what]) => what !== NESTED_FAULT);
  return Object.fromEntries(faults > 0 ? [...others, [NESTED_FAULT, faults]] : others);
}

export class L1Exits {
  readonly #l1: Level;
  readonly #vendor: 'amd' | 'intel';

  private constructor(l1: Level, vendor: 'amd' | 'intel') {
    this.#l1 = l1;
    this.#vendor = vendor;
  }

  /** L1's KVM must be loaded. stop() takes all of it away. Throws HT_UNSUPPORTED where its kernel cannot count by key. */
  static async start(l1: Level, signal?: AbortSignal): Promise<L1Exits> {
    const triggers = TRACEPOINTS.map(
      (e) => `[ -d events/kvm/${e} ] && echo 'hist:keys=${KEYS[e]}:size=1024' > events/kvm/${e}/trigger`,
    );
    const script = `mkdir -p ${INSTANCE} && cd ${INSTANCE} || exit 1
${triggers.join('\n')}
grep -q '^hist:' events/kvm/kvm_exit/trigger || exit 1
[ -d /sys/module/kvm_amd ] && echo amd || echo intel`;
    try {
      const vendor = (await runScript(l1, script, { signal })).trim() === 'amd' ? 'amd' : 'intel';
      return new L1Exits(l1, vendor);
    } catch (e) {
      await runScript(l1, `rmdir ${INSTANCE}`).catch(() => {}); // the first failure is the one to tell
      if (!isHyperturtleError(e, 'HT_COMMAND_FAILED')) throw e;
      throw new HyperturtleError(
        'HT_UNSUPPORTED',
        "L1's kernel does not count its guests' exits (tracefs with instances and CONFIG_HIST_TRIGGERS expected)",
        { cause: e },
      );
    }
  }

  /** Since start(). */
  async read(signal?: AbortSignal): Promise<Record<string, number>> {
    const files = TRACEPOINTS.map((e) => `echo '--- ${e}'; grep '^{' events/kvm/${e}/hist 2>/dev/null`);
    const text = await runScript(this.#l1, `cd ${INSTANCE}\n${files.join('\n')}\n:`, { signal });
    const parts = Object.fromEntries(
      text.split('--- ').map((part) => [part.slice(0, part.indexOf('\n')), part]),
    );
    return countsByWhat(parts, this.#vendor);
  }

  async stop(): Promise<void> {
    await runScript(this.#l1, `rmdir ${INSTANCE}`);
  }
}
