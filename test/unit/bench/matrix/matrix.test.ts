/** What `hyperturtle bench matrix` keeps and refuses where no lab starts. */
import { Command } from 'commander';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { plannedCells, runMatrix } from '../../../../src/bench/matrix/run.ts';
import type { MatrixCell } from '../../../../src/bench/matrix/run.ts';
import { registerMatrix } from '../../../../src/cli/bench/matrix.ts';
import { silentProgress } from '../../../../src/core/progress.ts';
import { MATRIX_BEGIN, MATRIX_END } from '../../../../src/report/matrix.ts';

const kept = (hook: MatrixCell['hook']): MatrixCell => ({
  ...{ kernel: '6.1', vendor: 'amd', hook, state: 'run', found: '20 of 20' },
  ...{ seconds: 3, on: 'a lab', date: '2026-11-28' },
});

describe('a lab that does not start', () => {
  it('is an error of all its cells, which have not been run, and the next lab is tried', async () => {
    const cells: MatrixCell[] = [];
    const notes: string[] = [];
    const asked: unknown[] = [];
    await runMatrix(
      {
        ...{ kernels: ['6.1', '7.3'], vendors: ['amd', 'intel'], hooks: ['npf', 'net'] },
        progress: { ...silentProgress, note: (line) => void notes.push(line) },
        onCell: (cell) => void cells.push(cell),
      },
      (spec) => {
        asked.push([spec?.kernel, spec?.accel]);
        return Promise.reject(new Error('no\n  memory'));
      },
    );
    expect(asked).toEqual([
      ['6.1', undefined],
      ['6.1', 'bochs'],
      ['7.3', undefined],
      ['7.3', 'bochs'],
    ]);
    expect(cells.map((c) => `${c.kernel} ${c.vendor} ${c.hook} ${c.state}: ${c.found}`)).toEqual([
      '6.1 amd npf not run: no memory',
      '6.1 amd net not run: no memory',
      '6.1 intel npf not run: no memory',
      '7.3 amd npf not run: no memory',
      '7.3 amd net not run: no memory',
      '7.3 intel npf not run: no memory',
    ]);
    expect(notes[1]).toBe('x 6.1, intel: no lab: no memory');
  });

  it('ends the run when it was interrupted', async () => {
    const cells: MatrixCell[] = [];
    const spec = {
      ...{ kernels: ['6.1'], vendors: ['amd'] as const, hooks: ['npf'] as const },
      ...{ progress: silentProgress, signal: AbortSignal.abort(new Error('Ctrl-C')) },
      onCell: (cell: MatrixCell) => void cells.push(cell),
    };
    await expect(runMatrix(spec, () => Promise.reject(new Error('Ctrl-C')))).rejects.toThrow('Ctrl-C');
    expect(cells).toEqual([]);
  });
});

describe('hyperturtle bench matrix', () => {
  let dir: string;
  let out: string;
  beforeEach(() => {
    dir = mkdtempSync(path.join(os.tmpdir(), 'ht-matrix-'));
    vi.stubEnv('XDG_STATE_HOME', dir);
    // no lab starts where nothing can be kept
    vi.stubEnv('XDG_CACHE_HOME', '/proc/nowhere');
    out = '';
    vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
      out += String(text);
      return true;
    });
    vi.spyOn(process.stderr, 'write').mockImplementation(() => true);
  });
  afterEach(() => {
    vi.unstubAllEnvs();
    vi.restoreAllMocks();
    process.exitCode = 0;
    rmSync(dir, { recursive: true });
  });

  async function matrix(...args: string[]): Promise<void> {
    const program = new Command('bench').exitOverride();
    registerMatrix(program);
    for (const c of program.commands) c.configureOutput({ writeErr: () => {} }).exitOverride();
    await program.parseAsync(['matrix', ...args], { from: 'user' });
  }

  it('keeps what was found before of a lab that does not start, and ends with an error', async () => {
    const cells = path.join(dir, 'cells.json');
    const doc = path.join(dir, 'doc.md');
    writeFileSync(cells, JSON.stringify([kept('npf')]));
    writeFileSync(doc, `${MATRIX_BEGIN}\n${MATRIX_END}\n`);
    await matrix('--kernel', '6.1', '--cpu', 'amd', '--hook', 'npf,exit', '--cells', cells, '--doc', doc);
    expect(process.exitCode).toBe(1);
    const now = JSON.parse(readFileSync(cells, 'utf8')) as MatrixCell[];
    expect(now[0]).toEqual(kept('npf'));
    expect(now[1]).toMatchObject({ hook: 'exit', state: 'not run', on: 'no lab' });
    const table = readFileSync(doc, 'utf8');
    expect(table).toContain('| `npf`, 4 KiB | run |');
    expect(table).toContain('| `exit` | not run |');
    expect(table).not.toContain('no lab');
    expect(out).toMatch(/^\| AMD, 6\.1 \| `npf`, 4 KiB \| not run: /m);
  });

  it.each([
    [['--quick', '--cpu', 'intel'], /--quick' cannot be used with option '--cpu/],
    [['--quick', '--hook', 'exit'], /--quick' cannot be used with option '--hook/],
    [['--quick', '--cpu-model', 'tigerlake'], /--quick' cannot be used with option '--cpu-model/],
    [['--quick', '--kernel', '06.1'], /kernel '06\.1': expected a series/],
    [['--cpu', 'intel', '--hook', 'net'], /--hook net is for --cpu amd/],
    [['--l1-cpus', '2'], /--l1-cpus 2 is for --cpu amd/],
  ])('refuses %j before a lab is started', async (args, why) => {
    await expect(matrix(...args)).rejects.toThrow(why);
    expect(out).toBe('');
  });

  it('has with --quick the kernels that are asked for', async () => {
    await matrix('--quick', '--kernel', '7.3');
    expect(out.match(/^\| AMD, 7\.3 \|/gm)).toHaveLength(1);
    expect(plannedCells({ kernels: ['7.3'], vendors: ['amd'], hooks: ['npf'] })).toHaveLength(1);
  });
});
