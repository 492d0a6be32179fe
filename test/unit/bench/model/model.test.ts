import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { PUBLISHED_COSTS, amdMachine, paperMachine, published } from '../../../../src/bench/model/costs.ts';
import type { MachineCosts, PublishedCost } from '../../../../src/bench/model/costs.ts';
import { check, refusal, timeOf } from '../../../../src/bench/model/model.ts';
import type { Basis } from '../../../../src/bench/model/model.ts';
import { countsOf, modelOf } from '../../../../src/bench/model/rows.ts';
import { resultSchema } from '../../../../src/bench/first-touch/schema.ts';
import { modelTables } from '../../../../src/report/model.ts';
import { exampleResult, touchSample } from '../../../support/bench-samples.ts';

const exactly = (value: number): MachineCosts['ghz'] => ({ value, low: value, high: value });
const machine: MachineCosts = {
  name: 'one that is easy to reckon with',
  exitUs: exactly(1),
  clearUs: exactly(0.5),
  cyclesPerInstruction: exactly(2),
  ghz: exactly(2),
};
const basis: Basis = { exitInstructions: 1000, clearInstructions: 500 };
/** The table with some of its figures times something. */
const costs = (times: Partial<Record<string, number>>): PublishedCost[] =>
  PUBLISHED_COSTS.map((c) => {
    const by = times[c.id] ?? 1;
    return { ...c, value: c.value * by, low: c.low * by, high: c.high * by };
  });

describe('the time of what was counted', () => {
  it('is that of its exits, of pages that are cleared, and of all other instructions', () => {
    const none = { exits: 0, instructions: 0, cleared: 0 };
    expect(timeOf(none, basis, machine).value).toBe(0);
    expect(timeOf({ ...none, exits: 3, instructions: 3000 }, basis, machine).value).toBeCloseTo(3);
    expect(timeOf({ ...none, exits: 3, instructions: 5000 }, basis, machine).value).toBeCloseTo(5);
    const cleared = { exits: 3, instructions: 5000, cleared: 1 };
    expect(timeOf(cleared, basis, machine).value).toBeCloseTo(5);
    // no less than its exits, whatever was counted
    expect(timeOf({ ...none, exits: 3, instructions: 10 }, basis, machine).value).toBeCloseTo(3);
  });

  it('has the errors of its costs, as those of independent ones', () => {
    const twice = { value: 2, low: 1, high: 4 };
    const work = { exits: 0, instructions: 1000, cleared: 0 };
    const one = timeOf(work, basis, { ...machine, cyclesPerInstruction: twice });
    expect([one.low, one.value, one.high].map((v) => v.toFixed(3))).toEqual(['0.500', '1.000', '2.000']);
    const both = timeOf(work, basis, { ...machine, cyclesPerInstruction: twice, ghz: twice });
    expect(both.high / both.value).toBeCloseTo(2 ** Math.SQRT2);
    // an error of what has no part in it is none
    expect(timeOf(work, basis, { ...machine, exitUs: twice }).high).toBeCloseTo(1);
  });
});

describe('a row of the paper', () => {
  const row = { id: 'x', what: 'a fault', measured: 10, required: true };

  it('is reproduced within a range, but not by one that says nothing', () => {
    const reproduced = (low: number, high: number): boolean =>
      check(row, { value: 10, low, high }).reproduced;
    expect([reproduced(8, 12), reproduced(10.1, 12), reproduced(5, 9.9), reproduced(2, 40)]).toEqual([
      true,
      ...[false, false, false],
    ]);
  });

  it('keeps the model from predicting when it is required and is not reproduced', () => {
    const good = check(row, { value: 10, low: 8, high: 12 });
    const bad = check(row, { value: 20, low: 15, high: 25 });
    expect(refusal([good])).toBeUndefined();
    expect(refusal([good, bad])).toBe('a fault: 10 us measured, 15.00 to 25.00 us by the model');
    expect(refusal([good, { ...bad, required: false }])).toBeUndefined();
    expect(refusal([check(row, { value: 10, low: 1, high: 99 })])).toBe(
      'a fault: 1.00 to 99.00 us says too little',
    );
    expect(refusal([])).toBe('no row of the paper was compared');
  });
});

