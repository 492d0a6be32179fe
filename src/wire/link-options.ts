/**
 * What a link may ask of its hook, by hook: which exits, how many samples. Kept with the link by both ends: `list` shows
 * it, a replaced program inherits it.
 */
import { z } from 'zod';
import { HT_CALL_NUMBER_MIN, HT_CALL_NUMBERS } from '../kernel/call.ts';
import { EXIT_KINDS, HT_EXIT_MSRS } from '../kernel/exit.ts';
import { HT_SAMPLE_FRAMES, HT_SAMPLE_HZ_MAX } from '../kernel/sample.ts';
import { lazy } from '../core/lazy.ts';
import type { Output } from '../core/lazy.ts';

export const ExitOptions = lazy(() =>
  z.strictObject({
    /** Which exits the program is run for. */
    exits: z.array(z.enum(EXIT_KINDS)).min(1).max(EXIT_KINDS.length),
    /** Numbers of the MSRs, for rdmsr and wrmsr. */
    msrs: z.array(z.int().min(0).max(0xffff_ffff)).max(HT_EXIT_MSRS).optional(),
    /** Run it also when L1 enters L2 again. */
    after: z.boolean().optional(),
    /** Also for hypercalls of L2's user space. */
    user: z.boolean().optional(),
  }),
);

export const SampleOptions = lazy(() =>
  z.strictObject({
    /** Samples a second of each vCPU. */
    hz: z.int().min(1).max(HT_SAMPLE_HZ_MAX),
    /** Most addresses of one stack; 1: none is walked. */
    depth: z.int().min(1).max(HT_SAMPLE_FRAMES).optional(),
    /** By the CPU clock of the vCPU's thread, also where there is a cycle counter. */
    clock: z.boolean().optional(),
  }),
);

/** Who may call by VMCALL or VMMCALL. */
const CALLERS = ['l1', 'l2', 'both'] as const;

export const CallOptions = lazy(() =>
  z.strictObject({
    /** What callers have in RAX. Lower numbers are those of hypervisors. */
    numbers: z.array(z.int().min(HT_CALL_NUMBER_MIN).max(0xffff_ffff)).min(1).max(HT_CALL_NUMBERS),
    /** Left out: L1 alone. */
    from: z.enum(CALLERS).optional(),
    /** Also for calls of user space. */
    user: z.boolean().optional(),
  }),
);

/** By hook; a hook that is not here takes no options. */
const LINK_OPTIONS = { exit: ExitOptions, sample: SampleOptions, call: CallOptions } as const;

export const LinkOptions = lazy(() =>
  z.union([ExitOptions(), SampleOptions(), CallOptions()], {
    error:
      'options of a hook are expected: exits, msrs, after, user (exit); hz, depth, clock (sample); numbers, from, user (call)',
  }),
);

export type ExitOptions = Output<typeof ExitOptions>;
export type SampleOptions = Output<typeof SampleOptions>;
export type CallOptions = Output<typeof CallOptions>;
export type LinkOptions = Output<typeof LinkOptions>;

/** What is wrong with the options for a hook, or undefined. */
export function linkOptionsProblem(hook: string, options: LinkOptions | undefined): string | undefined {
  const schema = Object.entries(LINK_OPTIONS).find(([name]) => name === hook)?.[1];
  if (schema === undefined)
    return options === undefined ? undefined : `hook ${hook} takes no options: leave them out`;
  const parsed = schema().safeParse(options);
  if (parsed.success) return undefined;
  const fields = Object.keys(schema().shape).join(', ');
  return `hook ${hook} wants options (${fields}): ${z.prettifyError(parsed.error).split('\n')[0] ?? ''}`;
}

/** Whether two links ask the same of their hook. */
export const sameOptions = (a: LinkOptions | undefined, b: LinkOptions | undefined): boolean =>
  canonical(a) === canonical(b);

const canonical = (options: LinkOptions | undefined): string =>
  JSON.stringify(Object.entries(options ?? {}).sort(([a], [b]) => (a < b ? -1 : 1)));
