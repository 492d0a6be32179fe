import { describe, expect, it } from 'vitest';
import { duration, number, percent } from '../../../src/report/format.ts';
import { htmlReport } from '../../../src/report/html.ts';
import { caveat, headline } from '../../../src/report/sentences.ts';
import { decades, escapeXml, logScale, roundTicks } from '../../../src/report/svg.ts';
import { formatTable } from '../../../src/report/table.ts';
import { barTable, faultCostTable, switchTable, touchTable } from '../../../src/report/tables.ts';
import { terminalReport } from '../../../src/report/terminal.ts';
import { VARIANTS, resultSchema } from '../../../src/bench/first-touch/schema.ts';
import { exampleResult, touchSample } from '../../support/bench-samples.ts';

describe('numbers in the report', () => {
  it('have three digits and no exponent', () => {
    expect([1234.5, 12.345, 0.1875, 0, 100_000, 0.000123].map(number)).toEqual([
      '1,230',
      '12.3',
      '0.188',
      '0',
      '100,000',
      '0.000123',
    ]);
    expect(number(NaN)).toBe('–');
  });

  it('have the unit that fits', () => {
    expect([850, 17_000, 999_900, 3_100_000, 25_600_000_000].map(duration)).toEqual([
      '850 ns',
      '17 µs',
      '1 ms',
      '3.1 ms',
      '25.6 s',
    ]);
    expect(percent(0.956)).toBe('95.6%');
  });
});

describe('tables on the terminal', () => {
  it('line up, the first column left and the others right', () => {
    expect(
      formatTable({
        title: 'T',
        head: ['', 'n'],
        rows: [
          ['abc', '1'],
          ['d', '22'],
        ],
      }),
    ).toBe(['T', '      n', '───────', 'abc   1', 'd    22'].join('\n'));
  });

  it('show every variant in every order that was measured, and nothing else', () => {
    const r = exampleResult();
    const first = touchTable(r).rows.map((row) => `${row[0]}/${row[1]}`);
    expect(new Set(first).size).toBe(first.length);
    expect(first).toContain('L2 vanilla/sequential');
    expect(first).toContain('L2 hyperupcall, groups/second touch');
    expect(first).not.toContain('L1 itself (not nested)/scattered');
    expect(switchTable(r).rows.some((row) => row[0]!.startsWith('L1'))).toBe(false);
  });

  it('say which bars are not met', () => {
    const r = exampleResult();
    expect(barTable(r).rows.map((row) => row[3])).not.toContain('NOT MET');
    r.summary.firstTouchSpeedup = 3;
    expect(barTable(r).rows.find((row) => row[3] === 'NOT MET')?.[0]).toMatch(/first touch, sequential/);
  });

  it('show a goal that was not reached as that, and neither hide it nor call it a bar', () => {
    const r = exampleResult();
    const row = (): readonly string[] | undefined =>
      barTable(r).rows.find(([what]) => what === 'world switches per page, sequential');
    r.summary.switchesPerPageSequential = 0.07;
    expect(row()).toEqual([
      ...['world switches per page, sequential', '0.07', '≤ 0.1', 'met'],
      ...['≤ 0.05', 'not reached'],
    ]);
    r.summary.switchesPerPageSequential = 0.048;
    expect(row()?.slice(-2)).toEqual(['≤ 0.05', 'reached']);
    r.parameters.largeFrames = 72;
    expect(row()?.slice(-2)).toEqual(['≤ 0.01', 'not reached']);
    r.summary.firstTouchSpeedupOverThp = 0.8;
    const goalOnly = barTable(r).rows.find(([what]) => what?.includes('huge pages'));
    expect(goalOnly?.slice(1)).toEqual(['0.8', '', '', '≥ 2.5', 'not reached']);
  });

  it('show what a fault costs in instructions where that was counted, each round that differs', () => {
    const r = exampleResult();
    expect(terminalReport(r, undefined)).not.toContain('Instructions from a fault');
    const pages = 2048;
    r.touches = [1, 2].map((round) => ({
      ...touchSample({ variant: 'l2-default', round, pages }),
      faultCosts: [
        {
          by: 'L0',
          faults: 32,
          switches: 2,
          instructions: 64 * pages * round,
          l0Instructions: 114_000 + round,
          l1Instructions: 0,
        },
      ],
    }));
    expect(faultCostTable(r).rows).toEqual([
      ['L2 hyperupcall, groups', 'sequential', 'L0', '32', '2', '114,001, 114,002', '0', '96'],
    ]);
    expect(terminalReport(r, undefined)).toContain('Instructions from a fault');
  });

  it('name the frames of 2 MiB where L1 keeps some', () => {
    const r = exampleResult();
    r.parameters.largeFrames = 48;
    expect(touchTable(r).rows.map((row) => row[0])).toContain('L2 hyperupcall, 2 MiB frames');
    r.parameters.largeFrames = 'auto';
    expect(touchTable(r).rows.map((row) => row[0])).toContain('L2 hyperupcall, 2 MiB frames');
  });

  it('end with the path of the report and one sentence', () => {
    const lines = terminalReport(exampleResult(), '/x/report.html').trimEnd().split('\n');
    expect(lines.at(-2)).toBe('Report: /x/report.html');
    expect(lines.at(-1)).toMatch(/^With the npf hyperupcall.*times faster.*\.$/);
  });
});

