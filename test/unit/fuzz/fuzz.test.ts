// cspell:ignore entr
import { describe, expect, it } from 'vitest';
import { addCounts, lastCounts } from '../../../src/fuzz/attacker.ts';
import { hostileLines } from '../../../src/fuzz/messages.ts';
import { Random, seedFor } from '../../../src/fuzz/random.ts';
import { fuzzProblems, judgeLog, newLines, sumOperations } from '../../../src/fuzz/report.ts';
import type { FuzzReport } from '../../../src/fuzz/report.ts';
import { faultTimes } from '../../../src/fuzz/watched.ts';

describe('what a hostile L1 writes into its port', () => {
  it('is the same for the same seed, and another for another', () => {
    const of = (seed: number): string => hostileLines(new Random(seed), 200).toString('latin1');
    expect(of(7)).toBe(of(7));
    expect(of(7)).not.toBe(of(8));
  });

  it('is requests with wrong members, nonsense, and messages that are none', () => {
    const lines = hostileLines(new Random(1), 2000).toString('latin1').split('\n');
    const parsed = lines.flatMap((l): unknown[] => {
      try {
        return [JSON.parse(l)];
      } catch {
        return [];
      }
    });
    expect(parsed.length).toBeGreaterThan(800);
    expect(lines.length - parsed.length).toBeGreaterThan(300);
    const methods = new Set(parsed.map((p) => (p as { method?: unknown } | null)?.method));
    for (const method of ['load', 'link', 'map.set', '$/cancelRequest', '__proto__'])
      expect(methods, method).toContain(method);
  });

  it('has a seed of its own for each boot', () => {
    const seeds = Array.from({ length: 100 }, (_, boot) => seedFor(1, boot));
    expect(new Set(seeds).size).toBe(100);
    expect(seedFor(1, 3)).toBe(seedFor(1, 3));
    expect(seedFor(2, 3)).not.toBe(seedFor(1, 3));
  });
});

describe("the other L1's faults", () => {
  it('are put together from all turns', () => {
    const first = { times: [[100_000, 98] as [number, number], [900_000, 1] as [number, number]] };
    const second = { times: [[50_000, 100] as [number, number], [5_000_000, 1] as [number, number]] };
    expect(faultTimes([first, second])).toEqual({ faults: 200, p50Us: 50, p99Us: 100 });
    expect(faultTimes([{ times: [] }])).toEqual({ faults: 0, p50Us: 0, p99Us: 0 });
  });
});

describe('a hostile L1 that broke', () => {
  it('has told its console what it had done until then', () => {
    const said = (n: number): string =>
      `[ 9.1] hyperturtle_fuzz: counted {"entries":${n},"beside":3,"header":12}\r\n`;
    expect(lastCounts(`boot\r\n${said(1)}more\r\n${said(7)}Kernel panic\r\n`)).toEqual({
      entries: 7,
      beside: 3,
      header: 12,
    });
    expect(lastCounts('Kernel panic\nhyperturtle_fuzz: counted {"entr')).toBeUndefined();
  });
});

const counts = { entries: 10, beside: 1, l2Exits: 5, l2Restarts: 1, l2Vms: 1 };
const hook = { runs: 50, handled: 40, hostileRuns: 30, longestHostileUs: 9 };
const good: Omit<FuzzReport, 'problems'> = {
  seed: 1,
  kernel: '6.1',
  clock: 'real',
  batch: 48,
  slow: false,
  seconds: 60,
  operations: 1000,
  attack: { ...counts, operations: { index: 900, zap: 40 } },
  hooks: { npf: hook, exit: hook },
  reasons: {},
  restarts: [{ boot: 1, why: 'its kernel ended' }],
  watched: {
    checked: 100,
    mismatches: 0,
    p99Ratio: 1.1,
    handledShare: { quiet: 1, attack: 1 },
    quiet: { faults: 10, p50Us: 30, p99Us: 100 },
    attack: { faults: 10, p50Us: 30, p99Us: 110 },
  },
  reports: [],
  complaints: {},
};

describe('a report', () => {
  it('adds operations of all boots and answers of hostile programs', () => {
    const sum = addCounts(good.attack, { ...counts, operations: { zap: 2, leaf: 3 } });
    expect(sum.operations).toEqual({ index: 900, zap: 42, leaf: 3 });
    expect(sum.entries).toBe(20);
    expect(sumOperations(good.attack, good.hooks)).toBe(1000);
  });

  it('has no problem when L0 is silent and the other L1 noticed nothing, whatever became of the hostile one', () => {
    expect(fuzzProblems(good, 1000)).toEqual([]);
  });

  it.each<[Partial<typeof good>, RegExp]>([
    [{ reports: ['BUG: KASAN: use-after-free\nmore'] }, /^1 reports of L0's kernel: BUG: KASAN/],
    [{ watched: { ...good.watched, mismatches: 2 } }, /2 wrong pages/],
    [{ watched: { ...good.watched, checked: 0 } }, /no page/],
    [{ watched: { ...good.watched, p99Ratio: 1.5 } }, /p99/],
    [{ operations: 999 }, /999 operations instead of 1000/],
  ])('says what should not be: %o', (change, text) => {
    expect(fuzzProblems({ ...good, ...change }, 1000)).toEqual([expect.stringMatching(text)]);
  });
});

describe("L0's kernel log", () => {
  it('is read from where it was left, also when its beginning is lost', () => {
    expect(newLines('a\nb\n', 'a\nb\nc\n')).toBe('c\n');
    expect(newLines('a\nb\n', 'b\nc\n')).toBe('c\n');
    expect(newLines('a\nb\n', 'x\ny\n')).toBe('x\ny\n');
    expect(newLines('', 'x\n')).toBe('x\n');
  });

  it("has trouble, and stock KVM's complaints about a guest, which are none", () => {
    const { reports, complaints } = judgeLog(
      '[  1.0] kvm [77]: vcpu0, guest rIP: 0xff Unhandled WRMSR(0xc0010131) = 0x0\n[  2.0] kvm [78]: vcpu1, guest rIP: 0xfe Unhandled WRMSR(0xc0010131) = 0x1\n[  3.0] BUG: unable to handle page fault for address: ffffc90000e00000\n',
    );
    expect(reports).toHaveLength(1);
    expect(complaints).toEqual({ 'kvm [N]: vcpuN, guest rIP: N Unhandled WRMSR(N) = N': 2 });
  });
});
