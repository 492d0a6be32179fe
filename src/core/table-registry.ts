/** A registry of what a table defines. Values are taken when they are asked for. */
import { Counter, Gauge, Registry } from 'prom-client';
import type { LabelOf, MetricTable } from './metric-table.ts';

/** A value, and what its labels are. */
export type Sample<T extends MetricTable, N extends keyof T> = readonly [
  labels: Readonly<Record<LabelOf<T, N>, string | number>>,
  value: number,
];

export class TableRegistry<T extends MetricTable> {
  /** For what is of no table: what prom-client measures of the process. */
  readonly registry = new Registry();
  readonly #table: ReadonlyMap<string, MetricTable[string]>;

  constructor(table: T) {
    this.#table = new Map(Object.entries(table));
    // the declared type of a registry knows Prometheus's content type only
    this.registry.setContentType(Registry.OPENMETRICS_CONTENT_TYPE as never);
  }

  /** A measurement of the table, as it says. Without samples it is only named. */
  add<N extends keyof T & string>(name: N, samples: () => Iterable<Sample<T, N>>): void {
    const { kind, help, labels } = this.#table.get(name)!;
    const options = { name, help, labelNames: [...labels], registers: [this.registry] };
    if (kind === 'counter')
      new Counter<string>({
        ...options,
        collect() {
          this.reset();
          for (const [of, value] of samples()) this.inc(of as Record<string, string | number>, value);
        },
      });
    else
      new Gauge<string>({
        ...options,
        collect() {
          // without labels it would begin at 0
          if (labels.length === 0) this.remove();
          else this.reset();
          for (const [of, value] of samples()) this.set(of as Record<string, string | number>, value);
        },
      });
  }

  /** All of them, in OpenMetrics form. */
  text(): Promise<string> {
    return this.registry.metrics();
  }
}
