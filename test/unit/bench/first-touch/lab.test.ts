import { describe, expect, it } from 'vitest';
import {
  causeName,
  countersBetween,
  parseCounters,
  parseHistogram,
} from '../../../../src/testbed/kvm-counters.ts';
import { l2MemoryFor, parseLine, reservedMemory } from '../../../../src/bench/first-touch/touch.ts';
import { roundTooLate } from '../../../../src/bench/first-touch/run.ts';
import { turnsOf } from '../../../../src/bench/first-touch/turn.ts';

const HIST = `# event histogram
#
# trigger info: hist:keys=exit_reason:vals=hitcount:sort=hitcount:size=256 [active]
#

{ exit_reason:        120 } hitcount:          3
{ exit_reason:       1024 } hitcount:        512

Totals:
    Hits: 515
    Entries: 2
    Dropped: 0
`;

describe('counters of KVM in L0', () => {
  it('are read from histograms of its tracepoints', () => {
    expect([...parseHistogram(HIST)]).toEqual([
      [120, 3],
      [1024, 512],
    ]);
  });

  it('have the same names for both vendors', () => {
    expect(causeName(0x400, 'amd')).toBe('npf');
    expect(causeName(48, 'intel')).toBe('npf');
    expect(causeName(0x78, 'amd')).toBe(causeName(12, 'intel'));
    expect(causeName(0x4e, 'amd')).toBe('exception');
    expect(causeName(0x3ff, 'amd')).toBe('exit-0x3ff');
  });

  it('make one reading of three parts', () => {
    expect(parseCounters(`100\n7\n---\n${HIST}---\n`, 'amd')).toEqual({
      exits: 100,
      nestedRuns: 7,
      l2ExitsByCause: { hlt: 3, npf: 512 },
      reflectedByCause: {},
    });
    expect(() => parseCounters('cat: no such file\n', 'amd')).toThrow(/two numbers expected/);
  });

  it('are compared with those before', () => {
    const at = (exits: number, npf: number): ReturnType<typeof parseCounters> => ({
      exits,
      nestedRuns: 0,
      l2ExitsByCause: { npf },
      reflectedByCause: {},
    });
    expect(countersBetween(at(10, 2), at(30, 9))).toEqual({
      exits: 20,
      nestedRuns: 0,
      l2ExitsByCause: { npf: 7 },
      reflectedByCause: {},
    });
  });
});

describe('memory of L2', () => {
  it('is kept fresh for every order: a movable zone and a reserved range that both fit', () => {
    const r = reservedMemory(l2MemoryFor(32), 32);
    expect(r.kernelArguments).toBe(`memmap=32M$0x${r.address.toString(16)} movablecore=112M retain_initrd`);
    expect(r.address % (2 << 20)).toBe(0);
    expect(r.address / (1 << 20) + 32).toBeLessThanOrEqual(l2MemoryFor(32) - 16);
  });
  it('is refused when it cannot hold what shall be touched', () => {
    expect(() => reservedMemory(128, 32)).toThrow(/at least 224 MiB/);
  });
});

describe('lines of first_touch', () => {
  it('are gates, results, or noise', () => {
    expect(parseLine('{"gate":"before","pattern":"seq","pass":1}')).toEqual({ kind: 'before' });
    expect(parseLine('[ 1.0] some driver')).toBeUndefined();
    const touch =
      '{"pattern":"seq","pass":1,"pages":2,"avgNs":5,"p50Ns":4,"p90Ns":6,"p99Ns":6,"p999Ns":6,"maxNs":6,"totalNs":10,"histogram":[[4,2]]}';
    expect(parseLine(touch)).toMatchObject({ kind: 'result', touch: { pages: 2 } });
    expect(() => parseLine('{"pattern":"seq"}')).toThrow();
  });
});

describe('rounds', () => {
  it('end early when another would exceed the time there is, but never before the first is over', () => {
    expect(roundTooLate(100_000, 5, 5, 280_000)).toBe(false);
    expect(roundTooLate(150_000, 5, 5, 280_000)).toBe(true);
    expect(roundTooLate(900_000, 0, 5, 280_000)).toBe(false);
    expect(roundTooLate(900_000, 3, 5, 280_000)).toBe(false);
    expect(roundTooLate(900_000, 5, 5, undefined)).toBe(false);
  });

  it('give every variant one turn, and begin with another one each time', () => {
    const turns = turnsOf({
      variants: ['l1', 'l2-vanilla', 'l2-default'],
      rounds: 2,
      notNested: true,
      bootOnly: false,
    });
    expect(turns.slice(0, 4).map((t) => t.turn)).toEqual(['l1', 'l2-vanilla', 'l2-default', 'not-nested']);
    expect(turns.slice(4).map((t) => t.turn)).toEqual(['l2-vanilla', 'l2-default', 'not-nested', 'l1']);
  });
  it('leave out what has no boot of its own when only boots are measured', () => {
    const turns = turnsOf({
      variants: ['l1', 'l2-vanilla', 'l2-vanilla-prealloc', 'l2-group1', 'l2-default'],
      rounds: 1,
      notNested: false,
      bootOnly: true,
    });
    expect(turns.map((t) => t.turn)).toEqual(['l2-vanilla', 'l2-default']);
  });
});
