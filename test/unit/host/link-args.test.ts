/** What a link asks of its hook, as the module takes it and as commands write it. */
import { describe, expect, it } from 'vitest';
import { parseLinkOption } from '../../../src/cli/shared/link-option.ts';
import { linkArgs } from '../../../src/host/link-args.ts';
import { HT_CALL_ARGS, HT_CALL_F_USER, HT_CALL_L1, HT_CALL_L2 } from '../../../src/kernel/call.ts';
import { linkOptionsProblem } from '../../../src/wire/link-options.ts';

const parsed = (...texts: string[]) =>
  texts.reduce<ReturnType<typeof parseLinkOption> | undefined>(
    (all, t) => parseLinkOption(t, all),
    undefined,
  );

describe('options of the hook call', () => {
  it('are numbers, who may call, and user space, in any order', () => {
    const options = parsed('from=both', 'user', 'numbers=0x48540010,300');
    expect(options).toEqual({ numbers: [0x48540010, 300], from: 'both', user: true });
    expect(linkOptionsProblem('call', options)).toBeUndefined();
    expect(HT_CALL_ARGS.decode(linkArgs('call', options))).toMatchObject({
      from: HT_CALL_L1 | HT_CALL_L2,
      flags: HT_CALL_F_USER,
      number_count: 2,
      numbers: expect.arrayContaining([0x48540010, 300]) as number[],
    });
  });

  it('let L1 alone call, in its kernel, unless they say otherwise', () => {
    const args = HT_CALL_ARGS.decode(linkArgs('call', parsed('numbers=300')));
    expect(args).toMatchObject({ from: HT_CALL_L1, flags: 0, number_count: 1, reserved: 0 });
    expect(HT_CALL_ARGS.decode(linkArgs('call', parsed('numbers=300', 'from=l2'))).from).toBe(HT_CALL_L2);
  });

  it.each(['numbers=255', 'numbers=', 'from=l3', 'user=2', 'numbers=0x100000000', 'numbers=1e3'])(
    'are refused: %s',
    (text) => {
      expect(() => parseLinkOption(text, undefined)).toThrow(/numbers, from, user \(call\)/);
    },
  );

  it('need numbers, and are those of no other hook', () => {
    expect(() => linkArgs('call', undefined)).toThrow(/at least numbers/);
    expect(() => linkArgs('call', parsed('from=l1'))).toThrow(/at least numbers/);
    expect(() => linkArgs('exit', parsed('numbers=300'))).toThrow(/hook exit wants options/);
    expect(linkOptionsProblem('sample', parsed('numbers=300'))).toMatch(/hook sample wants options/);
  });
});