describe('the published costs', () => {
  it('have each a source, a machine and a range', () => {
    expect(new Set(PUBLISHED_COSTS.map((c) => c.id)).size).toBe(PUBLISHED_COSTS.length);
    for (const c of PUBLISHED_COSTS) {
      expect(c.source.length, c.id).toBeGreaterThan(10);
      expect(c.machine, c.id).not.toBe('');
      expect(c.low <= c.value && c.value <= c.high, c.id).toBe(true);
    }
    expect(() => published('nothing' as 'evmcs')).toThrow(RangeError);
  });

  it('have no figure of the rows that the model is held against', () => {
    const rows = new Set([28.39, 5.39, 5.58, 2.77]);
    for (const { id, value, low, high } of PUBLISHED_COSTS)
      expect(
        [value, low, high].some((v) => rows.has(v)),
        id,
      ).toBe(false);
  });

  it('make machines whose values lie within their ranges', () => {
    for (const { name, ...figures } of [paperMachine(), amdMachine()])
      for (const [what, { value, low, high }] of Object.entries(figures))
        expect(low <= value && value <= high, `${name}: ${what}`).toBe(true);
  });

  it('are all in docs/reproduction.md, with their sources', () => {
    const text = readFileSync('docs/reproduction.md', 'utf8');
    const rows = modelTables(modelOf())[0]!.rows;
    expect(rows).toHaveLength(PUBLISHED_COSTS.length);
    for (const row of rows) expect(text).toContain(`| ${row.join(' | ')} |`);
  });
});

describe('the model with what is recorded', () => {
  const result = modelOf();

  it('gives the two rows of the paper that decide, and so predicts', () => {
    expect(result.checks.filter((c) => c.required).map((c) => [c.id, c.reproduced])).toEqual([
      ['vanilla', true],
      ['accelerated', true],
    ]);
    expect(result.refusal).toBeNull();
    expect(result.predictions.length).toBeGreaterThan(3);
  });

  it.each([
    [
      'exits that cost ten times as much',
      costs({ 'paper-cpuid': 10, 'splitx-direct': 10, 'unit-tests-intel': 10 }),
    ],
    ['a kernel that needs a fifth of the cycles', costs({ 'cpi-btrfs': 0.2, 'cpi-cascade-lake': 0.2 })],
    ['a processor that is four times as fast', costs({ 'xeon-4216': 4 })],
    ['a range of cycles that anything is in', costs({ 'cpi-btrfs': 0.1, 'cpi-cascade-lake': 10 })],
  ])('predicts nothing with %s, and says why', (_, table) => {
    const wrong = modelOf(undefined, table);
    expect(wrong.refusal).toMatch(/EPT fault/);
    expect(wrong.predictions).toEqual([]);
  });

  it('says of each prediction whether its machine was held against a measurement', () => {
    expect(new Set(result.predictions.map((p) => p.checked))).toEqual(new Set([true, false]));
    for (const p of result.predictions) expect(p.checked).toBe(!p.machine.includes('AMD'));
    const table = modelTables(result).at(-1);
    expect(table?.title).toMatch(/^A model, no measurement/);
    expect(table?.rows.some((r) => r.at(-1)?.startsWith('NO'))).toBe(true);
  });

  it('has the figures that docs/reproduction.md shows', () => {
    const text = readFileSync('docs/reproduction.md', 'utf8');
    const shown = modelTables(result)
      .slice(1)
      .filter((t) => t.head.length > 1)
      .flatMap((t) => t.rows.map((r) => `| ${r.slice(0, 4).join(' | ')} |`));
    for (const row of shown) expect(text).toContain(row);
  });
});

describe('counts of a result', () => {
  const counted = () => {
    const r = exampleResult();
    r.touches = [
      {
        ...touchSample({ variant: 'l2-vanilla', pages: 100 }),
        faultCosts: [
          {
            by: 'L0' as const,
            faults: 100,
            switches: 2,
            instructions: 600_000,
            l0Instructions: 6000,
            l1Instructions: 0,
          },
          {
            by: 'L1' as const,
            faults: 100,
            switches: 14,
            instructions: 18_000_000,
            l0Instructions: 1,
            l1Instructions: 1,
          },
        ],
      },
      {
        ...touchSample({ variant: 'l2-default', pages: 100 }),
        faultCosts: [
          {
            by: 'L0' as const,
            faults: 2,
            switches: 2,
            instructions: 200_000,
            l0Instructions: 1,
            l1Instructions: 0,
          },
        ],
      },
    ];
    return resultSchema().parse(r);
  };

  it('are exits and instructions for a page, and a page that is cleared where L1 answers', () => {
    expect(countsOf(counted())).toEqual({
      vendor: 'amd',
      rows: [
        { what: 'l2-vanilla', count: { exits: 8, instructions: 186_000, cleared: 1 } },
        { what: 'l2-default', count: { exits: 0.02, instructions: 2000, cleared: 0 } },
      ],
    });
  });

  it('are those of time in instructions where faults were not counted, and are refused in real time', () => {
    const r = exampleResult();
    expect(() => countsOf(r)).toThrow("a result of 'bench npf --count'");
    r.environment.clock = 'instructions';
    const { rows } = countsOf(r);
    expect(rows.find((x) => x.what === 'l2-group1')?.count).toMatchObject({
      instructions: 150_000,
      cleared: 0,
    });
  });

  it('are what is predicted instead of the recorded ones', () => {
    const { predictions } = modelOf(countsOf(counted()));
    expect(predictions.map((p) => [p.what, p.checked])).toEqual([
      ['l2-vanilla', false],
      ['l2-default', false],
    ]);
  });
});
