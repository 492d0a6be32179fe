/** What all benches that start a lab of their own have in common: its options, and its coming and going. */
import { Option } from 'commander';
import type { Command } from 'commander';
import { withoutUndefined } from '../../core/defined.ts';
import { abortReason, sleep } from '../../core/wait.ts';
import type { Lab } from '../../lab/lab.ts';
import type { LabClock } from '../../lab/machine.ts';
import { measured } from './measured.ts';
import type { Measuring } from './measured.ts';
import { integer } from './values.ts';
import { clockOption } from './emulated-cpu.ts';
import { kernelOption } from './kernel-option.ts';

export interface LabOptions {
  kernel: string;
  accel: 'tcg' | 'kvm' | 'bochs';
  clock?: LabClock;
  l1Memory: number;
  l1Cpus: number;
  secondL1Memory?: number;
  json?: string;
  report?: string;
  images?: readonly string[];
  kvmSelftests?: boolean;
}

export interface InLab extends Measuring {
  lab: Lab;
}

/** How long a body that was interrupted may take to notice, once its lab is gone. */
const NOTICE_MS = 2000;

/**
 * Lab up, body, lab down; then the JSON file that was asked for. When it is interrupted the machines end at once: what the body would
 * undo in them, which takes half a minute under emulation, goes with them.
 */
export function inLab<T>(o: LabOptions, body: (c: InLab) => Promise<T>): Promise<T> {
  return measured(o, async ({ progress, signal }) => {
    const { labUp } = await import('../../lab/lab.ts');
    const lab = await labUp({
      kernel: o.kernel,
      accel: o.accel,
      ...withoutUndefined({ clock: o.clock }),
      l1Cpus: o.l1Cpus,
      l1MemoryMib: o.l1Memory,
      ...(o.secondL1Memory === undefined ? {} : { secondL1MemoryMib: o.secondL1Memory }),
      ...(o.images === undefined ? {} : { images: o.images }),
      kvmSelftests: o.kvmSelftests ?? false,
      progress,
      signal,
    });
    try {
      return await orInterrupted(body({ lab, progress, signal }), signal, () => lab.down());
    } finally {
      await lab.down();
    }
  });
}

/** Settles as `work` does; after an abort with its reason, when `end` has ended what the work needs. */
export async function orInterrupted<T>(
  work: Promise<T>,
  signal: AbortSignal,
  end: () => Promise<void>,
): Promise<T> {
  let onAbort: (() => void) | undefined;
  const interrupted = new Promise<never>((_, reject) => {
    onAbort = () => {
      const noticed = work.then(
        () => {},
        () => {},
      );
      const over = (): void => reject(abortReason(signal));
      void end().then(() => Promise.race([noticed, sleep(NOTICE_MS)]).then(over), over);
    };
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
  });
  try {
    // what fails for want of its machine has no reason of its own
    return await Promise.race([
      work.catch((e: unknown) => {
        if (signal.aborted) return interrupted;
        throw e;
      }),
      interrupted,
    ]);
  } finally {
    if (onAbort) signal.removeEventListener('abort', onAbort);
  }
}

export function labOptions(c: Command): Command {
  return c
    .addOption(kernelOption('kernel of all levels'))
    .addOption(new Option('--accel <kind>', 'what runs the lab').choices(['tcg', 'kvm']).default('tcg'))
    .addOption(clockOption())
    .option('--l1-memory <MiB>', 'memory of L1', integer('--l1-memory', 512, 65_536), 2048)
    .option('--l1-cpus <number>', 'virtual CPUs of L1', integer('--l1-cpus', 1, 8), 1)
    .option('--json <file>', 'write the result with all raw samples');
}
