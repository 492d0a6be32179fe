/**
 * What a link asks of its hook, as hyperturtle_host.ko takes it. Checked without the wire protocol's schemas: they take
 * longer to load than all commands together.
 */
import { HyperturtleError } from '../core/errors.ts';
import {
  HT_CALL_ARGS,
  HT_CALL_F_USER,
  HT_CALL_L1,
  HT_CALL_L2,
  HT_CALL_NUMBER_MIN,
  HT_CALL_NUMBERS,
} from '../kernel/call.ts';
import { EXIT_KIND, HT_EXIT_ARGS, HT_EXIT_F_AFTER, HT_EXIT_F_USER, HT_EXIT_MSRS } from '../kernel/exit.ts';
import type { KvmHook } from '../kernel/host.ts';
import { HT_SAMPLE_ARGS, HT_SAMPLE_F_CLOCK, HT_SAMPLE_FRAMES, HT_SAMPLE_HZ_MAX } from '../kernel/sample.ts';
import type { CallOptions, ExitOptions, LinkOptions, SampleOptions } from '../wire/link-options.ts';
import { own } from '../core/own.ts';

export type KvmLinkOptions = LinkOptions;

const isNumber =
  (low: number, high: number) =>
  (v: unknown): boolean =>
    typeof v === 'number' && Number.isSafeInteger(v) && v >= low && v <= high;
const isFlag = (v: unknown): boolean => typeof v === 'boolean';
const isListOf =
  (least: number, most: number, is: (v: unknown) => boolean) =>
  (v: unknown): boolean =>
    Array.isArray(v) && v.length >= least && v.length <= most && v.every(is);

/** Hooks whose links take options. */
type OptionHook = Exclude<KvmHook, 'npf'>;

const FROM: Readonly<Record<NonNullable<CallOptions['from']>, number>> = {
  l1: HT_CALL_L1,
  l2: HT_CALL_L2,
  both: HT_CALL_L1 | HT_CALL_L2,
};

/** By hook: what is expected of each, as wire/link-options.ts has it. */
const EXPECTED: Readonly<Record<OptionHook, Record<string, (v: unknown) => boolean>>> = {
  exit: {
    exits: isListOf(
      1,
      Object.keys(EXIT_KIND).length,
      (v) => typeof v === 'string' && Object.hasOwn(EXIT_KIND, v),
    ),
    msrs: isListOf(0, HT_EXIT_MSRS, isNumber(0, 0xffff_ffff)),
    after: isFlag,
    user: isFlag,
  },
  sample: {
    hz: isNumber(1, HT_SAMPLE_HZ_MAX),
    depth: isNumber(1, HT_SAMPLE_FRAMES),
    clock: isFlag,
  },
  call: {
    numbers: isListOf(1, HT_CALL_NUMBERS, isNumber(HT_CALL_NUMBER_MIN, 0xffff_ffff)),
    from: (v) => typeof v === 'string' && Object.hasOwn(FROM, v),
    user: isFlag,
  },
};

export const OPTION_HOOKS = Object.keys(EXPECTED) as OptionHook[];

/** Whether these are options of the hook; those that must be there may be missing. */
export function fitsHook(hook: OptionHook, options: object): boolean {
  const expected = EXPECTED[hook];
  return Object.entries(options).every(([k, v]) => v === undefined || own(expected, k)?.(v) === true);
}

function ofHook<T extends LinkOptions>(
  hook: OptionHook,
  needed: keyof T & string,
  options: LinkOptions | undefined,
): T {
  if (options === undefined || !(needed in options) || !fitsHook(hook, options))
    throw new HyperturtleError(
      'HT_USAGE',
      `hook ${hook} wants options (${Object.keys(EXPECTED[hook]).join(', ')}), at least ${needed}: --option ${needed}=...`,
    );
  return options as T;
}

/** Throws HT_USAGE when the options are not this hook's, or it needs some. */
export function linkArgs(hook: KvmHook, options: LinkOptions | undefined): Uint8Array {
  switch (hook) {
    case 'npf':
      if (options !== undefined)
        throw new HyperturtleError('HT_USAGE', `hook ${hook} takes no options: leave them out`);
      return new Uint8Array(0);
    case 'exit': {
      const { exits, msrs = [], after, user } = ofHook<ExitOptions>(hook, 'exits', options);
      return HT_EXIT_ARGS.encode({
        kinds: exits.reduce((mask, kind) => mask | (1n << BigInt(EXIT_KIND[kind])), 0n),
        flags: (after === true ? HT_EXIT_F_AFTER : 0) | (user === true ? HT_EXIT_F_USER : 0),
        msr_count: msrs.length,
        msrs,
      });
    }
    case 'sample': {
      const { hz, depth = HT_SAMPLE_FRAMES, clock } = ofHook<SampleOptions>(hook, 'hz', options);
      return HT_SAMPLE_ARGS.encode({ hz, depth, flags: clock === true ? HT_SAMPLE_F_CLOCK : 0 });
    }
    case 'call': {
      const { numbers, from = 'l1', user } = ofHook<CallOptions>(hook, 'numbers', options);
      return HT_CALL_ARGS.encode({
        from: FROM[from],
        flags: user === true ? HT_CALL_F_USER : 0,
        number_count: numbers.length,
        numbers,
      });
    }
  }
}
