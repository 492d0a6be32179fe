/** The dashboard as JSON that Grafana imports. */
import { series } from './promql.ts';
import type { Jobs } from './promql.ts';
import { VARIABLES, rowsOf } from './panels.ts';
import type { Panel } from './panels.ts';

interface DashboardOptions {
  jobs: Jobs;
  /** The services whose panels are wanted. */
  of: readonly (keyof Jobs)[];
}

const DATASOURCE = { type: 'prometheus', uid: '${datasource}' };
/** Grafana migrates a dashboard of an older schema when it reads one. */
const SCHEMA_VERSION = 39;
const COLUMNS = 24;
const SIZE = { stat: { w: 3, h: 4 }, lines: { w: 8, h: 8 } } as const;

/** With what Grafana would fill in, as its schema wants it. */
const OPTIONS = {
  stat: {
    reduceOptions: { values: false, calcs: ['lastNotNull'], fields: '' },
    ...{ graphMode: 'none', colorMode: 'value', justifyMode: 'auto', textMode: 'auto', orientation: 'auto' },
    ...{ wideLayout: true, showPercentChange: false, percentChangeColorMode: 'standard' },
  },
  lines: {
    legend: { displayMode: 'list', placement: 'bottom', showLegend: true, calcs: [] },
    tooltip: { mode: 'multi', sort: 'desc' },
  },
} as const;

export function dashboardJson({ jobs, of }: DashboardOptions): string {
  const dashboard = {
    uid: 'hyperturtle',
    title: 'HyperTurtle',
    tags: ['hyperturtle'],
    schemaVersion: SCHEMA_VERSION,
    editable: true,
    refresh: '1m',
    time: { from: 'now-6h', to: 'now' },
    annotations: { list: [] },
    templating: { list: variables(of) },
    panels: laidOut(jobs, of),
  };
  return `${JSON.stringify(dashboard, null, 2)}\n`;
}

function variables(of: readonly (keyof Jobs)[]): object[] {
  const datasource = { name: 'datasource', type: 'datasource', query: 'prometheus', label: 'Data source' };
  if (!of.includes('host')) return [datasource];
  const labels = Object.entries(VARIABLES).map(([name, metric]) => {
    const query = `label_values(${series(metric)}, ${name})`;
    return {
      ...{ name, label: name, type: 'query', datasource: DATASOURCE, definition: query },
      query: { query, refId: name },
      ...{ refresh: 2, sort: 1, multi: true, includeAll: true, allValue: '.*' },
      current: { text: 'All', value: '$__all' },
    };
  });
  return [datasource, ...labels];
}

/** Rows from the top, panels from the left. */
function laidOut(jobs: Jobs, of: readonly (keyof Jobs)[]): object[] {
  const panels: object[] = [];
  let y = 0;
  const add = (panel: object, at: { x: number; w: number; h: number }): void => {
    panels.push({ id: panels.length + 1, ...panel, gridPos: { ...at, y } });
  };
  for (const row of rowsOf(jobs).filter((r) => of.includes(r.of))) {
    add({ type: 'row', title: row.title, collapsed: false, panels: [] }, { x: 0, w: COLUMNS, h: 1 });
    y += 1;
    let x = 0;
    let height = 0;
    for (const panel of row.panels) {
      const { w, h } = SIZE[panel.kind];
      if (x + w > COLUMNS) {
        y += height;
        x = 0;
        height = 0;
      }
      add(panelJson(panel), { x, w, h });
      x += w;
      height = Math.max(height, h);
    }
    y += height;
  }
  return panels;
}

function panelJson({ kind, title, unit, redFrom, queries }: Panel): object {
  const steps = [
    { color: kind === 'stat' ? 'text' : 'green', value: null },
    ...(redFrom === undefined ? [] : [{ color: 'red', value: redFrom }]),
  ];
  return {
    type: kind === 'stat' ? 'stat' : 'timeseries',
    title,
    datasource: DATASOURCE,
    fieldConfig: {
      defaults: {
        unit: unit ?? 'short',
        min: 0,
        thresholds: { mode: 'absolute', steps },
      },
      overrides: [],
    },
    options: OPTIONS[kind],
    targets: queries.map(([expr, legendFormat], i) => ({
      refId: String.fromCharCode('A'.charCodeAt(0) + i),
      datasource: DATASOURCE,
      ...{ expr, legendFormat, range: kind === 'lines', instant: kind === 'stat' },
    })),
  };
}
