/** The result of `hyperturtle bench idle` as text. */
import type { IdleResult } from './run.ts';

export function idleTable({ environment: e, parameters, services }: IdleResult): string {
  const mib = (kib: number): string => (kib / 1024).toFixed(1);
  return [
    `${parameters.afterS} s after the start, without a host, module and cluster`,
    `Linux ${e.hostKernel}, Node ${e.nodeVersion}, ${e.startedAt}`,
    ...services.map((s) => `${s.what}: ${mib(s.residentKib)} MiB, its own ${mib(s.anonymousKib)} MiB`),
    '',
  ].join('\n');
}
