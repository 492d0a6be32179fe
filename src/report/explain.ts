/** `--explain` of `bench start` and `bench net`: exits of L2 that entered L1, by what they were about and what would answer them. */
import { answerOf } from '../bench/shared/answers.ts';
import type { Answer } from '../bench/shared/answers.ts';
import { own } from '../core/own.ts';
import { number } from './format.ts';
import type { Table } from './table.ts';

export interface ExplainColumn {
  name: string;
  /** By what they were about. */
  counts: Readonly<Record<string, number>>;
  /** Starts, or round trips, that they are of. */
  of: number;
}

/** Named of each group. */
const NAMED = 3;

/** One row for each group, those with the most first. No rows where nothing was counted. */
export function explainTable(unit: string, columns: readonly ExplainColumn[]): Table {
  const counted = columns.filter((c) => c.of > 0);
  const groups = new Map<string, { answer: Answer; whats: string[] }>();
  for (const what of new Set(counted.flatMap((c) => Object.keys(c.counts)))) {
    const answer = answerOf(what);
    const group = groups.get(answer.group) ?? { answer, whats: [] };
    groups.set(answer.group, { answer, whats: [...group.whats, what] });
  }
  const per = (c: ExplainColumn, whats: readonly string[]): number =>
    whats.reduce((n, what) => n + (own(c.counts, what) ?? 0), 0) / c.of;
  const most = (whats: readonly string[]): number => Math.max(...counted.map((c) => per(c, whats)));
  const rows = [...groups.values()]
    .sort((a, b) => most(b.whats) - most(a.whats))
    .map(({ answer: { group, shipped, by }, whats }) => {
      const largest = [...whats].sort((a, b) => most([b]) - most([a])).slice(0, NAMED);
      return [
        group,
        ...counted.map((c) => number(per(c, whats))),
        whats.length === 1 ? '' : largest.map((w) => `${w} ${number(most([w]))}`).join(', '),
        shipped === undefined ? by : `${shipped} (shipped): ${by}`,
      ];
    });
  const all = (c: ExplainColumn): string => number(per(c, Object.keys(c.counts)));
  return {
    title: `Exits of L2 that entered L1, for ${unit}, by L1's own KVM`,
    head: ['', ...counted.map((c) => c.name), 'most of it', 'would be answered by'],
    rows: rows.length === 0 ? [] : [...rows, ['all', ...counted.map(all), '', '']],
  };
}
