/** `hyperturtle bench net`: packets of an L2, nested virtio against NICs of the host with programs on them. */
import type { Command } from 'commander';
import { inLab, labOptions } from './bench-lab.ts';
import type { LabOptions } from './bench-lab.ts';
import { integer } from './values.ts';

interface NetOptions extends LabOptions {
  rounds: number;
  turns: number;
  roundTrips: number;
  packets: number;
  window: number;
  tcpKib: number;
  rules: number;
  l2Memory: number;
  budgetS?: number;
  report?: string;
}

export function registerBenchNet(bench: Command, version: string): void {
  labOptions(
    bench.command('net').description("packets of L2: through L1, and past it with L1's programs in L0"),
  )
    .option('--rounds <number>', 'rounds', integer('--rounds', 1, 1000), 3)
    .option('--turns <number>', 'in a round, every way has so many turns', integer('--turns', 1, 1000), 4)
    .option('--round-trips <number>', 'in one turn', integer('--round-trips', 1, 100_000), 50)
    .option('--packets <number>', 'in one turn, several under way', integer('--packets', 1, 100_000), 200)
    .option('--window <number>', 'how many are under way then', integer('--window', 1, 128), 32)
    .option('--tcp-kib <number>', 'over one connection, each way', integer('--tcp-kib', 1, 1 << 20), 512)
    .option('--rules <number>', 'of the firewall; the last ones match', integer('--rules', 2, 255), 100)
    .option('--l2-memory <MiB>', 'memory of L2', integer('--l2-memory', 96, 65_536), 96)
    .option(
      '--budget-s <number>',
      'begin no round that would be over later',
      integer('--budget-s', 1, 86_400),
    )
    .option('--report <file>', 'write the HTML report')
    .action((o: NetOptions) => measure(o, version));
}

async function measure(o: NetOptions, version: string): Promise<void> {
  const [{ runNet }, { netHtml, netTerminal }, fs, path] = await Promise.all([
    import('../bench/net.ts'),
    import('../report/net.ts'),
    import('node:fs/promises'),
    import('node:path'),
  ]);
  const spec = {
    ...{ rounds: o.rounds, turns: o.turns, roundTrips: o.roundTrips, packets: o.packets, window: o.window },
    ...{ tcpBytes: o.tcpKib * 1024, rules: o.rules, l2MemoryMib: o.l2Memory },
    ...(o.budgetS === undefined ? {} : { budgetMs: o.budgetS * 1000 }),
  };
  const result = await inLab(o, ({ lab, ...context }) => runNet(lab, spec, { version, ...context }));
  const report = o.report === undefined ? undefined : path.resolve(o.report);
  if (report !== undefined) await fs.writeFile(report, netHtml(result));
  process.stdout.write(`\n${netTerminal(result, report)}`);
}
