/** `hyperturtle bench fleet`: many nodes against one API of Kubernetes, on this machine, without a lab. */
import type { Command } from 'commander';
import type { FleetSpec } from '../../bench/fleet/run.ts';
import { writeOut } from '../../core/output.ts';
import { measured } from '../shared/measured.ts';
import { integer } from '../shared/values.ts';

interface Options extends FleetSpec {
  json?: string;
}

export function registerFleetBench(bench: Command, version: string): void {
  bench
    .command('fleet')
    .description(
      "reconcilers of many nodes against a stand-in of Kubernetes' API: requests, convergence, memory",
    )
    .option('--nodes <number>', 'nodes', integer('--nodes', 1, 10_000), 1000)
    .option('--l2s <number>', 'nested guests of each node', integer('--l2s', 0, 1000), 100)
    .option('--sets <number>', 'HyperupcallSets, all for all nodes', integer('--sets', 1, 64), 3)
    .option('--object-bytes <number>', 'size of each object', integer('--object-bytes', 1, 1 << 20), 32_768)
    .option(
      '--processes <number>',
      'processes that the nodes are divided among',
      integer('--processes', 1, 64),
      1,
    )
    .option(
      '--requests-per-s <number>',
      'requests that the API answers',
      integer('--requests-per-s', 1, 1e6),
      400,
    )
    .option('--steady-s <number>', 'seconds without a change', integer('--steady-s', 1, 86_400), 600)
    .option('--json <file>', 'write the result')
    .action((o: Options) => fleet(o, version));
}

async function fleet({ json, ...spec }: Options, version: string): Promise<void> {
  const result = await measured({ json }, async ({ progress, signal }) => {
    const { runFleet } = await import('../../bench/fleet/run.ts');
    return runFleet(spec, { version, progress, signal });
  });
  const { fleetTable } = await import('../../bench/fleet/summary.ts');
  writeOut(fleetTable(result));
}
