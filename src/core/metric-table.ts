/** Definitions of measurements: what a registry serves, and what alert rules and panels may refer to. */

interface MetricDefinition {
  /** Samples of a counter have the name with `_total`. */
  kind: 'counter' | 'gauge';
  help: string;
  labels: readonly string[];
}

/** By name. */
export type MetricTable = Readonly<Record<string, MetricDefinition>>;

export type LabelOf<T extends MetricTable, N extends keyof T> = T[N]['labels'][number];

/** Names of a table's metrics that have the label. */
export type WithLabel<T extends MetricTable, L extends string> = {
  [N in keyof T & string]: L extends LabelOf<T, N> ? N : never;
}[keyof T & string];

export const gauge = <const L extends readonly string[]>(
  help: string,
  labels: L,
): { kind: 'gauge'; help: string; labels: L } => ({ kind: 'gauge', help, labels });

export const counter = <const L extends readonly string[]>(
  help: string,
  labels: L,
): { kind: 'counter'; help: string; labels: L } => ({ kind: 'counter', help, labels });
