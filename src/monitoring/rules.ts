/** Prometheus's alert rules, as the file that `rule_files` names. */
import { stringify } from 'yaml';
import { ALERTS } from './alerts.ts';
import type { Alert } from './alerts.ts';
import type { Jobs } from './promql.ts';

interface RuleOptions {
  jobs: Jobs;
  /** The services whose rules are wanted. */
  of: readonly (keyof Jobs)[];
  /** Address of the documents, for links. */
  docs: string;
}

export function rulesFile({ jobs, of, docs }: RuleOptions): string {
  const all: [string, Alert][] = Object.entries(ALERTS);
  const groups = of.map((who) => ({
    name: `hyperturtle-${who}`,
    rules: all
      .filter(([, a]) => a.of === who)
      .map(([alert, a]) => ({
        alert,
        expr: a.expr(jobs),
        for: a.for,
        labels: { severity: a.severity },
        annotations: { summary: a.summary, runbook_url: `${docs.replace(/\/+$/, '')}/${a.runbook}` },
      })),
  }));
  return stringify({ groups }, { lineWidth: 0 });
}
