/** `hyperturtle bench idle`: memory of services that wait for work, on this machine, without a lab. */
import type { Command } from 'commander';
import type { IdleSpec } from '../../bench/idle/run.ts';
import { writeOut } from '../../core/output.ts';
import { measured } from '../shared/measured.ts';
import { integer } from '../shared/values.ts';

interface Options extends IdleSpec {
  json?: string;
}

export function registerIdleBench(bench: Command, version: string): void {
  bench
    .command('idle')
    .description('memory of the daemon, the agent, the device plugin and others that wait for work')
    .option('--after-s <number>', 'seconds from the start of each', integer('--after-s', 1, 3600), 5)
    .option('--json <file>', 'write the result')
    .action((o: Options) => idle(o, version));
}

async function idle({ json, ...spec }: Options, version: string): Promise<void> {
  const result = await measured({ json }, async ({ progress, signal }) => {
    const { runIdle } = await import('../../bench/idle/run.ts');
    return runIdle(spec, { version, progress, signal });
  });
  const { idleTable } = await import('../../bench/idle/summary.ts');
  writeOut(idleTable(result));
}
