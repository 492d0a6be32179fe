/**
 * What one fault costs in instructions, by level: from KVM's own tracepoints in an L0 whose time is counted in instructions
 * (`--clock instructions`), where the TSC counts nanoseconds, two for each instruction. Nothing here comes from our
 * module. What the tracepoints themselves take, some hundred instructions for each entry and exit, is in L0's figure.
 */
import { HyperturtleError } from '../core/errors.ts';
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
const FAULTS = new Set(['npf', 'EPT_VIOLATION']);
const EVENT = /^(\d+) (kvm_\w+) (\w*)$/;

interface Event {
  /** Ticks of L0's TSC. */
  at: number;
  name: string;
  fault: boolean;
}

/** Lines as SHORTEN leaves them. */
export function parseTrace(text: string): Event[] {
  return text.split('\n').flatMap((line) => {
    const [, at, name, reason] = EVENT.exec(line) ?? [];
    return at === undefined ? [] : [{ at: Number(at), name: name!, fault: FAULTS.has(reason!) }];
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

/** Every fault that begins and ends in the trace of one vCPU. */
export function tracedFaults(events: readonly Event[]): TracedFault[] {
  const faults: TracedFault[] = [];
  let open: TracedFault | undefined;
  let left: number | undefined;
  let entered: number | undefined;
  for (const [i, e] of events.entries()) {
    if (e.name === 'kvm_entry') {
      if (open !== undefined && left !== undefined) {
        open.l0 += (e.at - left) / NS_PER_INSTRUCTION;
        open.switches++;
      }
      entered = e.at;
      left = undefined;
    } else if (e.name === 'kvm_exit') {
      left = e.at;
      const ofL2 = events[i + 1]?.name === 'kvm_nested_vmexit';
      if (ofL2) {
        if (open !== undefined) faults.push(open);
        open = events[i + 1]!.fault ? { by: 'L0', l0: 0, l1: 0, switches: 1 } : undefined;
      } else if (open !== undefined && entered !== undefined) {
        open.l1 += (e.at - entered) / NS_PER_INSTRUCTION;
        open.switches++;
      }
    } else if (e.name === 'kvm_nested_vmexit_inject' && e.fault && open !== undefined) {
      open.by = 'L1';
    }
  }
  return faults;
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

export class FaultTrace {
  readonly #l0: Level;

  private constructor(l0: Level) {
    this.#l0 = l0;
  }

  /** Throws HT_UNSUPPORTED where this L0 cannot trace. */
  static async open(l0: Level, signal?: AbortSignal): Promise<FaultTrace> {
    await runScript(
      l0,
      `set -e
mkdir -p ${INSTANCE}
cd ${INSTANCE}
echo x86-tsc > trace_clock
echo ${BUFFER_KIB} > buffer_size_kb`,
      { signal },
    ).catch(async (e: unknown) => {
      await runScript(l0, `rmdir ${INSTANCE} 2>/dev/null; true`);
      throw new HyperturtleError(
        'HT_UNSUPPORTED',
        "L0's kernel does not trace with its TSC (tracefs with instances and the clock x86-tsc expected)",
        { cause: e },
      );
    });
    return new FaultTrace(l0);
  }

  async begin(signal?: AbortSignal): Promise<void> {
    await this.#switch(1, signal);
  }

  /** Costs since begin(). Throws HT_COMMAND_FAILED when there was more than the buffer holds. */
  async end(signal?: AbortSignal): Promise<FaultCost[]> {
    await this.#switch(0, signal);
    const lost = await runScript(
      this.#l0,
      `grep -h -E '^(overrun|dropped events):' ${INSTANCE}/per_cpu/cpu*/stats`,
      {
        signal,
      },
    );
    if (/: [1-9]/.test(lost))
      throw new HyperturtleError(
        'HT_COMMAND_FAILED',
        `more faults than a trace of ${BUFFER_KIB} KiB holds: touch less memory (--mib)`,
      );
    const trace = await runScript(this.#l0, `sed -nE ${SHORTEN} ${INSTANCE}/trace`, {
      timeoutMs: READ_MS,
      signal,
    });
    return faultCosts(tracedFaults(parseTrace(trace)));
  }

  async close(): Promise<void> {
    await runScript(this.#l0, `rmdir ${INSTANCE}`);
  }

  async #switch(to: 0 | 1, signal: AbortSignal | undefined): Promise<void> {
    const lines = EVENTS.map((e) => `echo ${to} > events/kvm/${e}/enable`);
    await runScript(
      this.#l0,
      ['set -e', `cd ${INSTANCE}`, ...(to === 1 ? ['echo > trace'] : []), ...lines].join('\n'),
      { signal },
    );
  }
}
