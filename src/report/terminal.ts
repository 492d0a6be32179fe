/** The result as text. */
import type { BenchResult } from '../bench/first-touch/schema.ts';
import { caveat, headline } from './sentences.ts';
import { formatTable } from './table.ts';
import { allTables } from './tables.ts';

/** Tables only, with a blank line between. */
function terminalTables(r: BenchResult): string {
  return allTables(r).map(formatTable).join('\n\n');
}

/** What `npm run demo` ends with. */
export function terminalReport(r: BenchResult, reportPath: string | undefined): string {
  const note = caveat(r.environment);
  return [
    terminalTables(r),
    '',
    ...(note === undefined ? [] : [note]),
    ...(reportPath === undefined ? [] : [`Report: ${reportPath}`]),
    headline(r),
    '',
  ].join('\n');
}
