import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
import { readCells } from '../../../src/bench/matrix/cells.ts';
import type { MatrixCell } from '../../../src/bench/matrix/run.ts';
import {
  MATRIX_BEGIN,
  MATRIX_END,
  matrixTable,
  mergedCells,
  withMatrix,
} from '../../../src/report/matrix.ts';

const cell = (kernel: string, vendor: 'amd' | 'intel', more: Partial<MatrixCell> = {}): MatrixCell => ({
  kernel,
  vendor,
  hook: 'npf',
  state: 'run',
  found: `counts of ${kernel}`,
  seconds: 3,
  on: 'a lab',
  date: '2026-11-28',
  ...more,
});

test('a column is a kernel of a vendor, in order of their numbers; what has not been run says so', () => {
  const cells = mergedCells(
    [],
    [cell('7.3', 'amd'), cell('6.1', 'intel'), cell('6.12', 'amd'), cell('6.2', 'amd')],
  );
  const lines = matrixTable(cells).split('\n');
  expect(lines[0]).toBe('| hook | AMD, 6.2 | AMD, 6.12 | AMD, 7.3 | Intel, 6.1 |');
  expect(lines[2]).toBe('| `npf`, 4 KiB | run | run | run | run |');
  expect(lines.find((l) => l.startsWith('| `exit`'))).toBe(
    '| `exit` | not run | not run | not run | not run |',
  );
  expect(lines.find((l) => l.startsWith('| `xdp`'))).toContain('not run: no vendor in it');
  expect(lines).toContain('| AMD, 6.12 | `npf`, 4 KiB | counts of 6.12 | 3 | 2026-11-28 |');
  expect(lines).toContain('- Intel, 6.1: a lab');
});

test('a cell that failed tells what it said, and a later run of it takes its place', () => {
  const failed = cell('7.3', 'amd', { state: 'failed', found: 'insmod: a | b' });
  expect(matrixTable([failed])).toContain('| `npf`, 4 KiB | **failed** |');
  expect(matrixTable([failed])).toContain('| **failed**: insmod: a \\| b |');
  expect(mergedCells([failed], [cell('7.3', 'amd')])).toEqual([cell('7.3', 'amd')]);
});

test('a cell whose lab did not start takes no place but its own', () => {
  const none = cell('7.3', 'amd', { state: 'not run', found: 'no memory', on: 'no lab' });
  for (const state of ['run', 'failed'] as const)
    expect(mergedCells([cell('7.3', 'amd', { state })], [none])).toEqual([cell('7.3', 'amd', { state })]);
  expect(mergedCells([none], [cell('7.3', 'amd')])).toEqual([cell('7.3', 'amd')]);
  expect(mergedCells([none], [{ ...none, found: 'no network' }])).toEqual([{ ...none, found: 'no network' }]);
  const table = matrixTable([none]);
  expect(table).toContain('| `npf`, 4 KiB | not run |');
  expect(table).toContain('| not run: no memory |');
  expect(table).not.toContain('no lab');
});

test('whatever a cell says, it is one cell of one line, and the block ends where it did', () => {
  const said = `a | b \\| c\r\nd\n\n${MATRIX_END} e`;
  const bad = cell('6.1', 'amd', { state: 'failed', found: said, on: 'x\ny' });
  const table = matrixTable([bad]);
  expect(table).toContain(
    '| **failed**: a \\| b \\\\\\| c d &lt;!-- hyperturtle bench matrix: end --> e | 3 |',
  );
  expect(table).toContain('- AMD, 6.1: x y');
  const document = withMatrix(`${MATRIX_BEGIN}\n${MATRIX_END}\nrest\n`, [bad]);
  expect(withMatrix(document, [bad])).toBe(document);
});

test('only the block of a document changes', () => {
  const document = `# A\n${MATRIX_BEGIN}\nold\n${MATRIX_END}\nrest\n`;
  const after = withMatrix(document, [cell('6.1', 'amd')]);
  expect(after).toContain(`# A\n${MATRIX_BEGIN}\n\n| hook | AMD, 6.1 |\n`);
  expect(after.endsWith(`\n${MATRIX_END}\nrest\n`)).toBe(true);
  expect(after).not.toContain('old');
  expect(withMatrix(after, [cell('6.1', 'amd')])).toBe(after);
  expect(() => withMatrix('no block', [])).toThrow(MATRIX_BEGIN);
});

test('a file of cells that is not there has none; one that is something else is told and stays', () => {
  const dir = mkdtempSync(path.join(tmpdir(), 'ht-matrix-'));
  try {
    const file = path.join(dir, 'cells.json');
    expect(readCells(file)).toEqual([]);
    writeFileSync(file, JSON.stringify([cell('6.1', 'amd')]));
    expect(readCells(file)).toEqual([cell('6.1', 'amd')]);
    for (const text of ['[{"kernel":', '{}', '[{"kernel": 6}]', '']) {
      writeFileSync(file, text);
      expect(() => readCells(file), text).toThrow(
        /cells\.json: cells of 'hyperturtle bench matrix' expected/,
      );
      expect(readFileSync(file, 'utf8')).toBe(text);
    }
    writeFileSync(file, 'null');
    expect(() => readCells(file)).toThrow(/expected: \w/); // not the beginning of a list
    expect(() => readCells(dir)).toThrow(/is a directory/);
    expect(() => readCells(path.join(file, 'below'))).toThrow(/cannot be read/);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test('a document without the block is told', () => {
  expect(() => withMatrix('# Other\n', [])).toThrow(/the document has no block/);
});
