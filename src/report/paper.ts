/** The report of `bench paper`: the paper's figures beside ours, one HTML file that needs nothing else. */
import { PAPER_FIGURES, gain, paperGain } from '../bench/paper/figures.ts';
import type { PaperRun } from '../bench/paper/benches.ts';
import type { Finding } from '../wire/schema.ts';
import type { PaperFigure, Values } from '../bench/paper/figures.ts';
import { maybe, number } from './format.ts';
import { htmlDocument } from './html.ts';
import { escapeXml, line, logScale, px, svg, text } from './svg.ts';
import { own } from '../core/own.ts';

interface Row {
  figure: PaperFigure;
  ours: Values | undefined;
  paper: number | undefined;
  gain: number | undefined;
}

const OWN_STYLE = `
.bar.s-paper { fill: var(--l1); }
th.command { white-space: normal; overflow-wrap: anywhere; width: 380px; }
.differs { display: block; white-space: normal; width: 290px; color: var(--soft); font-size: 13px; }
td.long { white-space: normal; min-width: 260px; text-align: left; }
tr.none td, tr.none th { color: var(--soft); }
`;

export function paperRows(runs: readonly PaperRun[]): Row[] {
  return PAPER_FIGURES.map((figure) => {
    const ours = runs.map((r) => own(r.values, figure.id)).find((v) => v !== undefined);
    return { figure, ours, paper: paperGain(figure), gain: gain(figure, ours) };
  });
}

/** `machine`: what was found of it before the runs; empty where that is not asked. */
export function paperReport(
  runs: readonly PaperRun[],
  startedAt: string,
  machine: readonly Finding[] = [],
): string {
  const rows = paperRows(runs);
  const measured = rows.filter((r) => r.gain !== undefined).length;
  return htmlDocument({
    title: `HyperTurtle: the paper and ours, ${startedAt}`,
    style: OWN_STYLE,
    head: `<p class="lead">${measured} of ${rows.length} figures of the paper, measured again.</p>
<p class="note">The paper: Ben Zur et al., USENIX ATC 2025; 2x Xeon 4216, its own kernels and QEMU. Ours: stock kernels and QEMU, on the machine below. Compare factors and counts; times of an emulated machine mean little.</p>`,
    main: `<section><h2>How much better than nested</h2><p>Each bar is a factor within one system: nested without hyperupcalls against with them, on the same machine. Log scale; 1 is no difference.</p>
<figure>${gainChart(rows)}</figure></section>
<section><h2>Figures</h2>${figureTable(rows)}</section>
<section><h2>Runs</h2>${runTable(runs)}</section>
${machineSection(machine)}`,
  });
}

function machineSection(found: readonly Finding[]): string {
  if (found.length === 0) return '';
  const items = found.map(
    (f) => `<li>${f.level === 'ok' ? '' : '<b>disturbs:</b> '}${escapeXml(f.what)}</li>`,
  );
  return `<section><h2>The machine before the runs</h2><ul>${items.join('')}</ul></section>\n`;
}

/** Two bars a figure, the paper's and ours; a figure without ours says so. */
function gainChart(rows: readonly Row[]): string {
  const shown = rows.filter((r) => r.paper !== undefined || r.gain !== undefined);
  const width = 900;
  const box = { left: 290, right: width - 80 };
  const all = shown.flatMap((r) => [r.paper, r.gain]).filter((v): v is number => v !== undefined);
  const top = 10 ** Math.ceil(Math.log10(Math.max(2, ...all) * 1.05));
  const least = Math.min(0.5, ...all.map((v) => v * 0.95));
  const x = logScale([least, top], [box.left, box.right]);
  const body: string[] = [];
  const height = shown.length * 46 + 40;
  for (const t of [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100].filter((v) => v >= least && v <= top))
    body.push(
      line(x(t), 4, x(t), height - 34, t === 1 ? 'axis' : 'grid'),
      text(x(t), height - 18, `${t}×`, { anchor: 'middle', cls: 'tick' }),
    );
  shown.forEach((r, i) => {
    const y = i * 46 + 8;
    body.push(text(box.left - 10, y + 20, r.figure.what, { anchor: 'end' }));
    for (const [offset, value, cls, name] of [
      [0, r.paper, 's-paper', 'paper'],
      [17, r.gain, 's-l2-default', 'ours'],
    ] as const) {
      if (value === undefined) {
        body.push(
          text(x(1) + 6, y + offset + 12, name === 'paper' ? 'paper: no figure' : 'ours: not measured', {
            cls: 'tick',
          }),
        );
        continue;
      }
      const [from, to] = [Math.min(x(1), x(value)), Math.max(x(1), x(value))];
      const label = `${name} ${number(value)}×`;
      body.push(
        `<rect x="${px(from)}" y="${px(y + offset + 1)}" width="${px(Math.max(1, to - from))}" height="13" class="bar ${cls}"><title>${escapeXml(`${r.figure.what}: ${label}`)}</title></rect>`,
        text(to + 6, y + offset + 12, label, { cls: 'value' }),
      );
    }
  });
  const said = shown.map(
    (r) => `${r.figure.what}: paper ${maybe(r.paper, number)}, ours ${maybe(r.gain, number)}`,
  );
  return svg({
    width,
    height,
    id: 'gains',
    title: 'Factors, the paper and ours',
    description: said.join('; '),
    body,
  });
}

function figureTable(rows: readonly Row[]): string {
  const cell = (v: number | undefined): string => `<td>${v === undefined ? '–' : number(v)}</td>`;
  const body = rows.map(({ figure: f, ours, paper, gain: g }) => {
    const unit = f.unit === '' ? '' : `, ${f.unit}`;
    return `<tr${g === undefined ? ' class="none"' : ''}><th scope="row">${escapeXml(f.what + unit)}<span class="differs">${escapeXml(f.differs)}</span></th>${cell(f.paper?.nested)}${cell(f.paper?.accelerated)}${cell(f.paper?.direct)}${cell(paper)}${cell(ours?.nested)}${cell(ours?.accelerated)}${cell(ours?.direct)}${cell(g)}</tr>`;
  });
  const head = [
    'paper: nested',
    'HyperTurtle',
    'direct',
    'factor',
    'ours: nested',
    'hyperupcall',
    'direct',
    'factor',
  ];
  return `<div class="scroll"><table><caption>The paper’s figures and ours, and what differs</caption><thead><tr><th scope="col"><span class="sr">figure</span></th>${head.map((h) => `<th scope="col">${h}</th>`).join('')}</tr></thead><tbody>${body.join('')}</tbody></table></div>`;
}

function runTable(runs: readonly PaperRun[]): string {
  const body = runs.map(
    (r) =>
      `<tr><th scope="row" class="command"><code>${escapeXml(r.command)}</code></th><td>${r.seconds < 1 ? '–' : `${Math.round(r.seconds)} s`}</td><td class="${r.problem === null ? 'long' : 'long bad'}">${escapeXml(r.problem ?? r.about ?? '')}</td></tr>`,
  );
  return `<div class="scroll"><table><caption>Commands, in this order</caption><thead><tr><th scope="col">command</th><th scope="col">took</th><th scope="col" class="text">where and how, or what went wrong</th></tr></thead><tbody>${body.join('')}</tbody></table></div>`;
}
