/**
 * What one fault costs in instructions, by level: from KVM's own tracepoints in an L0 whose time is counted in instructions
 * (`--clock instructions`, where the TSC counts nanoseconds, two for each instruction; Bochs, where it counts
 * instructions). Nothing here comes from our module. What the tracepoints themselves take, some hundred instructions for
 * each entry and exit, is in L0's figure.
 */
import { gunzipSync } from 'node:zlib';
import { HyperturtleError, isHyperturtleError } from '../core/errors.ts';
import { median } from '../core/median.ts';
import { runScript } from '../lab/levels.ts';
import type { Level } from '../lab/levels.ts';
import { NS_PER_INSTRUCTION } from '../lab/machine.ts';
import type { FaultCost } from './fault-cost-schema.ts';

const INSTANCE = '/sys/kernel/tracing/instances/hyperturtle';
/** For L0's one CPU. */
const BUFFER_KIB = 32_768;
const EVENTS = ['kvm_entry', 'kvm_exit', 'kvm_nested_vmexit', 'kvm_nested_vmexit_inject'];
/** For `sed -nE`: time, name and reason of each event, as all of it would be too much for the channel. */
export const SHORTEN = [
  's/^.* ([0-9]+): (kvm_[a-z_]+): .*reason:? ([A-Za-z_0-9]+).*$/\\1 \\2 \\3/p',
  't',
  's/^.* ([0-9]+): (kvm_[a-z_]+): .*$/\\1 \\2 /p',
]
  .map((command) => `-e '${command}'`)
  .join(' ');
const READ_MS = 300_000;
/** As AMD's and Intel's have it. */
const FAULTS: ReadonlySet<string> = new Set(['npf', 'EPT_VIOLATION']);
const HALTS = new Set(['hlt', 'HLT']);
const EVENT = /^(\d+) (kvm_\w+) (\w*)$/;

interface Event {
  /** Ticks of L0's TSC. */
  at: number;
  name: string;
  fault: boolean;
  /** A guest waits: what follows is no work. */
  halt: boolean;
}

/** Lines as SHORTEN leaves them. `what`: exits that are looked for. Throws HT_COMMAND_FAILED when time goes back in them. */
export function parseTrace(text: string, what: ReadonlySet<string> = FAULTS): Event[] {
  let last = 0;
  return text.split('\n').flatMap((line) => {
    const [, time, name, reason = ''] = EVENT.exec(line) ?? [];
    if (time === undefined) return [];
    const at = Number(time);
    if (at < last || !Number.isSafeInteger(at))
      throw new HyperturtleError(
        'HT_COMMAND_FAILED',
        `a trace in order of time expected, ${time} after ${last}`,
      );
    last = at;
    return [{ at, name: name!, fault: what.has(reason), halt: HALTS.has(reason) }];
  });
}

/** From an exit of L2 by a fault until L2 runs again; instructions. */
export interface TracedFault {
  /** L1 was given it. */
  by: FaultCost['by'];
  l0: number;
  l1: number;
  /** How often a guest was entered or left: two for a fault that L0 answers. */
  switches: number;
}

/** Every fault that begins and ends in the trace of one vCPU, and in which nothing else was done or waited for. */
export function tracedFaults(
  events: readonly Event[],
  ticksPerInstruction = NS_PER_INSTRUCTION,
): TracedFault[] {
  const faults: TracedFault[] = [];
  let open: TracedFault | undefined;
  let left: number | undefined;
  let entered: number | undefined;
  for (const [i, e] of events.entries()) {
    if (e.name === 'kvm_entry') {
      if (open !== undefined && left !== undefined) {
        open.l0 += (e.at - left) / ticksPerInstruction;
        open.switches++;
      }
      entered = e.at;
      left = undefined;
    } else if (e.name === 'kvm_exit') {
      left = e.at;
      const ofL2 = events[i + 1]?.name === 'kvm_nested_vmexit';
      if (ofL2) {
        // L1 had something else to do meanwhile
        if (open !== undefined && (open.by === 'L1' || open.l1 === 0)) faults.push(open);
        open = events[i + 1]!.fault ? { by: 'L0', l0: 0, l1: 0, switches: 1 } : undefined;
      } else if (open !== undefined && entered !== undefined) {
        open.l1 += (e.at - entered) / ticksPerInstruction;
        open.switches++;
        if (e.halt) open = undefined;
      }
    } else if (e.name === 'kvm_nested_vmexit_inject' && e.fault && open !== undefined) {
      open.by = 'L1';
    }
  }
  return faults;
}

