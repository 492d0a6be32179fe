/** Alert rules and the dashboard's queries, before Prometheus's own checker. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { ALERTS } from '../../src/monitoring/alerts.ts';
import type { AlertName } from '../../src/monitoring/alerts.ts';
import { dashboardJson } from '../../src/monitoring/grafana.ts';
import { rulesFile } from '../../src/monitoring/rules.ts';
import { CASES, JOBS } from '../support/alert-cases.ts';
import { promtool } from '../support/promtool.ts';

const tool = promtool();
const why = typeof tool === 'string' ? tool : undefined;
const ALL = { jobs: JOBS, of: ['host', 'agent', 'fleet'] } as const;
const TEST_MS = 300_000;
const DOCS = 'https://docs.example';
const NAMES = Object.keys(ALERTS) as AlertName[];

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'ht-rules-'));
  writeFileSync(path.join(dir, 'rules.yml'), rulesFile({ ...ALL, docs: DOCS }));
});
afterAll(() => rmSync(dir, { recursive: true }));

function run(...args: string[]): { status: number | null; output: string } {
  if (typeof tool === 'string') throw new Error(tool);
  const r = spawnSync(tool.program, args, { cwd: dir, env: tool.env, encoding: 'utf8' });
  return { status: r.status, output: r.stdout + r.stderr };
}

/** Judged every 5 minutes: promtool makes a database for each case, and a machine may be slow. */
function testRules(kind: 'firing' | 'silent'): { status: number | null; output: string } {
  const tests = NAMES.map((name) => ({
    name,
    interval: '1m',
    input_series: Object.entries(CASES[name][kind]).map(([series, values]) => ({ series, values })),
    alert_rule_test: [{ eval_time: '1h', alertname: name, ...expected(name, kind) }],
  }));
  writeFileSync(
    path.join(dir, `${kind}.yml`),
    stringify({ rule_files: ['rules.yml'], evaluation_interval: '5m', tests }),
  );
  return run('test', 'rules', `${kind}.yml`);
}

function expected(name: AlertName, kind: 'firing' | 'silent'): { exp_alerts?: object[] } {
  if (kind === 'silent') return {};
  const { labels, summary } = CASES[name];
  const { severity, runbook } = ALERTS[name];
  return {
    exp_alerts: [
      {
        exp_labels: { ...labels, severity },
        exp_annotations: { summary, runbook_url: `${DOCS}/${runbook}` },
      },
    ],
  };
}

describe.skipIf(why !== undefined)(`promtool${why ? ` (skipped: ${why})` : ''}`, () => {
  it('takes the rules', () => {
    const { status, output } = run('check', 'rules', '--lint=all', '--lint-fatal', 'rules.yml');
    expect(status, output).toBe(0);
    expect(output).toContain(`SUCCESS: ${NAMES.length} rules found`);
  });

  it(
    'fires each alert for made-up series, once, with its labels, summary and runbook',
    () => {
      const { status, output } = testRules('firing');
      expect(status, output).toBe(0);
    },
    TEST_MS,
  );

  it(
    'fires no alert for series that miss it by one',
    () => {
      const { status, output } = testRules('silent');
      expect(status, output).toBe(0);
    },
    TEST_MS,
  );

  it.each([
    ['host-daemon.md', 'hyperturtle-host'],
    ['fleet.md', 'hyperturtle-reconcile'],
  ])('takes the configuration that %s has for scrapes', (file, job) => {
    const [, config = ''] =
      /^```yaml\n(scrape_configs:\n[\s\S]*?)^```/m.exec(readFileSync(`docs/${file}`, 'utf8')) ?? [];
    expect(config).toContain(`job_name: ${job}\n`);
    // Debian's promtool is built without it
    const known = config.replace(/kubernetes_sd_configs: .*/, 'static_configs: [{targets: [a]}]');
    writeFileSync(path.join(dir, 'prometheus.yml'), `${known}rule_files: [rules.yml]\n`);
    const { status, output } = run('check', 'config', 'prometheus.yml');
    expect(status, output).toBe(0);
  });

  it('takes every query of the dashboard', () => {
    const { panels } = JSON.parse(dashboardJson(ALL)) as { panels: { targets?: { expr: string }[] }[] };
    const queries = panels.flatMap((p) => p.targets ?? []).map((t) => t.expr);
    expect(queries.length).toBeGreaterThan(30);
    const rules = queries.map((expr, i) => ({
      record: `query:${i}`,
      expr: expr.replaceAll('$__rate_interval', '5m').replaceAll(/\$(instance|vm)\b/g, '.*'),
    }));
    writeFileSync(path.join(dir, 'queries.yml'), stringify({ groups: [{ name: 'dashboard', rules }] }));
    const { status, output } = run('check', 'rules', 'queries.yml');
    expect(status, output).toBe(0);
    expect(output).toContain(`SUCCESS: ${queries.length} rules found`);
  });
});
