/** The report: one HTML file that needs nothing else, readable in light and dark, on paper and by screen readers. */
import { PATTERNS } from '../bench/first-touch/schema.ts';
import type { BenchResult } from '../bench/first-touch/schema.ts';
import { bootChart, latencyBounds, latencyChart, legend, switchesChart } from './charts.ts';
import { maybe, number, percent } from './format.ts';
import { caveat, details, headline } from './sentences.ts';
import { STYLE } from './style.ts';
import { escapeXml } from './svg.ts';
import type { Table } from './table.ts';
import { barTable, bootTable, fallbackTable, switchTable, touchTable } from './tables.ts';

export function htmlReport(r: BenchResult): string {
  const bounds = latencyBounds(r);
  const latency = PATTERNS.filter((p) =>
    r.touches.some((s) => s.touch.pattern === p && s.touch.pass === 1),
  ).map((p) => latencyChart(r, p, bounds));
  const switches = switchesChart(r);
  const boot = bootChart(r);
  const sections = [
    latency.length > 0
      ? section(
          'How long one touch takes',
          'Share of first touches that were over within a time. Further left is faster; a step is a kind of touch. <em>Scattered</em> touches physical pages in random order; for the others the guest’s kernel chooses the frames.',
          `${legend(r)}<div class="panels">${latency.map((c) => `<figure>${c}</figure>`).join('')}</div>${htmlTable(touchTable(r))}`,
        )
      : '',
    switches === undefined
      ? ''
      : section(
          'World switches per page',
          'A fault that leaves L2 is two switches, out and back; one that L0 passes to L1 is two more, as L1 has to resume its guest. Counted by KVM in L0. The table also has all exits, timer ticks included.',
          `<figure>${switches}</figure>${htmlTable(switchTable(r))}${htmlTable(fallbackTable(r))}`,
        ),
    boot === undefined
      ? ''
      : section(
          'Boot',
          'The same kernel and initramfs, from the VMM’s start command to the first line of userspace.',
          `<figure>${boot}</figure>${htmlTable(bootTable(r))}`,
        ),
    section('Against what was asked for', '', htmlTable(barTable(r))),
    parametersSection(r),
  ];
  return page({
    title: `HyperTurtle: ${r.benchmark} of ${r.environment.startedAt}`,
    lead: headline(r),
    tiles: tiles(r),
    details: details(r),
    notes: [caveat(r.environment)].filter((n) => n !== undefined),
    sections,
  });
}

export function parametersSection(r: {
  environment: Readonly<Record<string, unknown>>;
  parameters: Readonly<Record<string, unknown>>;
}): string {
  return section(
    'Environment and parameters',
    '',
    `<div class="panels">${facts('Environment', r.environment)}${facts('Parameters', r.parameters)}</div>`,
  );
}

/** A whole document. `head` and `main` are HTML; `title` is text, `style` further rules. */
export const htmlDocument = (o: {
  title: string;
  style?: string;
  head: string;
  main: string;
}): string => `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${escapeXml(o.title)}</title>
<style>${STYLE}${o.style ?? ''}</style>
</head>
<body>
<main>
<header>
<h1>HyperTurtle</h1>
${o.head}
</header>
${o.main}
</main>
</body>
</html>
`;

/** A whole report. `tiles` and `sections` are HTML; the rest is text. */
export const page = (o: {
  title: string;
  lead: string;
  tiles?: string;
  details?: readonly string[];
  notes: readonly string[];
  sections: readonly string[];
}): string =>
  htmlDocument({
    title: o.title,
    head: [
      `<p class="lead">${escapeXml(o.lead)}</p>`,
      o.tiles ?? '',
      ...(o.details ?? []).map((d) => `<p>${escapeXml(d)}</p>`),
      ...o.notes.map((n) => `<p class="note">${escapeXml(n)}</p>`),
    ].join('\n'),
    main: o.sections.join('\n'),
  });

function tiles(r: BenchResult): string {
  const s = r.summary;
  const all: [string, number | undefined, (v: number) => string][] = [
    ['faster first touch', s.firstTouchSpeedup, (v) => `${number(v)}×`],
    ['world switches a page', s.switchesPerPageSequential, number],
    ['the same, vanilla', s.switchesPerPageVanilla, number],
    ['boot time saved', s.bootReduction, percent],
    ['faults kept from L1', s.handledInL0, percent],
  ];
  const shown = all.filter(([, v]) => v !== undefined);
  if (shown.length === 0) return '';
  return `<dl class="tiles">${shown
    .map(([name, v, f]) => `<div><dt>${name}</dt><dd>${maybe(v, f)}</dd></div>`)
    .join('')}</dl>`;
}

export function section(title: string, intro: string, content: string): string {
  return `<section><h2>${title}</h2>${intro ? `<p>${intro}</p>` : ''}${content}</section>`;
}

export function htmlTable(t: Table): string {
  if (t.rows.length === 0) return '';
  const head = t.head.map((h, i) =>
    h === '' && i > 0
      ? '<td></td>'
      : `<th scope="col">${h === '' ? '<span class="sr">what</span>' : escapeXml(h)}</th>`,
  );
  const rows = t.rows.map(
    (r) =>
      `<tr>${r.map((c, i) => (i === 0 ? `<th scope="row">${escapeXml(c)}</th>` : `<td${c === 'NOT MET' ? ' class="bad"' : ''}>${escapeXml(c)}</td>`)).join('')}</tr>`,
  );
  return `<div class="scroll"><table><caption>${escapeXml(t.title)}</caption><thead><tr>${head.join('')}</tr></thead><tbody>${rows.join('')}</tbody></table></div>`;
}

function facts(title: string, values: Readonly<Record<string, unknown>>): string {
  const rows = Object.entries(values).map(([k, v]) => {
    const shown = Array.isArray(v) ? v.join(', ') : String(v);
    return `<tr><th scope="row">${escapeXml(k)}</th><td class="text">${escapeXml(shown)}</td></tr>`;
  });
  return `<div class="scroll"><table><caption>${title}</caption><tbody>${rows.join('')}</tbody></table></div>`;
}