/** The same of a guest that is not nested: from its exit until it runs again. */
export function ownFaults(events: readonly Event[], ticksPerInstruction = NS_PER_INSTRUCTION): TracedFault[] {
  return events.flatMap((e, i) => {
    const next = events[i + 1];
    if (e.name !== 'kvm_exit' || !e.fault || next?.name !== 'kvm_entry') return [];
    return [{ by: 'L0' as const, l0: (next.at - e.at) / ticksPerInstruction, l1: 0, switches: 2 }];
  });
}

/** By who answered. */
export function faultCosts(faults: readonly TracedFault[]): FaultCost[] {
  return (['L0', 'L1'] as const).flatMap((by) => {
    const these = faults.filter((f) => f.by === by);
    if (these.length === 0) return [];
    return [
      {
        by,
        faults: these.length,
        instructions: these.reduce((n, f) => n + f.l0 + f.l1, 0),
        switches: median(these.map((f) => f.switches)),
        l0Instructions: median(these.map((f) => f.l0)),
        l1Instructions: median(these.map((f) => f.l1)),
      },
    ];
  });
}

/** What is looked for in a trace. */
export interface Traced {
  /** Exits, as the tracepoints name them; default: page faults. */
  exits?: ReadonlySet<string>;
  /** Guests of L0's own are looked at, and not their guests. */
  notNested?: boolean;
  signal?: AbortSignal | undefined;
}

export class FaultTrace {
  readonly #l0: Level;
  readonly #ticks: number;

  private constructor(l0: Level, ticksPerInstruction: number) {
    this.#l0 = l0;
    this.#ticks = ticksPerInstruction;
  }

  /** `ticksPerInstruction`: of L0's TSC; 1 in Bochs. Throws HT_UNSUPPORTED where this L0 cannot trace. */
  static async open(
    l0: Level,
    signal?: AbortSignal,
    ticksPerInstruction = NS_PER_INSTRUCTION,
  ): Promise<FaultTrace> {
    const events = EVENTS.map((e) => `echo 1 > events/kvm/${e}/enable`).join('\n');
    const trace = new FaultTrace(l0, ticksPerInstruction);
    try {
      await runScript(
        l0,
        `set -e
mkdir -p ${INSTANCE}
cd ${INSTANCE}
echo 0 > tracing_on
echo x86-tsc > trace_clock
echo ${BUFFER_KIB} > buffer_size_kb
${events}`,
        { signal },
      );
      return trace;
    } catch (e) {
      await trace.close().catch(() => {}); // the first failure is the one to tell
      if (!isHyperturtleError(e, 'HT_COMMAND_FAILED')) throw e;
      throw new HyperturtleError(
        'HT_UNSUPPORTED',
        "L0's kernel does not trace with its TSC (tracefs with instances and the clock x86-tsc expected)",
        { cause: e },
      );
    }
  }

  async begin(signal?: AbortSignal): Promise<void> {
    await runScript(this.#l0, `cd ${INSTANCE} && echo > trace && echo 1 > tracing_on`, { signal });
  }

  /** Costs since begin(). Throws HT_COMMAND_FAILED when there was more than the buffer holds. */
  async end({ exits = FAULTS, notNested = false, signal }: Traced = {}): Promise<FaultCost[]> {
    await runScript(this.#l0, `echo 0 > ${INSTANCE}/tracing_on`, { signal });
    const lost = await runScript(
      this.#l0,
      `grep -h -E '^(overrun|dropped events):' ${INSTANCE}/per_cpu/cpu*/stats`,
      { signal },
    );
    if (/: [1-9]/.test(lost))
      throw new HyperturtleError(
        'HT_COMMAND_FAILED',
        `more faults than a trace of ${BUFFER_KIB} KiB holds: touch less memory (--mib)`,
      );
    // packed: it goes through a serial port in an Intel lab
    const packed = await runScript(this.#l0, `sed -nE ${SHORTEN} ${INSTANCE}/trace | gzip | base64`, {
      timeoutMs: READ_MS,
      signal,
    });
    const events = parseTrace(gunzipSync(Buffer.from(packed, 'base64')).toString('utf8'), exits);
    return faultCosts((notNested ? ownFaults : tracedFaults)(events, this.#ticks));
  }

  async close(): Promise<void> {
    await runScript(this.#l0, `rmdir ${INSTANCE}`);
  }
}
