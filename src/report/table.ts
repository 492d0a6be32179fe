/** A plain table for the terminal: first column left, the others right, two spaces between. */
import { visibleLine } from '../core/visible.ts';

export interface Table {
  title: string;
  head: readonly string[];
  rows: readonly (readonly string[])[];
}

export function formatTable(t: Table): string {
  const all = [t.head, ...t.rows].map((r) => r.map(visibleLine));
  const widths = t.head.map((_, i) => Math.max(...all.map((r) => width(r[i] ?? ''))));
  const line = (row: readonly string[]): string =>
    widths
      .map((w, i) => {
        const cell = row[i] ?? '';
        const pad = ' '.repeat(w - width(cell));
        return i === 0 ? cell + pad : pad + cell;
      })
      .join('  ')
      .trimEnd();
  const rule = '─'.repeat(widths.reduce((a, b) => a + b, 0) + 2 * (widths.length - 1));
  const [head = [], ...rows] = all;
  return [t.title, line(head), rule, ...rows.map(line)].join('\n');
}

/** Columns that a terminal gives the text; our texts have no wide or combining characters. */
function width(text: string): number {
  return [...text].length;
}
