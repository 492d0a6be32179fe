/** Tables that fit a terminal: what is least useful is left out, and said to be; no figure is ever cut. */
import { visibleLine } from '../../core/visible.ts';

export interface Column {
  head: string;
  cells: readonly string[];
  /** The larger, the sooner it is left out; the column of rank 0 stays. */
  rank: number;
  /** Text that may be cut to so many characters. Left out: figures, which are whole or not there. */
  least?: number;
  /** Its text is a list, cut between its parts. */
  list?: boolean;
}

const GAP = '  ';
const widthOf = (c: Column): number => Math.max(c.head.length, ...c.cells.map((t) => t.length));
const leastOf = (c: Column): number =>
  c.least === undefined ? widthOf(c) : Math.min(widthOf(c), Math.max(c.least, c.head.length));
const sum = (columns: readonly Column[], of: (c: Column) => number): number =>
  columns.reduce((n, c) => n + of(c), GAP.length * (columns.length - 1));

/** Lines of at most `width` characters; an empty table is one line, `empty`. */
export function fitted(all: readonly Column[], width: number, empty: string): string[] {
  if (all[0] === undefined || all[0].cells.length === 0) return [empty];
  let shown = all.map((c) => ({ ...c, cells: c.cells.map(visibleLine) }));
  const out: string[] = [];
  while (shown.length > 1 && sum(shown, leastOf) > width) {
    const last = shown.reduce((a, b) => (b.rank >= a.rank ? b : a));
    out.unshift(last.head);
    shown = shown.filter((c) => c !== last);
  }
  // what is left of the width goes to the texts, in their order
  let left = width - sum(shown, leastOf);
  const widths = shown.map((c) => {
    const more = Math.max(0, Math.min(left, widthOf(c) - leastOf(c)));
    left -= more;
    return leastOf(c) + more;
  });
  const line = (cell: (c: Column) => string): string =>
    shown
      .map((c, i) => {
        const text = cell(c);
        if (c.least === undefined) return text.padStart(widths[i]!);
        return (c.list ? cutList : cutText)(text, widths[i]!).padEnd(widths[i]!);
      })
      .join(GAP)
      .trimEnd();
  const rows = all[0].cells.map((_, r) => line((c) => c.cells[r] ?? ''));
  const note = out.length > 0 ? wrapped(`… wider: ${out.join(', ')}`.split(/(?<=,) /), ' ', width) : [];
  return [line((c) => c.head), ...rows, ...note];
}

/** At most so many characters, with a mark where some were left out. */
function cutText(text: string, width: number): string {
  return text.length <= width ? text : `${text.slice(0, Math.max(0, width - 1))}…`;
}

/** As many parts of `A 1, B 2` as there is room for, each whole. */
function cutList(text: string, width: number): string {
  if (text.length <= width) return text;
  let kept = '';
  for (const part of text.split(/(?<=, )/)) {
    if (kept.length + part.length + 1 > width) break;
    kept += part;
  }
  return `${kept}…`;
}

/** Parts on as few lines as hold them; one that is longer than a line is cut between its words. */
export function wrapped(parts: readonly string[], gap: string, width: number): string[] {
  const lines: string[] = [];
  for (const part of parts.map(visibleLine)) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + gap.length + part.length <= width)
      lines[lines.length - 1] = `${last}${gap}${part}`;
    else if (part.length <= width || !part.includes(' ')) lines.push(cutWord(part, width));
    else lines.push(...wrapped(part.split(' '), ' ', width));
  }
  return lines;
}

const cutWord = (word: string, width: number): string =>
  /^[\d.,]+%?$/.test(word) ? word : cutText(word, width);
