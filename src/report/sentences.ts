/** What the numbers mean, in words. Only what was measured is said. */
import type { BenchResult } from '../bench/first-touch/schema.ts';
import type { Environment } from '../bench/shared/environment-schema.ts';
import { bootMs } from '../bench/first-touch/summary.ts';
import { duration, number, percent } from './format.ts';

type Result = Pick<BenchResult, 'touches' | 'boots' | 'summary'>;

/** One sentence: the end of `npm run demo`. */
export function headline(r: Result): string {
  const s = r.summary;
  const parts: string[] = [];
  if (s.firstTouchSpeedup !== undefined)
    parts.push(
      `a nested guest's first touches of its memory were ${number(s.firstTouchSpeedup)} times faster than on the stock hypervisors`,
    );
  if (s.switchesPerPageSequential !== undefined && s.switchesPerPageVanilla !== undefined)
    parts.push(
      `needed ${number(s.switchesPerPageSequential)} world switches a page instead of ${number(s.switchesPerPageVanilla)}`,
    );
  if (s.bootReduction !== undefined)
    parts.push(
      s.bootReduction >= 0
        ? `the guest booted in ${percent(s.bootReduction)} less time`
        : `the guest took ${percent(-s.bootReduction)} more time to boot`,
    );
  if (parts.length === 0) return 'Nothing was measured.';
  const list = parts.length === 1 ? parts[0]! : `${parts.slice(0, -1).join(', ')} and ${parts.at(-1)}`;
  return `With the npf hyperupcall, answered in L0 without waking L1, ${list}.`;
}

/** A few more, for the report. */
export function details(r: Result): string[] {
  const s = r.summary;
  const out: string[] = [];
  if (s.firstTouchSpeedupGroup1 !== undefined)
    out.push(
      `Mapping one page for each fault alone makes first touches ${number(s.firstTouchSpeedupGroup1)} times faster; the rest comes from mapping aligned groups of neighbours ahead.`,
    );
  if (s.firstTouchSpeedupOverPrealloc !== undefined)
    out.push(
      `Against an L2 whose memory was allocated in advance, which costs all of that memory at once, the factor is ${number(s.firstTouchSpeedupOverPrealloc)}.`,
    );
  if (s.firstTouchSpeedupOverThp !== undefined)
    out.push(
      `Against an L2 in anonymous memory that L1's kernel gives 2 MiB at a time (plain QEMU, Firecracker), the factor is ${number(s.firstTouchSpeedupOverThp)}${s.firstTouchSpeedupOverAnonymous === undefined ? '' : `, and ${number(s.firstTouchSpeedupOverAnonymous)} where it gives 4 KiB`}.`,
    );
  if (s.medianVsL1 !== undefined)
    out.push(
      `The median first touch of the nested guest takes ${number(s.medianVsL1)} times as long as one of L1 itself.`,
    );
  if (s.handledInL0 !== undefined)
    out.push(`${percent(s.handledInL0)} of the nested guest's faults were handled without entering L1.`);
  if (s.secondTouchVsVanilla !== undefined)
    out.push(
      `Touching memory again that the guest had freed takes ${number(s.secondTouchVsVanilla)} times as long as vanilla.`,
    );
  const boots = (['not-nested', 'vanilla', 'accelerated'] as const).map((v) => bootMs(r, v));
  if (boots.every((b) => b !== undefined))
    out.push(
      `The same kernel reaches userspace in ${duration(boots[0]! * 1e6)} not nested, ${duration(boots[1]! * 1e6)} nested, ${duration(boots[2]! * 1e6)} nested with the hyperupcall.`,
    );
  return out;
}

const EMULATORS: ReadonlyMap<string, string> = new Map([
  ['tcg', 'QEMU TCG'],
  ['bochs', 'Bochs'],
]);

/** Said with every result that was not measured on hardware. */
export function caveat({
  accelerator,
  clock,
}: Pick<Environment, 'accelerator' | 'clock'>): string | undefined {
  const emulator = EMULATORS.get(accelerator);
  if (emulator === undefined) return undefined;
  const time = clock === 'instructions' ? ', and their time was counted in instructions' : '';
  return `All levels ran emulated (${emulator})${time}. Absolute times mean little; ratios measured side by side and counts of exits do.`;
}
