/** The three plots of the report: latency distributions, world switches per page, boot times. */
import { BOOT_VARIANTS, PATTERNS, VARIANTS } from '../bench/first-touch/schema.ts';
import type { BenchResult, Pattern, Variant } from '../bench/first-touch/schema.ts';
import { cumulative, mergeHistograms } from '../bench/shared/statistics.ts';
import { bootMs, selectTouches, switchesPerPage } from '../bench/first-touch/summary.ts';
import { BOOT_NAMES, PATTERN_NAMES, duration, number, percent, variantName } from './format.ts';
import { decades, line, linearScale, logScale, px, roundTicks, svg, text } from './svg.ts';

type Result = Pick<BenchResult, 'touches' | 'boots' | 'summary' | 'parameters'>;

/** CSS class of a series: colour, and a dash pattern for those who do not see the colour. */
const seriesClass = (v: Variant): string => `s-${v}`;

/** Distribution of the latencies of first touches: one curve a variant, log scale, all rounds together. */
export function latencyChart(r: Result, pattern: Pattern, bounds: readonly [number, number]): string {
  const curves = VARIANTS.flatMap((variant) => {
    const samples = selectTouches(r, variant, pattern);
    return samples.length === 0
      ? []
      : [{ variant, points: cumulative(mergeHistograms(samples.map((s) => s.touch.histogram))) }];
  });
  const [width, height] = [460, 250];
  const box = { left: 44, right: width - 12, top: 30, bottom: height - 40 };
  const x = logScale(bounds, [box.left, box.right]);
  const y = linearScale([0, 1], [box.bottom, box.top]);
  const body: string[] = [text(box.left, 16, PATTERN_NAMES[pattern], { cls: 'chart-title' })];
  for (const share of [0, 0.25, 0.5, 0.75, 1])
    body.push(
      line(box.left, y(share), box.right, y(share), share === 0 ? 'axis' : 'grid'),
      text(box.left - 6, y(share) + 4, percent(share), { anchor: 'end', cls: 'tick' }),
    );
  for (const ns of decades(...bounds))
    body.push(
      line(x(ns), box.top, x(ns), box.bottom, 'grid'),
      text(x(ns), box.bottom + 16, duration(ns), { anchor: 'middle', cls: 'tick' }),
    );
  body.push(
    text((box.left + box.right) / 2, height - 6, 'time of one touch (log scale)', {
      anchor: 'middle',
      cls: 'tick',
    }),
  );
  for (const c of curves) {
    const clamp = (ns: number): number => Math.min(Math.max(ns, bounds[0]), bounds[1]);
    const path = c.points.map((p, i) => `${i === 0 ? 'M' : 'L'}${px(x(clamp(p.ns)))} ${px(y(p.share))}`);
    body.push(
      `<path d="${path.join('')}" class="curve ${seriesClass(c.variant)}"><title>${variantName(c.variant, r.parameters)}</title></path>`,
    );
  }
  const medians = curves.map((c) => {
    const p50 = c.points.find((p) => p.share >= 0.5);
    return `${variantName(c.variant, r.parameters)}: half within ${p50 ? duration(p50.ns) : 'unknown'}`;
  });
  return svg({
    width,
    height,
    id: `latency-${pattern}`,
    title: `Distribution of first-touch latency, ${PATTERN_NAMES[pattern]} order`,
    description: medians.join('; '),
    body,
  });
}

/** Bounds that hold all but the outermost thousandth of every curve, rounded out to whole octaves. */
export function latencyBounds(r: Result): [number, number] {
  const first = r.touches.filter((s) => s.touch.pass === 1);
  if (first.length === 0) return [1e3, 1e6];
  const low = Math.min(...first.map((s) => s.touch.histogram[0]?.[0] ?? 1e3));
  const high = Math.max(...first.map((s) => s.touch.p999Ns));
  return [2 ** Math.floor(Math.log2(Math.max(1, low))), 2 ** Math.ceil(Math.log2(Math.max(2, high)))];
}

