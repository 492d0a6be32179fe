/** Text tables of the commands. */
import { visibleLine } from '../../core/visible.ts';

/** Columns side by side, left-aligned but for the numbers; an empty list is an empty text. */
export function columns(head: readonly string[], rows: readonly (readonly string[])[]): string {
  if (rows.length === 0) return '';
  // names of guests, files and maps: of one line each, or they could write lines of their own
  const all = [head, ...rows.map((r) => r.map(visibleLine))];
  const isNumber = head.map((_, i) => rows.every((r) => /^[-\d.,%]*[kMG]?$/.test(r[i] ?? '')));
  const widths = head.map((_, i) => Math.max(...all.map((r) => (r[i] ?? '').length)));
  return all
    .map((r) =>
      widths
        .map((w, i) => (isNumber[i] ? (r[i] ?? '').padStart(w) : (r[i] ?? '').padEnd(w)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
