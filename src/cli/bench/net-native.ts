/** `hyperturtle bench net-native`: cost of the network programs on this kernel. */
import type { Command } from 'commander';
import { writeOut } from '../../core/output.ts';
import { measured } from '../shared/measured.ts';
import { integer } from '../shared/values.ts';

interface NetNativeOptions {
  folder: string;
  rounds: number;
  repeat: number;
  frames: number;
  rules: number;
  json?: string;
}

export function registerNetNative(bench: Command, version: string): void {
  bench
    .command('net-native')
    .description('cost of each network program on this kernel: ns per packet, and on a real tap; needs root')
    .requiredOption('--folder <path>', 'compiled network programs (*.bpf.o)')
    .option('--rounds <number>', 'variants take turns in each', integer('--rounds', 1, 1000), 7)
    .option(
      '--repeat <number>',
      'runs of a program in a round',
      integer('--repeat', 1, 100_000_000),
      1_000_000,
    )
    .option(
      '--frames <number>',
      'frames written to the tap in a round; 0: no tap',
      integer('--frames', 0, 10_000_000),
      50_000,
    )
    .option(
      '--rules <number>',
      'rules of the firewall; the last one matches',
      integer('--rules', 1, 255),
      100,
    )
    .option('--json <file>', 'write the result with all raw samples')
    .action((o: NetNativeOptions) => measure(o, version));
}

async function measure(o: NetNativeOptions, version: string): Promise<void> {
  const { netNativeTable, runNetNative } = await import('../../bench/net-native/run.ts');
  writeOut(netNativeTable(await measured(o, (c) => runNetNative(o, { version, ...c }))));
}