describe('sentences', () => {
  it('do not praise a boot that became slower', () => {
    expect(headline({ touches: [], boots: [], summary: { bootReduction: -0.1 } })).toMatch(/10% more time/);
  });
  it('say so when nothing was measured', () => {
    expect(headline({ touches: [], boots: [], summary: {} })).toBe('Nothing was measured.');
  });
});

describe('what is said of an emulator', () => {
  it('names it, and what passed the time', () => {
    expect(caveat({ accelerator: 'tcg', clock: 'instructions' })).toBe(
      'All levels ran emulated (QEMU TCG), and their time was counted in instructions. Absolute times mean little; ratios measured side by side and counts of exits do.',
    );
    expect(caveat({ accelerator: 'tcg', clock: 'real' })).toMatch(/emulated \(QEMU TCG\)\. /);
    expect(caveat({ accelerator: 'bochs', clock: 'instructions' })).toMatch(/emulated \(Bochs\), and their/);
  });
  it('is nothing where there is none, and no clock where an older result does not name it', () => {
    expect(caveat({ accelerator: 'kvm', clock: 'real' })).toBeUndefined();
    expect(caveat({ accelerator: 'tcg' })).toMatch(/emulated \(QEMU TCG\)\. /);
  });
});

describe('scales of the plots', () => {
  it('are logarithmic where they say so', () => {
    const x = logScale([1, 10_000], [0, 400]);
    expect([1, 10, 100, 10_000].map((v) => Math.round(x(v)))).toEqual([0, 100, 200, 400]);
    expect(decades(900, 2e6)).toEqual([1e3, 1e4, 1e5, 1e6]);
  });
  it('have round ticks that reach the largest value', () => {
    expect(roundTicks(8.2)).toEqual([0, 2, 4, 6, 8, 10]);
    expect(roundTicks(0)).toEqual([0, 1]);
  });
});

describe('HTML report', () => {
  const html = htmlReport(exampleResult());

  it('needs nothing from outside', () => {
    expect(html).not.toMatch(/<script|<link|@import|url\(|https?:/);
  });

  it('has a colour for each variant', () => {
    for (const v of VARIANTS)
      expect(html, v).toMatch(new RegExp(`\\.curve\\.s-${v} .*\\.bar\\.s-${v} `, 's'));
  });

  it('describes every plot for those who cannot see it', () => {
    const plots = html.match(/<svg [^>]*role="img"/g) ?? [];
    expect(plots.length).toBe(6);
    expect((html.match(/<desc /g) ?? []).length).toBe(plots.length);
    expect(html).toMatch(/<html lang="en">/);
  });

  it('has no coordinate that is not a number, and escapes what it was given', () => {
    expect(html).not.toMatch(/NaN|Infinity|undefined/);
    const r = exampleResult();
    r.environment.hostCpuModel = '<b>&';
    expect(htmlReport(r)).toContain('&lt;b&gt;&amp;');
    expect(escapeXml('"')).toBe('&quot;');
  });

  it('can be made of a run that measured only one thing', () => {
    const r = exampleResult();
    expect(htmlReport({ ...r, boots: [] })).not.toContain('id="boot-t"');
    expect(htmlReport({ ...r, touches: [] })).not.toContain('id="switches-t"');
  });

  it('is made of what the schema of the result file allows', () => {
    const r = exampleResult();
    expect(resultSchema().parse(JSON.parse(JSON.stringify(r)))).toEqual(r);
  });
});
