/** `bench model` as a process: its exit status, and what it says of a file that is no result. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Command } from 'commander';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { register } from '../../../src/cli/bench/command.ts';
import * as output from '../../../src/core/output.ts';
import { exampleResult } from '../../support/bench-samples.ts';

let dir: string;
let said: string;
beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), 'ht-model-'));
  said = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    said += String(text);
    return true;
  });
});
afterEach(() => rmSync(dir, { recursive: true }));

const model = async (...args: string[]): Promise<void> => {
  const program = new Command('hyperturtle').exitOverride();
  register(program, '0');
  await program.parseAsync(['bench', 'model', ...args], { from: 'user' });
};

describe('bench model', () => {
  it('shows costs with sources, checks and predictions, and writes them', async () => {
    const file = path.join(dir, 'model.json');
    await model('--json', file);
    expect(said).toMatch(/USENIX ATC 2025/);
    expect(said).toMatch(/A model, no measurement/);
    const { benchmark, checks, refusal } = JSON.parse(readFileSync(file, 'utf8')) as {
      benchmark: string;
      checks: unknown[];
      refusal: string | null;
    };
    expect([benchmark, checks.length, refusal]).toEqual(['model', 4, null]);
    expect(process.exitCode).toBeUndefined();
  });

  it.each([
    ['no JSON', 'x', 'HT_CONFIG'],
    ['another JSON', '{"benchmark":"huge"}', 'HT_CONFIG'],
    ['a result in real time without counted faults', JSON.stringify(exampleResult()), 'HT_CONFIG'],
  ])('refuses %s', async (_, text, code) => {
    const file = path.join(dir, 'x.json');
    writeFileSync(file, text);
    await expect(model('--from', file)).rejects.toMatchObject({ code });
    await expect(model('--from', file)).rejects.toThrow(/result of 'bench npf --count/);
  });

  it('refuses a file that is not there', async () => {
    await expect(model('--from', path.join(dir, 'none'))).rejects.toMatchObject({ code: 'HT_NOT_FOUND' });
  });
});

describe('a model that does not give what the paper measured', () => {
  it('says so and ends with 1', async () => {
    const rows = await import('../../../src/bench/model/rows.ts');
    const { PUBLISHED_COSTS } = await import('../../../src/bench/model/costs.ts');
    const slow = PUBLISHED_COSTS.map((c) => ({ ...c, value: c.value * 9, low: c.low * 9, high: c.high * 9 }));
    const wrong = rows.modelOf(undefined, slow);
    vi.spyOn(rows, 'modelOf').mockReturnValue(wrong);
    const err = vi.spyOn(output, 'writeErr').mockImplementation(() => {});
    try {
      await model();
      expect(process.exitCode).toBe(1);
      expect(err.mock.calls.flat().join('')).toMatch(
        /it predicts nothing: EPT fault, nested: 28.39 us measured/,
      );
      expect(said).not.toMatch(/A model, no measurement/);
    } finally {
      process.exitCode = undefined;
    }
  });
});
