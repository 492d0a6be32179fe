/** What a link asks of its hook, as hyperturtle_host.ko takes it. */
import { HyperturtleError } from '../core/errors.ts';
import { EXIT_KIND, HT_EXIT_ARGS, HT_EXIT_F_AFTER, HT_EXIT_F_USER } from '../kernel/exit.ts';
import type { HookName } from '../kernel/host.ts';
import { HT_SAMPLE_ARGS, HT_SAMPLE_F_CLOCK, HT_SAMPLE_FRAMES } from '../kernel/sample.ts';
import { ExitOptions, SampleOptions } from '../wire/link-options.ts';
import type { LinkOptions } from '../wire/link-options.ts';

export type KvmLinkOptions = LinkOptions;

/** Throws HT_USAGE when the options are not this hook's, or it needs some. */
export function linkArgs(hook: HookName, options: LinkOptions | undefined): Uint8Array {
  switch (hook) {
    case 'npf':
      if (options !== undefined)
        throw new HyperturtleError('HT_USAGE', `hook ${hook} takes no options: leave them out`);
      return new Uint8Array(0);
    case 'exit': {
      const { exits, msrs = [], after, user } = ExitOptions.parse(options);
      return HT_EXIT_ARGS.encode({
        kinds: exits.reduce((mask, kind) => mask | (1n << BigInt(EXIT_KIND[kind])), 0n),
        flags: (after === true ? HT_EXIT_F_AFTER : 0) | (user === true ? HT_EXIT_F_USER : 0),
        msr_count: msrs.length,
        msrs,
      });
    }
    case 'sample': {
      const { hz, depth = HT_SAMPLE_FRAMES, clock } = SampleOptions.parse(options);
      return HT_SAMPLE_ARGS.encode({ hz, depth, flags: clock === true ? HT_SAMPLE_F_CLOCK : 0 });
    }
  }
}
