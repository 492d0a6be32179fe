/** Small charts; each says in words what it shows, for those who do not see it. Colours are the style sheet's. */
import { s } from './dom.ts';
import { rate } from './format.ts';
import { KEPT } from './history.ts';

const px = (n: number): string => n.toFixed(1);

/** Right-aligned: the newest value is at the right edge, however few there are. */
function x(i: number, of: number, width: number): number {
  return width - ((of - 1 - i) / (KEPT - 1)) * width;
}

function outline(values: readonly number[], max: number, width: number, height: number): string[] {
  return values.map((v, i) => `${px(x(i, values.length, width))},${px(height - (v / max) * height)}`);
}

/** A line of the last rates, without axes. */
export function spark(values: readonly number[], what: string): SVGElement {
  const [width, height] = [120, 24];
  const max = Math.max(...values, 1e-9);
  return s(
    'svg',
    {
      class: 'spark',
      viewBox: `-1 -2 ${width + 2} ${height + 3}`,
      role: 'img',
      'aria-label': said(values, what),
    },
    s('line', { class: 'base', x1: 0, x2: width, y1: height, y2: height }),
    values.length > 1 &&
      s('polyline', { class: 'line', points: outline(values, max, width, height).join(' ') }),
  );
}

function said(values: readonly number[], what: string): string {
  if (values.length === 0) return `${what}: no figures yet`;
  return `${what}: ${rate(values.at(-1))} a second now, at most ${rate(Math.max(...values))}`;
}

export interface Band {
  name: string;
  cls: string;
  values: readonly number[];
}

/** Rates over time, one upon the other. */
export function bands(all: readonly Band[], intervalS: number): SVGElement {
  // in a narrow window the same letters need a smaller drawing
  const width = window.innerWidth < 760 ? 330 : 720;
  const [height, left, bottom] = [150, 46, 20];
  const length = Math.max(...all.map((b) => b.values.length), 0);
  const at = (b: Band, i: number): number => b.values[i - (length - b.values.length)] ?? 0;
  const sums = Array.from({ length }, (_, i) => all.reduce((n, b) => n + at(b, i), 0));
  const max = roundUp(Math.max(...sums, 1));
  const below = new Array<number>(length).fill(0);
  const shapes = all.map((b) => {
    const low = outline([...below], max, width, height);
    for (let i = 0; i < length; i++) below[i] = (below[i] ?? 0) + at(b, i);
    const high = outline(below, max, width, height);
    return s('polygon', { class: `band ${b.cls}`, points: [...high, ...low.reverse()].join(' ') });
  });
  const label = all.map((b) => said(b.values, b.name)).join('; ');
  const grid = [0, 0.5, 1].map((share) => {
    const y = height - share * height;
    return [
      s('line', { class: share === 0 ? 'axis' : 'grid', x1: 0, x2: width, y1: y, y2: y }),
      s('text', { class: 'tick', x: -6, y: y + 4, 'text-anchor': 'end' }, rate(max * share)),
    ];
  });
  return s(
    'svg',
    {
      class: 'bands',
      viewBox: `${-left} -8 ${width + left + 4} ${height + bottom + 10}`,
      role: 'img',
      'aria-label': label,
    },
    grid,
    length > 1 && shapes,
    s('text', { class: 'tick', x: 0, y: height + 16 }, `${Math.round((KEPT - 1) * intervalS)} s ago`),
    s('text', { class: 'tick', x: width, y: height + 16, 'text-anchor': 'end' }, 'now'),
  );
}

function roundUp(n: number): number {
  const magnitude = 10 ** Math.floor(Math.log10(n));
  return ([1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((m) => m * magnitude >= n) ?? 10) * magnitude;
}

/** How much of something there is: decoration beside a number that says it. */
export function meter(part: number, of: number, cls = ''): SVGElement {
  const share = of > 0 ? Math.min(1, Math.max(0, part / of)) : 0;
  return s(
    'svg',
    { class: `meter ${cls}`, viewBox: '0 0 100 6', preserveAspectRatio: 'none', 'aria-hidden': 'true' },
    s('rect', { class: 'rail', width: 100, height: 6 }),
    s('rect', { class: 'fill', width: px(share * 100), height: 6 }),
  );
}