export function legend(r: Result): string {
  const items = VARIANTS.filter((v) => r.touches.some((s) => s.variant === v)).map(
    (v) =>
      `<li><svg viewBox="0 0 28 10" aria-hidden="true"><path d="M1 5H27" class="curve ${seriesClass(v)}"/></svg>${variantName(v, r.parameters)}</li>`,
  );
  return `<ul class="legend">${items.join('')}</ul>`;
}

export interface Bar {
  group: string;
  name: string;
  value: number;
  label: string;
  cls: string;
}

/** Horizontal bars with their values at the end; a group's name stands above its bars. */
export function barChart(o: {
  id: string;
  title: string;
  unit: string;
  bars: Bar[];
  tick: (v: number) => string;
}): string {
  const width = 900;
  const box = { left: 200, right: width - 80 };
  const groups = [...new Set(o.bars.map((b) => b.group))];
  const ticks = roundTicks(Math.max(...o.bars.map((b) => b.value)));
  const x = linearScale([0, ticks.at(-1) ?? 1], [box.left, box.right]);
  const rows: string[] = [];
  let top = 8;
  for (const group of groups) {
    if (group !== '') {
      rows.push(text(8, top + 14, group, { cls: 'chart-title' }));
      top += 22;
    }
    for (const b of o.bars.filter((c) => c.group === group)) {
      const end = Math.max(x(b.value), box.left + 2);
      rows.push(
        text(box.left - 8, top + 14, b.name, { anchor: 'end' }),
        `<path d="${roundedBar(box.left, top + 2, end, 16)}" class="bar ${b.cls}"><title>${b.name}: ${b.label}</title></path>`,
        text(end + 6, top + 14, b.label, { cls: 'value' }),
      );
      top += 22;
    }
    top += 10;
  }
  const bottom = top;
  const grid = ticks.flatMap((t) => [
    line(x(t), 4, x(t), bottom, t === 0 ? 'axis' : 'grid'),
    text(x(t), bottom + 16, o.tick(t), { anchor: 'middle', cls: 'tick' }),
  ]);
  return svg({
    width,
    height: bottom + 42,
    id: o.id,
    title: o.title,
    description: o.bars.map((b) => `${b.group ? `${b.group}, ` : ''}${b.name}: ${b.label}`).join('; '),
    body: [
      ...grid,
      ...rows,
      text((box.left + box.right) / 2, bottom + 36, o.unit, { anchor: 'middle', cls: 'tick' }),
    ],
  });
}

/** Square at the axis, round at the end. */
function roundedBar(x0: number, y0: number, x1: number, height: number): string {
  const r = Math.min(3, x1 - x0);
  return `M${px(x0)} ${px(y0)}H${px(x1 - r)}a${r} ${r} 0 0 1 ${r} ${r}v${height - 2 * r}a${r} ${r} 0 0 1 -${r} ${r}H${px(x0)}z`;
}

export function switchesChart(r: Result): string | undefined {
  const bars = PATTERNS.flatMap((pattern) =>
    VARIANTS.flatMap((variant): Bar[] => {
      const value = switchesPerPage(selectTouches(r, variant, pattern));
      if (value === undefined) return [];
      const name = variantName(variant, r.parameters);
      return [
        { group: PATTERN_NAMES[pattern], name, value, label: number(value), cls: seriesClass(variant) },
      ];
    }),
  );
  if (bars.length === 0) return undefined;
  return barChart({
    id: 'switches',
    title: 'World switches per page',
    unit: 'world switches by faults, for each page touched',
    bars,
    tick: number,
  });
}

export function bootChart(r: Result): string | undefined {
  const classes = {
    'not-nested': 's-l1',
    vanilla: 's-l2-vanilla',
    thp: 's-l2-thp',
    accelerated: 's-l2-default',
  } as const;
  const bars = BOOT_VARIANTS.flatMap((variant): Bar[] => {
    const ms = bootMs(r, variant);
    if (ms === undefined) return [];
    return [
      {
        group: '',
        name: BOOT_NAMES[variant],
        value: ms / 1000,
        label: duration(ms * 1e6),
        cls: classes[variant],
      },
    ];
  });
  if (bars.length === 0) return undefined;
  return barChart({
    id: 'boot',
    title: 'Boot time',
    unit: 'seconds from start to userspace',
    bars,
    tick: number,
  });
}
