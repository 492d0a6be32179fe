/** `hyperturtle bench net`: packets of an L2, nested virtio against NICs of the host with programs on them. */
import type { Command } from 'commander';
import { writeOut } from '../../core/output.ts';
import { inLab, labOptions } from '../shared/in-lab.ts';
import type { LabOptions } from '../shared/in-lab.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { integer } from '../shared/values.ts';

interface NetOptions extends Omit<LabOptions, 'images'> {
  apps: string;
  requests: number;
  clients: number;
  rounds: number;
  turns: number;
  roundTrips: number;
  packets: number;
  window: number;
  tcpKib: number;
  rules: number;
  l2Memory?: number;
  budgetS?: number;
  explain?: boolean;
  report?: string;
}

export function registerBenchNet(bench: Command, version: string): void {
  labOptions(
    bench.command('net').description("packets of L2: through L1, and past it with L1's programs in L0"),
  )
    .option('--rounds <number>', 'rounds', integer('--rounds', 1, 1000), 3)
    .option('--turns <number>', 'turns that each way has in a round', integer('--turns', 1, 1000), 4)
    .option('--round-trips <number>', 'round trips in one turn', integer('--round-trips', 1, 100_000), 50)
    .option(
      '--packets <number>',
      'packets in one turn, several under way',
      integer('--packets', 1, 100_000),
      200,
    )
    .option('--window <number>', 'packets under way at a time', integer('--window', 1, 128), 32)
    .option(
      '--tcp-kib <number>',
      'over one connection from L2; four times as much to L2',
      integer('--tcp-kib', 1, 1 << 20),
      512,
    )
    .option('--rules <number>', 'rules of the firewall; the last ones match', integer('--rules', 2, 255), 100)
    .option('--apps <list>', 'services in L2 to be asked as well: memcached,redis,nginx', '')
    .option(
      '--requests <number>',
      'requests to a service in one turn',
      integer('--requests', 10, 1_000_000),
      300,
    )
    .option('--clients <number>', 'requests under way', integer('--clients', 1, 128), 8)
    .option(
      '--l2-memory <MiB>',
      'memory of L2; default: 96, with services 192',
      integer('--l2-memory', 96, 65_536),
    )
    .option(
      '--budget-s <number>',
      'begin no round that would be over later',
      integer('--budget-s', 1, 86_400),
    )
    .option(
      '--explain',
      "also what exits that enter L1 are about, by L1's own KVM, and what would answer them; slows L1 a little",
    )
    .option('--report <file>', 'write the HTML report')
    .action((o: NetOptions) => measure(o, version));
}

async function measure(o: NetOptions, version: string): Promise<void> {
  const [{ runNet }, { netHtml, netTerminal }, { APPS, CLIENTS }, { NET_APPS }, { writeOutput }, path] =
    await Promise.all([
      import('../../bench/net/run.ts'),
      import('../../report/net.ts'),
      import('../../bench/net/apps.ts'),
      import('../../bench/net/schema.ts'),
      import('../../core/files.ts'),
      import('node:path'),
    ]);
  const asked = o.apps.split(',').filter((a) => a !== '');
  const apps = NET_APPS.filter((a) => asked.includes(a));
  const unknown = asked.filter((a) => !NET_APPS.some((x) => x === a));
  if (unknown.length > 0)
    throw new HyperturtleError(
      'HT_USAGE',
      `--apps: ${NET_APPS.join(', ')} expected, '${unknown.join(',')}' found`,
    );
  const spec = {
    rounds: o.rounds,
    turns: o.turns,
    roundTrips: o.roundTrips,
    packets: o.packets,
    window: o.window,
    tcpBytes: o.tcpKib * 1024,
    rules: o.rules,
    apps,
    requests: o.requests,
    clients: o.clients,
    explain: o.explain ?? false,
    l2MemoryMib: o.l2Memory ?? (apps.length > 0 ? 192 : 96),
    ...(o.budgetS === undefined ? {} : { budgetMs: o.budgetS * 1000 }),
  };
  const images = apps.length > 0 ? [CLIENTS, ...apps.map((a) => APPS[a].image)] : undefined;
  const result = await inLab({ ...o, ...(images === undefined ? {} : { images }) }, ({ lab, ...context }) =>
    runNet(lab, spec, { version, ...context }),
  );
  const report = o.report === undefined ? undefined : path.resolve(o.report);
  if (report !== undefined) writeOutput(report, netHtml(result));
  writeOut(`\n${netTerminal(result, report)}`);
}
