/** `hyperturtle bench vms`: one daemon with many VMs and NICs, on this machine, without a lab. */
import type { Command } from 'commander';
import type { VmsSpec } from '../../bench/vms/run.ts';
import { writeOut } from '../../core/output.ts';
import { measured } from '../shared/measured.ts';
import { integer } from '../shared/values.ts';

interface Options extends VmsSpec {
  json?: string;
}

export function registerVmsBench(bench: Command, version: string): void {
  bench
    .command('vms')
    .description(
      'the host daemon with many VMs and NICs: start, reload, scrapes, requests meanwhile; as root',
    )
    .option('--vms <number>', 'VMs', integer('--vms', 1, 1000), 200)
    .option('--nics <number>', 'NICs of each VM', integer('--nics', 0, 200), 50)
    .option('--scrapes <number>', 'scrapes of its measurements', integer('--scrapes', 1, 10_000), 20)
    .option(
      '--scrape-every-ms <number>',
      'pause after each scrape',
      integer('--scrape-every-ms', 1, 60_000),
      500,
    )
    .option(
      '--ping-seconds <number>',
      "seconds of an agent's requests",
      integer('--ping-seconds', 1, 3600),
      20,
    )
    .option('--json <file>', 'write the result')
    .action((o: Options) => vms(o, version));
}

async function vms({ json, ...spec }: Options, version: string): Promise<void> {
  const result = await measured({ json }, async ({ progress, signal }) => {
    const { runVms } = await import('../../bench/vms/run.ts');
    return runVms(spec, { version, progress, signal });
  });
  const { vmsTable } = await import('../../bench/vms/summary.ts');
  writeOut(vmsTable(result));
}
