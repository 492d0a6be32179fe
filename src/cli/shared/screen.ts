/** Tables that are shown again and again: drawn over the last one on a terminal, block after block elsewhere. */
import { writeOut, writeScreen } from '../../core/output.ts';
import { visibleLine } from '../../core/visible.ts';

export interface LiveTable {
  /** Columns of the terminal; undefined without one. */
  readonly columns: number | undefined;
  show(lines: readonly string[]): void;
  /** Shows the cursor again. The last table stays. */
  end(): void;
}

/** On standard output. Hides the cursor until `end()`. */
export function liveTable(): LiveTable {
  const { stdout } = process;
  if (!stdout.isTTY)
    return { columns: undefined, show: (lines) => writeOut(`${lines.join('\n')}\n\n`), end: () => {} };
  writeScreen('\x1b[?25l\x1b[2J');
  return {
    get columns() {
      return stdout.columns;
    },
    show: (lines) => writeScreen(drawn(lines, stdout)),
    end: () => writeScreen('\x1b[?25h'),
  };
}

/** From the upper left corner, clearing what the last one left; what does not fit the screen is marked. */
export function drawn(lines: readonly string[], to: { rows?: number; columns?: number }): string {
  const { rows = 24, columns: width = 80 } = to;
  return `\x1b[H${lines
    .slice(0, rows - 1)
    .map((l) => `${cutLine(visibleLine(l), width - 1)}\x1b[K\n`)
    .join('')}\x1b[J`;
}

/** At most so many characters, with a mark where some were left out: never in the middle of a figure. */
function cutLine(line: string, width: number): string {
  const all = [...line];
  if (all.length <= width) return line;
  const kept = all.slice(0, Math.max(0, width - 1)).join('');
  // a figure of which digits are missing would be another one
  return `${/[\d.,%kMG]/.test(all[width - 1] ?? '') ? kept.replace(/[\d.,]+$/, '') : kept}…`;
}
