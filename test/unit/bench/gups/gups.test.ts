import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { fillTime, parseGups, updateRate } from '../../../../src/bench/gups/run.ts';
import type { GupsResult } from '../../../../src/bench/gups/run.ts';
import { PAPER_BENCHES } from '../../../../src/bench/paper/benches.ts';
import { gupsTable } from '../../../../src/report/gups.ts';
import { exampleResult } from '../../../support/bench-samples.ts';

const line = { mib: 4, updates: 1000, fillNs: 2e6, updateNs: 500_000, undoNs: 500_000, errors: 0 };
const result: GupsResult = {
  benchmark: 'gups',
  environment: exampleResult().environment,
  parameters: { rounds: 1, mib: 4, updates: 1000, l1MemoryMib: 2048, l1Cpus: 1, l2MemoryMib: 100 },
  samples: [
    { variant: 'l1', round: 0, ...line, updateNs: 250_000, undoNs: 250_000 },
    { variant: 'vanilla', round: 0, ...line },
    { variant: 'accelerated', round: 0, ...line, fillNs: 1e6, updateNs: 400_000, undoNs: 400_000 },
  ],
};

describe('random updates of memory', () => {
  it('are told as rates, beside the time to fill the table', () => {
    expect(updateRate(result, 'vanilla')).toBe(2);
    expect(fillTime(result, 'accelerated')).toBe(1);
    expect(updateRate({ samples: [] }, 'l1')).toBeUndefined();
    expect(gupsTable(result)).toMatch(/L2, accelerated.*2\.50.*1\.25x.*1\b/);
    const paper = PAPER_BENCHES.find((b) => b.name === 'gups');
    expect(paper?.figures(result)['gups']).toEqual({ nested: 2, accelerated: 2.5, direct: 4 });
    expect(paper?.about(result)).toContain('of 4 MiB');
  });

  it('are none when the table is wrong, or nothing was said', () => {
    expect(parseGups(`noise\n${JSON.stringify(line)}\n`)).toEqual(line);
    expect(() => parseGups(JSON.stringify({ ...line, errors: 3 }))).toThrow(/3 entries/);
    expect(() => parseGups('Killed')).toThrow(/'Killed' found/);
  });

  const compiler = spawnSync('gcc', ['--version']).status === 0;
  it.skipIf(!compiler)('are undone by the same updates, and their program refuses what it cannot do', () => {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'gups-'));
    try {
      const program = path.join(dir, 'gups');
      const flags = ['-std=gnu11', '-O2', '-Wall', '-Wextra', '-Werror'];
      expect(spawnSync('gcc', [...flags, 'c/l2/gups.c', '-o', program]).stderr.toString()).toBe('');
      const ran = spawnSync(program, ['2', '200000'], { encoding: 'utf8' });
      expect([ran.status, parseGups(ran.stdout)]).toMatchObject([0, { mib: 2, updates: 200_000, errors: 0 }]);
      for (const args of [['3', '1'], ['1', '-1'], ['1'], ['x', '1']])
        expect(spawnSync(program, args).status).toBe(2);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});
