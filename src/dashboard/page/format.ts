/** Numbers and times as text; the same width for the same kind where they stand below each other. */

const WHOLE = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
const TENTH = new Intl.NumberFormat('en-US', { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const SHORT = new Intl.NumberFormat('en-US', { notation: 'compact', maximumFractionDigits: 1 });

export const count = (n: number): string => WHOLE.format(n);

/** Per second. */
export function rate(perSecond: number | undefined): string {
  if (perSecond === undefined) return '–';
  if (perSecond >= 100_000) return SHORT.format(perSecond);
  return perSecond > 0 && perSecond < 10 ? TENTH.format(perSecond) : WHOLE.format(perSecond);
}

export function share(part: number, of: number): string {
  if (!(of > 0)) return '–';
  const percent = (100 * part) / of;
  // not everything is not all
  if (part < of && percent > 99.9) return '99.9%';
  return `${percent > 0 && percent < 10 ? TENTH.format(percent) : percent < 100 && percent >= 99 ? TENTH.format(percent) : WHOLE.format(percent)}%`;
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'] as const;

export function bytes(n: number): string {
  let i = 0;
  let v = n;
  for (; v >= 1024 && i < UNITS.length - 1; i++) v /= 1024;
  return `${i > 0 && v < 10 ? TENTH.format(v) : WHOLE.format(v)} ${UNITS[i] ?? ''}`;
}

export function duration(ns: number): string {
  if (ns < 1000) return `${WHOLE.format(ns)} ns`;
  if (ns < 1e6) return `${TENTH.format(ns / 1e3)} µs`;
  return ns < 1e9 ? `${TENTH.format(ns / 1e6)} ms` : `${TENTH.format(ns / 1e9)} s`;
}

export function since(iso: string, nowMs: number): string {
  const seconds = Math.max(0, Math.round((nowMs - Date.parse(iso)) / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`;
}

export function clock(iso: string): string {
  return new Date(iso).toLocaleTimeString('en-GB');
}

export const plural = (n: number, one: string, many = `${one}s`): string =>
  `${count(n)} ${n === 1 ? one : many}`;
