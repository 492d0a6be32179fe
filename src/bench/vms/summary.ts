/** The result of `hyperturtle bench vms` as text. */
import type { VmsResult } from './run.ts';

export function vmsTable(r: VmsResult): string {
  const { parameters: p, environment: e } = r;
  const ms = (n: number): string => n.toFixed(n < 10 ? 1 : 0);
  const times = (t: { p50: number; p99: number; most: number }): string =>
    `half within ${ms(t.p50)} ms, 99% ${ms(t.p99)} ms, all ${ms(t.most)} ms`;
  return [
    `one daemon, ${p.vms} VMs of ${p.nics} NICs each`,
    `${e.hostCpus} x ${e.hostCpuModel}, Linux ${e.hostKernel}, Node ${e.nodeVersion}, ${e.startedAt}`,
    '',
    `start: serves after ${ms(r.start.servesMs)} ms, all attached ${ms(r.start.attachedMs)} ms, all NICs ${ms(r.start.nicsMs)} ms`,
    `reload: ${ms(r.reload.sameMs)} ms; with another quota for each VM ${ms(r.reload.changedMs)} ms`,
    `scrape: ${times(r.scrape.ms)}; ${r.scrape.bytes} bytes`,
    `ping of an agent: ${times(r.ping.quiet)}; while scraped each ${p.scrapeEveryMs} ms: ${times(r.ping.scraped)}`,
    `list of all VMs: ${times(r.statusMs)}`,
    `memory: ${ms(r.memoryMib.attached)} MiB, after scrapes ${ms(r.memoryMib.scraped)} MiB`,
    '',
  ].join('\n');
}
