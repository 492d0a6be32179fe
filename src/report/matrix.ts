/** The tables of docs/kernel-support.md, out of the cells that have been run. Pure. */
import { MATRIX_HOOKS } from '../bench/matrix/run.ts';
import type { MatrixCell, MatrixHook } from '../bench/matrix/run.ts';
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

type Column = Pick<MatrixCell, 'kernel' | 'vendor'>;

const cellKey = (c: Pick<MatrixCell, 'kernel' | 'vendor' | 'hook'>): string =>
  `${c.kernel} ${c.vendor} ${c.hook}`;
const columnName = (c: Column): string => `${c.vendor === 'amd' ? 'AMD' : 'Intel'}, ${c.kernel}`;
/** `more` in place of cells of the same kernel, vendor and hook; in the order of the table. */
export function mergedCells(cells: readonly MatrixCell[], more: readonly MatrixCell[]): MatrixCell[] {
  const all = new Map([...cells, ...more].map((c) => [cellKey(c), c]));
  return [...all.values()].sort(
    (a, b) =>
      a.vendor.localeCompare(b.vendor, 'en') ||
      byNumbers(a.kernel, b.kernel) ||
      MATRIX_HOOKS.indexOf(a.hook) - MATRIX_HOOKS.indexOf(b.hook),
  );
}

/** Hooks by kernel and vendor: only what ran says so. */
function overview(cells: readonly MatrixCell[]): string[] {
  const columns = new Map<string, Column>(cells.map((c) => [columnName(c), c]));
  const state = (column: Column, hook: MatrixHook): string => {
    const c = cells.find((x) => cellKey(x) === cellKey({ ...column, hook }));
    if (c !== undefined) return c.state === 'run' ? 'run' : '**failed**';
    return hook === 'net' && column.vendor === 'intel' ? 'not run: no vendor in it' : 'not run';
  };
  const row = (hook: MatrixHook): string =>
    `| ${[NAMES[hook], ...[...columns.values()].map((c) => state(c, hook))].join(' | ')} |`;
  return [
    `| hook | ${[...columns.keys()].join(' | ')} |`,
    `|---|${'---|'.repeat(columns.size)}`,
    ...MATRIX_HOOKS.map(row),
  ];
}

function details(cells: readonly MatrixCell[]): string[] {
  const row = (c: MatrixCell): string => {
    const found = `${c.state === 'run' ? '' : '**failed**: '}${c.found.replaceAll('|', '\\|')}`;
    return `| ${[columnName(c), NAMES[c.hook], found, c.seconds, c.date].join(' | ')} |`;
  };
  return ['| kernel | hook | counted | seconds | date |', '|---|---|---|---|---|', ...cells.map(row)];
}

/** What each column ran on. */
function machines(cells: readonly MatrixCell[]): string[] {
  return [...new Set(cells.map((c) => `- ${columnName(c)}: ${c.on}`))];
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
