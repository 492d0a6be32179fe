/** The tables of docs/kernel-support.md, out of the cells that have been run. Pure. */
import { MATRIX_HOOKS } from '../bench/matrix/run.ts';
import type { MatrixCell, MatrixColumn, MatrixHook } from '../bench/matrix/run.ts';
import { HyperturtleError } from '../core/errors.ts';
import { byNumbers } from '../core/nested-kvm.ts';

export const MATRIX_BEGIN = '<!-- hyperturtle bench matrix: begin -->';
export const MATRIX_END = '<!-- hyperturtle bench matrix: end -->';

const NAMES: Readonly<Record<MatrixHook, string>> = {
  npf: '`npf`, 4 KiB',
  large: '`npf`, 2 MiB',
  exit: '`exit`',
  sample: '`sample`',
  net: '`xdp`, `tc`',
};

const cellKey = (c: Pick<MatrixCell, 'kernel' | 'vendor' | 'hook'>): string =>
  `${c.kernel} ${c.vendor} ${c.hook}`;
const columnName = (c: MatrixColumn): string => `${c.vendor === 'amd' ? 'AMD' : 'Intel'}, ${c.kernel}`;
/**
 * `more` in place of cells of the same kernel, vendor and hook; in the order of the table. A cell whose lab did not start is kept
 * only where there is no other.
 */
export function mergedCells(cells: readonly MatrixCell[], more: readonly MatrixCell[]): MatrixCell[] {
  const all = new Map<string, MatrixCell>();
  for (const c of [...cells, ...more]) {
    const kept = all.get(cellKey(c));
    if (kept === undefined || kept.state === 'not run' || c.state !== 'not run') all.set(cellKey(c), c);
  }
  return [...all.values()].sort(
    (a, b) =>
      a.vendor.localeCompare(b.vendor, 'en') ||
      byNumbers(a.kernel, b.kernel) ||
      MATRIX_HOOKS.indexOf(a.hook) - MATRIX_HOOKS.indexOf(b.hook),
  );
}

/** Hooks by kernel and vendor: only what ran says so. */
function overview(cells: readonly MatrixCell[]): string[] {
  const columns = new Map<string, MatrixColumn>(cells.map((c) => [columnName(c), c]));
  const state = (column: MatrixColumn, hook: MatrixHook): string => {
    const c = cells.find((x) => cellKey(x) === cellKey({ ...column, hook }));
    if (c !== undefined && c.state !== 'not run') return c.state === 'run' ? 'run' : '**failed**';
    return hook === 'net' && column.vendor === 'intel' ? 'not run: no vendor in it' : 'not run';
  };
  const line = (hook: MatrixHook): string =>
    row([NAMES[hook], ...[...columns.values()].map((c) => state(c, hook))]);
  return [row(['hook', ...columns.keys()]), `|---|${'---|'.repeat(columns.size)}`, ...MATRIX_HOOKS.map(line)];
}

function details(cells: readonly MatrixCell[]): string[] {
  const found = (c: MatrixCell): string => {
    if (c.state === 'run') return c.found;
    return c.state === 'failed' ? `**failed**: ${c.found}` : `not run: ${c.found}`;
  };
  const line = (c: MatrixCell): string =>
    row([columnName(c), NAMES[c.hook], found(c), String(c.seconds), c.date]);
  return [row(['kernel', 'hook', 'counted', 'seconds', 'date']), '|---|---|---|---|---|', ...cells.map(line)];
}

const row = (cells: readonly string[]): string => `| ${cells.map(markdown).join(' | ')} |`;

/** A line of text that is no end of a cell or a line, nor the mark at which the block of the document ends. */
const markdown = (text: string): string =>
  text
    .replaceAll(/[\\|]/g, '\\$&')
    .replaceAll('<', '&lt;')
    .replaceAll(/\s*[\r\n]\s*/g, ' ');

/** What each column ran on. */
function machines(cells: readonly MatrixCell[]): string[] {
  const ran = cells.filter((c) => c.state !== 'not run');
  return [...new Set(ran.map((c) => markdown(`- ${columnName(c)}: ${c.on}`)))];
}

export function matrixTable(cells: readonly MatrixCell[]): string {
  return [...overview(cells), '', ...details(cells), '', ...machines(cells)].join('\n');
}

/** The document with the tables in its block. */
export function withMatrix(document: string, cells: readonly MatrixCell[]): string {
  const [begin, end] = [document.indexOf(MATRIX_BEGIN), document.indexOf(MATRIX_END)];
  if (begin < 0 || end < begin)
    throw new HyperturtleError('HT_CONFIG', `the document has no block ${MATRIX_BEGIN}`);
  return `${document.slice(0, begin)}${MATRIX_BEGIN}\n\n${matrixTable(cells)}\n\n${document.slice(end)}`;
}
