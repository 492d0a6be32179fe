/** Numbers and names as people read them. */
import type { BootVariant, Pattern, Variant } from '../bench/first-touch/schema.ts';

const VARIANT_NAMES: Readonly<Record<Variant, string>> = {
  l1: 'L1 itself (not nested)',
  'l2-vanilla': 'L2 vanilla',
  'l2-vanilla-prealloc': 'L2 vanilla, preallocated',
  'l2-anonymous': 'L2 vanilla, anonymous, 4 KiB',
  'l2-thp': 'L2 vanilla, anonymous, THP',
  'l2-hugetlb': 'L2 vanilla, hugetlbfs',
  'l2-group1': 'L2 hyperupcall, 1 page',
  'l2-default': 'L2 hyperupcall, groups',
};

/** The last one has frames of 2 MiB where L1 keeps some. */
export function variantName(v: Variant, parameters: { largeFrames?: number | 'auto' | undefined }): string {
  const large = v === 'l2-default' && (parameters.largeFrames ?? 0) !== 0;
  return large ? 'L2 hyperupcall, 2 MiB frames' : VARIANT_NAMES[v];
}

export const PATTERN_NAMES: Readonly<Record<Pattern, string>> = {
  seq: 'sequential',
  stride: 'strided',
  random: 'random',
  scattered: 'scattered',
};

export const BOOT_NAMES: Readonly<Record<BootVariant, string>> = {
  'not-nested': 'L1 guest (not nested)',
  vanilla: 'L2 vanilla',
  thp: 'L2 vanilla, anonymous, THP',
  accelerated: 'L2 with the hyperupcall',
};

/** Three significant digits, no exponent: 1234.5 -> `1,230`, 0.01234 -> `0.0123`. */
export function number(value: number): string {
  if (!Number.isFinite(value)) return '–';
  if (value === 0) return '0';
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  const rounded = Number(value.toPrecision(3));
  return rounded.toLocaleString('en-US', { maximumFractionDigits: Math.min(digits, 6), useGrouping: true });
}

/** 1,500 -> `1.5 us`; three significant digits, in the unit that keeps the number between 1 and 1000. */
export function duration(ns: number): string {
  const units: readonly [number, string][] = [
    [1e9, 's'],
    [1e6, 'ms'],
    [1e3, 'µs'],
  ];
  // just below a unit would round up to 1,000 of the smaller one
  for (const [size, unit] of units) if (ns >= size * 0.9995) return `${number(ns / size)} ${unit}`;
  return `${number(ns)} ns`;
}

export function percent(share: number): string {
  return `${number(share * 100)}%`;
}

export function maybe(value: number | undefined, format: (v: number) => string): string {
  return value === undefined ? '–' : format(value);
}
