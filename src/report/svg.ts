/** Small pieces of SVG. Colours are CSS variables of the page, so that charts follow light and dark. */
import { escapeMarkup } from '../core/markup.ts';
import { visible } from '../core/visible.ts';

export const escapeXml = (text: string): string => escapeMarkup(visible(text));

/** Coordinates need no more than a tenth of a pixel. */
export function px(n: number): string {
  return String(Math.round(n * 10) / 10);
}

export function svg(o: {
  width: number;
  height: number;
  id: string;
  title: string;
  description: string;
  body: string[];
}): string {
  return [
    `<svg viewBox="0 0 ${o.width} ${o.height}" role="img" aria-labelledby="${o.id}-t ${o.id}-d">`,
    `<title id="${o.id}-t">${escapeXml(o.title)}</title>`,
    `<desc id="${o.id}-d">${escapeXml(o.description)}</desc>`,
    ...o.body,
    '</svg>',
  ].join('\n');
}

export function text(
  x: number,
  y: number,
  content: string,
  o: { anchor?: 'start' | 'middle' | 'end'; cls?: string } = {},
): string {
  return `<text x="${px(x)}" y="${px(y)}" text-anchor="${o.anchor ?? 'start'}" class="${o.cls ?? 'label'}">${escapeXml(content)}</text>`;
}

export function line(x1: number, y1: number, x2: number, y2: number, cls: string): string {
  return `<line x1="${px(x1)}" y1="${px(y1)}" x2="${px(x2)}" y2="${px(y2)}" class="${cls}"/>`;
}

export interface Scale {
  (value: number): number;
}

export function linearScale(domain: readonly [number, number], range: readonly [number, number]): Scale {
  const k = (range[1] - range[0]) / (domain[1] - domain[0] || 1);
  return (v) => range[0] + (v - domain[0]) * k;
}

export function logScale(domain: readonly [number, number], range: readonly [number, number]): Scale {
  const lin = linearScale([Math.log10(domain[0]), Math.log10(domain[1])], range);
  return (v) => lin(Math.log10(Math.max(v, Number.MIN_VALUE)));
}

/** Powers of ten within the bounds. */
export function decades(min: number, max: number): number[] {
  const out: number[] = [];
  for (let e = Math.ceil(Math.log10(min) - 1e-9); 10 ** e <= max * (1 + 1e-9); e++) out.push(10 ** e);
  return out;
}

/** About `count` round numbers from 0 to at least `max`. */
export function roundTicks(max: number, count = 5): number[] {
  if (!(max > 0)) return [0, 1];
  const raw = max / count;
  const magnitude = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * magnitude).find((s) => s >= raw) ?? raw;
  const n = Math.ceil(max / step - 1e-9);
  return Array.from({ length: n + 1 }, (_, i) => Number((i * step).toPrecision(12)));
}
