/** Exits as L1 sees them: counts of the shipped programs' map, the table, and what a link asks for. */
import { describe, expect, it } from 'vitest';
import { ticksOf } from '../../../src/bench/exits/run.ts';
import { exitsText } from '../../../src/cli/exits/command.ts';
import type { ExitsSample } from '../../../src/client/exits.ts';
import { parseLinkOption } from '../../../src/cli/shared/link-option.ts';
import { EXIT_COUNTS, EXIT_KEY, parseExitCounts } from '../../../src/guest/exit-counts.ts';
import { fitsHook, linkArgs } from '../../../src/host/link-args.ts';
import { HT_EXIT_ARGS, exitCounts } from '../../../src/kernel/exit.ts';
import { LinkOptions } from '../../../src/wire/link-options.ts';

const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64');
const entry = (key: object, counts: object) => ({
  key: base64(EXIT_KEY.encode(key)),
  value: base64(EXIT_COUNTS.encode(counts)),
});

describe('counts of exits', () => {
  it('have words for what exited, of either vendor', () => {
    const found = parseExitCounts([
      entry({ l2: 1, kind: 0, arg: 0x8000_0001 }, { seen: 5 }),
      entry({ l2: 1, kind: 1, arg: 0x8b }, { seen: 1 }),
      entry({ l2: 2, kind: 3, arg: 0x3f8 }, { seen: 1 }),
      entry({ l2: 2, kind: 7, code: 0x400 }, { seen: 1 }),
      entry({ l2: 2, kind: 7, code: 0x123 }, { seen: 1 }),
    ]);
    expect(found.map((c) => [c.cause, c.what])).toEqual([
      ['cpuid', 'leaf 0x80000001'],
      ['rdmsr', 'MSR 0x8b'],
      ['io', 'port 0x3f8'],
      ['page-fault', ''],
      ['exit-0x123', ''],
    ]);
  });

  it('are shown most frequent first, since the look before, with the time that L1 had each', () => {
    const sample = (seen: number, returned: number, l1Ns: number): ExitsSample => ({
      atMs: 0,
      hook: {
        hook: 'exit',
        linked: true,
        object: 'exit-cache',
        program: 'exit_cache',
        runs: 9,
        handled: 4,
        entries: 0,
        learned: 0,
        passed: 5,
        reasons: {},
      },
      counts: parseExitCounts([
        entry({ l2: 1, kind: 5 }, { seen: 1, returned: 1, l1_ns: 1000 }),
        entry({ l2: 3, kind: 0 }, { seen, handled: 1, returned, l1_ns: l1Ns }),
      ]),
      names: new Map([[1, 'web']]),
    });
    const first = exitsText(undefined, sample(10, 2, 50_000));
    expect(first[3]).toMatch(/^#3 +cpuid +leaf 0x0 +10 +1 +25\.0$/);
    expect(first[4]).toMatch(/^web +hlt +1 +0 +1\.0$/);
    expect(exitsText(sample(10, 2, 50_000), sample(14, 3, 57_000)).slice(3)).toEqual([
      expect.stringMatching(/^#3 .* 4 +0 +7\.0$/),
    ]);
    expect(exitsText(undefined, { ...sample(1, 1, 1), hook: undefined })[0]).toMatch(/exits on/);
  });

  it('of the module are told by kind', () => {
    const counts = Array.from({ length: 64 }, () => 0);
    counts.splice(8, 5, 7, 6, 1, 900, 60);
    expect(exitCounts(counts)).toEqual({ rdmsr: { seen: 7, handled: 6, returned: 1, l1Ns: 900, l0Ns: 60 } });
  });
});

describe('--option', () => {
  const parse = (...all: string[]) =>
    all.reduce<ReturnType<typeof parseLinkOption> | undefined>(
      (before, text) => parseLinkOption(text, before),
      undefined,
    );

  it('takes lists, numbers and names, in any order', () => {
    const options = parse('msrs=0x8b,16', 'exits=rdmsr,hlt', 'after');
    expect(options).toEqual({ msrs: [0x8b, 16], exits: ['rdmsr', 'hlt'], after: true });
    const args = HT_EXIT_ARGS.decode(linkArgs('exit', options));
    expect(args).toMatchObject({ kinds: 0b10_0010n, flags: 1, msr_count: 2 });
    expect(args.msrs.slice(0, 3)).toEqual([0x8b, 16, 0]);
    expect(parse('depth=5', 'hz=99')).toEqual({ depth: 5, hz: 99 });
  });

  it.each(['exits=cpu', 'hz=no', 'nonsense=1', 'msrs=x'])('refuses %s', (text) => {
    expect(() => parse(text)).toThrow(`--option ${text}`);
  });

  it('must have what its hook cannot do without, and nothing of another hook', () => {
    expect(() => parse('hz=1', 'exits=cpuid')).toThrow('--option exits=cpuid');
    expect(() => linkArgs('exit', parse('after'))).toThrow(/hook exit wants options .* at least exits/);
    expect(() => linkArgs('sample', undefined)).toThrow(/hook sample wants options .* at least hz/);
    expect(() => linkArgs('sample', parse('exits=cpuid'))).toThrow(/hook sample wants/);
  });

  it('is checked here as by the wire protocol', () => {
    const all = [
      { exits: ['cpuid'], msrs: [1], after: true, user: false },
      { exits: ['cpuid'], msrs: [] },
      { exits: [] },
      { exits: ['x'] },
      { exits: ['cpuid'], msrs: [2 ** 32] },
      { exits: ['cpuid'], hz: 1 },
      { hz: 99, depth: 64, clock: true },
      { hz: 0 },
      { hz: 1.5 },
      { hz: 1, depth: 65 },
    ];
    for (const options of all)
      expect(fitsHook('exit', options) || fitsHook('sample', options), JSON.stringify(options)).toBe(
        LinkOptions().safeParse(options).success,
      );
  });
});

it('the time of a loop is read from what the guest says', () => {
  const lines = ['leaf 00000000', 'cpuid n 00000100 ticks 00000001 00025084'];
  expect(ticksOf(lines, 'cpuid')).toBe(2 ** 32 + 0x25084);
  expect(() => ticksOf(lines, 'rdmsr')).toThrow(/says nothing of its loop of rdmsr/);
});
