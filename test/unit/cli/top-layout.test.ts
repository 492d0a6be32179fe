/** What `top`, `stats` and `host stats` show: at any width, and in figures that mean one thing each. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { drawn } from '../../../src/cli/shared/screen.ts';
import { allStatsText, statsText } from '../../../src/cli/objects/command.ts';
import { topText } from '../../../src/cli/top/command.ts';
import type { TopSample } from '../../../src/cli/top/command.ts';
import { formatStats } from '../../../src/host/stats.ts';
import { figuresOf } from '../../../src/wire/figures.ts';
import type { HookStats } from '../../../src/wire/schema.ts';

const REASONS = ['PRESENT', 'LOW_GPA', 'NO_TABLE', 'POOL_EMPTY', 'NO_TEMPLATE', 'NO_SLOT'];
const hook = (name: string, handled: number, reasons: Record<string, number>): HookStats => {
  const passed = Object.values(reasons).reduce((a, b) => a + b, 0);
  const counts = { runs: handled + passed, handled, entries: 8 * handled, learned: 3, passed, reasons };
  return { hook: name, linked: true, object: 'firewall.web1', program: 'on_fault2', ...counts };
};
const l2 = (name: string, faults: number): TopSample['status']['l2s'][number] =>
  ({
    name,
    pid: 4_012_345,
    since: 's',
    pages: faults * 3,
    framesTaken: faults * 2,
    faults,
    mappedExisting: 12,
    mappedNew: faults,
    mappedAhead: 0,
    passes: 489,
    slotChanges: 0,
  }) as never;
const sample = (hooks: HookStats[], names: string[], faults: number): TopSample =>
  ({
    atMs: 0,
    hooks,
    status: {
      host: { state: 'connected', vm: 'tenant1' },
      module: {
        state: 'present',
        arenaBound: true,
        enabled: true,
        pool: { level: 800, entries: 4096, low: 100, high: 1000 },
      },
      desired: { reached: true, problems: [{ step: 'load npf', message: 'too many objects: 4 of 4 used' }] },
      l2Problems: [],
      l2s: names.map((n) => l2(n, faults)),
    },
  }) as unknown as TopSample;

const figures = (lines: readonly string[]): string[] =>
  lines.flatMap((l) => l.split(/[\s,;:()]+/)).filter((t) => /^[\d.]+%?$/.test(t));

describe('top at any width', () => {
  it('never cuts inside a figure: each that is shown is one of the full table', () => {
    const shapes = fc.record({
      handled: fc.nat(99_999_999),
      counts: fc.array(fc.nat(9_999_999), { minLength: 6, maxLength: 6 }),
      hooks: fc.subarray(['npf', 'exit', 'xdp', 'tc-ingress'], { minLength: 1 }),
      names: fc.array(fc.constantFrom('web', 'redis1', 'a-very-long-name-of-a-guest-of-this-machine'), {
        maxLength: 3,
      }),
    });
    fc.assert(
      fc.property(shapes, ({ handled, counts, hooks, names }) => {
        const reasons = Object.fromEntries(REASONS.map((r, i) => [r, counts[i]!]));
        const now = sample(
          hooks.map((h) => hook(h, handled, reasons)),
          names,
          handled,
        );
        const full = new Set(figures(topText(undefined, now)));
        for (let width = 40; width <= 200; width += width < 90 ? 1 : 11) {
          const lines = topText(undefined, now, width - 1);
          expect(figures(lines).filter((f) => !full.has(f))).toEqual([]);
          expect(lines.filter((l) => l.length >= width)).toEqual([]);
          // the useful columns stay, and what was left out is told
          expect(lines.some((l) => /^HOOK .*TO L1%/.test(l))).toBe(true);
          const dropped = ['EVENTS', 'IN L0', 'ENTRIES'].filter(
            (c) => !lines.some((l) => /^HOOK/.test(l) && l.includes(c)),
          );
          for (const c of dropped) expect(lines.join('\n')).toMatch(new RegExp(`…[^]*${c}`));
        }
      }),
      { numRuns: 25 },
    );
  });

  it('at 80 columns with a NIC program, and at 50', () => {
    const nic = hook('tc-ingress', 57_867, { PASS: 1_234_567 });
    const now = sample([hook('npf', 942, { PRESENT: 8948, NO_TABLE: 656 }), nic], ['redis1'], 57_867);
    const at80 = topText(undefined, now, 79).join('\n');
    expect(at80).toMatch(/^npf .* 6\.2% .*NO_TABLE 656$/m);
    expect(at80).toContain('1292434');
    const at50 = topText(undefined, now, 49).join('\n');
    expect(at50).toMatch(/^npf .* 6\.2%/m);
    expect(at50).toMatch(/^redis1 .* 57867 /m);
  });

  it('what a terminal cuts of any other line is marked, and no figure', () => {
    for (let columns = 3; columns < 30; columns++) {
      const [line] = drawn(['flows 12 578671 of 99'], { columns }).slice(3).split('\x1b[K');
      expect(line!.length).toBeLessThan(columns);
      for (const f of figures([line!.replace('…', '')])) expect(['12', '578671', '99']).toContain(f);
    }
  });
});

describe('of faults', () => {
  // as an accelerated redis has them: most faults find the entry that a group made
  const redis = hook('npf', 942, { PRESENT: 8948, LOW_GPA: 490, NO_SLOT: 166 });

  it('stats say since when they count, where the host tells', () => {
    const hooks = [hook('npf', 1, {})];
    expect(allStatsText({ hooks, since: '2026-01-01T00:00:00Z' })).toMatch(
      /^npf: [^]*\ncounted since 2026-01-01T/,
    );
    expect(allStatsText({ hooks })).toBe(statsText(hooks[0]!));
  });

  it('what reached L1 over all faults is the headline of top', () => {
    const lines = topText(undefined, sample([redis], [], 0));
    expect(lines[1]).toBe('page faults that reached L1: 6.2%');
    expect(lines.join('\n')).toMatch(
      /npf +firewall.web1\/on_fault2 +10546 +942 +8948 +656 +6.2% +7536 +LOW_GPA 490, NO_SLOT 166$/m,
    );
  });

  it.each([
    ['stats', (s: HookStats) => statsText(s)],
    [
      'host stats',
      (s: HookStats) =>
        formatStats({ ...s, hook: 'npf', pid: 1, programId: 2, overruns: 0, maxNs: 0, limitNs: 0 } as never),
    ],
  ])('%s says what was answered in L0, what was already there, what reached L1', (_, text) => {
    const shown = text(redis);
    expect(shown).toContain('942 answered in L0 (8.9%), 8948 already there, 656 reached L1 (6.2%)');
    expect(shown).not.toContain('PRESENT');
    expect(shown).toMatch(/490 LOW_GPA\n.*166 NO_SLOT/);
  });

  it('frames are dropped or go on, exits are never already there', () => {
    expect(statsText(hook('xdp', 3, { PASS: 9 }))).toContain('12 events: 3 dropped (25.0%), 9 went on');
    expect(figuresOf(hook('exit', 1, { PRESENT: 4 }))).toEqual({ events: 5, inL0: 1, there: 0, toL1: 4 });
  });
});
