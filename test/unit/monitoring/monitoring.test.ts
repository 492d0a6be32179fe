/** Alert rules and the dashboard, as they are printed. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { ALERTS } from '../../../src/monitoring/alerts.ts';
import { dashboardJson } from '../../../src/monitoring/grafana.ts';
import { series } from '../../../src/monitoring/promql.ts';
import { rulesFile } from '../../../src/monitoring/rules.ts';

const JOBS = { host: 'hosts', agent: 'agents', fleet: 'nodes' };
const ALL = ['host', 'agent', 'fleet'] as const;
interface Rules {
  groups: { name: string; rules: { alert: string; expr: string; annotations: Record<string, string> }[] }[];
}
interface Box {
  id: number;
  title: string;
  gridPos: { x: number; y: number; w: number; h: number };
  targets?: { expr: string; refId: string }[];
}
const rules = (of: readonly (keyof typeof JOBS)[], docs = '/docs'): Rules =>
  parse(rulesFile({ jobs: JOBS, of, docs })) as Rules;
const panels = (of: readonly (keyof typeof JOBS)[]): Box[] =>
  (JSON.parse(dashboardJson({ jobs: JOBS, of })) as { panels: Box[] }).panels;

/** As GitHub makes an anchor of a heading. */
const anchorOf = (heading: string): string =>
  heading
    .toLowerCase()
    .replace(/[^\w\- ]/g, '')
    .replaceAll(' ', '-');

describe('an alert', () => {
  it.each(Object.entries(ALERTS))('%s has a runbook that is a section of a document', (_, { runbook }) => {
    const [file = '', anchor] = runbook.split('#');
    const headings = [...readFileSync(`docs/${file}`, 'utf8').matchAll(/^#+ (.*)$/gm)];
    expect(headings.map(([, heading = '']) => anchorOf(heading))).toContain(anchor);
  });

  it('is told of in host-daemon.md, and no other is', () => {
    const told = [...readFileSync('docs/host-daemon.md', 'utf8').matchAll(/\bHyperTurtle[A-Z]\w+/g)];
    expect([...new Set(told.map(([name]) => name))].sort()).toEqual(Object.keys(ALERTS).sort());
  });
});

describe('rules', () => {
  it('are those of daemons, of agents or of both, with the jobs and the documents that are named', () => {
    expect(rules(['host', 'agent']).groups.map((g) => g.name)).toEqual([
      'hyperturtle-host',
      'hyperturtle-agent',
    ]);
    const [group, ...others] = rules(['agent'], 'https://docs.example/').groups;
    expect([group?.name, others]).toEqual(['hyperturtle-agent', []]);
    const down = group?.rules.find((r) => r.alert === 'HyperTurtleAgentDown');
    expect(down?.expr).toBe('up{job="agents"} == 0');
    expect(down?.annotations['runbook_url']).toBe(
      'https://docs.example/guest-agent.md#restarts-in-any-order',
    );
    const all = rules(ALL).groups.flatMap((g) => g.rules.map((r) => r.alert));
    expect(all.sort()).toEqual(Object.keys(ALERTS).sort());
  });
});

describe('a series', () => {
  it('of a counter ends in _total, and its labels are compared as they say', () => {
    expect(series('hyperturtle_host_requests', { vm: 'a"b', outcome: { not: 'ok' } })).toBe(
      'hyperturtle_host_requests_total{vm="a\\"b",outcome!="ok"}',
    );
    expect(series('hyperturtle_host_hook_runs', { hook: { matches: 'tc-.*' } })).toBe(
      'hyperturtle_host_hook_runs{hook=~"tc-.*"}',
    );
    expect(series('hyperturtle_agent_l2s')).toBe('hyperturtle_agent_l2s');
  });
});

describe('the dashboard', () => {
  const all = panels(ALL);

  it('has each panel in its own place, within 24 columns', () => {
    expect(new Set(all.map((p) => p.id)).size).toBe(all.length);
    const taken = new Map<string, string>();
    for (const { title, gridPos } of all) {
      expect(gridPos.x + gridPos.w, title).toBeLessThanOrEqual(24);
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++)
        for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
          expect(taken.get(`${x} ${y}`), title).toBeUndefined();
          taken.set(`${x} ${y}`, title);
        }
    }
  });

  it('filters by instance where it shows daemons, and by VM where there is one', () => {
    const queries = panels(['host']).flatMap((p) => p.targets ?? []);
    for (const { expr } of queries) expect(expr).toContain('instance=~"$instance"');
    expect(queries.filter((q) => q.expr.includes('vm=~"$vm"')).length).toBeGreaterThan(15);
  });

  it('has the rows of daemons or of agents alone where only these are asked for', () => {
    const titles = (of: readonly (keyof typeof JOBS)[]): string[] => panels(of).map((p) => p.title);
    expect(titles(['host'])).not.toContain('Guest hypervisors');
    expect(titles(['agent'])[0]).toBe('Guest hypervisors');
    expect(titles(['fleet'])[0]).toBe('Programs of a fleet');
    expect(ALL.flatMap((of) => titles([of]))).toEqual(all.map((p) => p.title));
    expect(dashboardJson({ jobs: JOBS, of: ['agent'] })).not.toContain('$instance');
  });
});
