/** The result of `hyperturtle bench fleet` as text. */
import type { FleetResult } from './run.ts';

export function fleetTable(r: FleetResult): string {
  const { parameters: p, environment: e, steady, memory } = r;
  const number = (n: number, digits = 1): string => n.toFixed(digits);
  const answersText = (answers: Record<string, number>): string =>
    Object.entries(answers)
      .map(([what, n]) => `${n} ${what}`)
      .join(', ');
  return [
    `${p.nodes} nodes of ${p.l2s} nested guests each, ${p.sets} sets, objects of ${p.objectBytes} bytes; ${p.processes} processes; the API answers ${p.requestsPerS} a second`,
    `${e.hostCpus} x ${e.hostCpuModel}, Linux ${e.hostKernel}, Node ${e.nodeVersion}, ${e.startedAt}`,
    '',
    ...r.phases.map(
      (f) =>
        `${f.name}: ${f.nodes} nodes; half after ${number(f.p50S)} s, 99% ${number(f.p99S)} s, all ${number(f.allS)} s; most in a second ${f.peakPerS}\n    ${answersText(f.answers)}`,
    ),
    '',
    `without a change: ${number(steady.requestsPerNodeAndMinute, 2)} requests per node and minute (${number(steady.seconds, 0)} s: ${answersText(steady.answers) || 'none'})`,
    `memory: ${number(memory.heapKibPerNode)} KiB of heap per node; processes ${Math.round(memory.rssKib / 1024)} MiB in all`,
    '',
  ].join('\n');
}
