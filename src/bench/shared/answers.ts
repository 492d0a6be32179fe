/** Exits of L2 that entered L1, by what they were about (testbed/l1-exits.ts): what that is called, and what would answer it in L0. */
import { own } from '../../core/own.ts';
import { CACHED_MSRS } from '../../guest/exit-counts.ts';

/** MSRs that guests of Linux write and read (Intel SDM volume 4; linux/Documentation/virt/kvm/x86/msr.rst). */
const MSR_NAMES: Readonly<Record<number, string>> = {
  0x10: 'TSC',
  0x1b: 'APIC base',
  0x3b: 'TSC adjust',
  0x8b: 'microcode revision',
  0x6e0: 'deadline of the timer',
  0x808: 'task priority',
  0x80b: 'end of interrupt',
  0x80f: 'spurious vector',
  0x830: 'interrupt to another CPU',
  0x832: 'mode of the timer',
  0x838: 'start of the timer',
  0x839: 'count of the timer',
  0x4b564d01: 'kvmclock',
  0x4b564d02: 'asynchronous page faults',
  0x4b564d03: 'steal time',
  0x4b564d04: 'end of interrupt by memory',
  0xc0000080: 'EFER',
  0xc0010015: 'HWCR',
};

/** First and last port of a device of QEMU's PC. */
const PORTS: readonly (readonly [first: number, last: number, name: string])[] = [
  [0x20, 0x21, 'PIC'],
  [0xa0, 0xa1, 'PIC'],
  [0x40, 0x43, 'PIT'],
  [0x60, 0x64, 'keyboard'],
  [0x70, 0x71, 'real-time clock'],
  [0x80, 0x80, 'delay'],
  [0x3f8, 0x3ff, 'serial port'],
  [0x402, 0x402, "firmware's log"],
  [0x510, 0x51b, "firmware's files"],
  [0x600, 0x63f, 'ACPI'],
  [0xcf8, 0xcff, 'PCI configuration'],
];

export interface Answer {
  /** What it belongs to: a row of the table. */
  group: string;
  /** Name of the shipped program that answers it. */
  shipped?: string;
  by: string;
}

const TIMER_AND_INTERRUPT = new Set([0x6e0, 0x808, 0x80b, 0x830, 0x832, 0x838, 0x839]);
const NOTHING = 'nothing: L1’s VMM emulates it';

function msrAnswer(what: string, write: boolean, msr: number): Answer {
  if (!write && CACHED_MSRS.includes(msr))
    return { group: 'MSRs that do not change', shipped: 'exit-cache', by: 'an exit program' };
  if (TIMER_AND_INTERRUPT.has(msr))
    return {
      group: `${what} (${MSR_NAMES[msr] ?? ''})`,
      by: 'an exit program that has L2’s APIC: none is shipped',
    };
  return {
    group: write ? 'other MSRs written' : 'other MSRs read',
    by: 'an exit program, where L1 need not see it: none is shipped',
  };
}

function portAnswer(port: number): Answer {
  const name = PORTS.find(([first, last]) => port >= first && port <= last)?.[2] ?? 'others';
  return { group: `ports: ${name}`, by: NOTHING };
}

/** Where QEMU's virtio devices have their doorbells: the last quarter of 16 KiB. */
const VIRTIO_BAR = 0x4000n;
const VIRTIO_DOORBELLS = 0x3000n;
/** Page of each, as a PC has them. */
const IO_APIC = 0xfec00n;
const LOCAL_APIC = 0xfee00n;

function deviceAnswer(write: boolean, bytes: number, at: bigint): Answer {
  if (at >> 12n === IO_APIC) return { group: 'I/O APIC', by: NOTHING };
  if (at >> 12n === LOCAL_APIC) return { group: 'APIC by its page', by: NOTHING };
  if (write && bytes === 2 && at % VIRTIO_BAR >= VIRTIO_DOORBELLS)
    return { group: 'doorbells of virtio', by: 'an eventfd of L1’s, rung from L0: not there' };
  return { group: 'registers of devices', by: NOTHING };
}

const CAUSES: Readonly<Record<string, Answer>> = {
  npf: { group: 'page faults', shipped: 'npf', by: 'a page fault program' },
  interrupt: { group: 'interrupts of L1’s', by: 'nothing: L1 has to take them' },
  'interrupt-window': {
    group: 'L2 can take an interrupt now',
    by: 'L0, if it had L2’s APIC: goes with the end of interrupt',
  },
  hlt: { group: 'L2 has nothing to do', by: 'nothing: L1 runs something else' },
};

/** `what` as L1Exits has it: `wrmsr 0x80b`, `out 0x3f8`, `cpuid 0x1`, `mmio write of 2 at 0xfe000000`, or a cause. */
export function answerOf(what: string): Answer {
  const [, kind = '', number = ''] = /^(rdmsr|wrmsr|in|out|cpuid) (0x[0-9a-f]+)$/.exec(what) ?? [];
  if (kind === 'cpuid') return { group: 'CPUID', shipped: 'exit-cache', by: 'an exit program' };
  if (kind.endsWith('msr')) return msrAnswer(what, kind === 'wrmsr', Number(number));
  if (kind !== '') return portAnswer(Number(number));
  const [, way, bytes, at] = /^mmio (read|write) of (\d+) at (0x[0-9a-f]+)$/.exec(what) ?? [];
  if (at !== undefined) return deviceAnswer(way === 'write', Number(bytes), BigInt(at));
  return own(CAUSES, what) ?? { group: what, by: 'not looked at' };
}
