/** `hyperturtle rate-limit|tcptop|packet-counter`: limits and counts of a NIC's traffic. */
import type { Command } from 'commander';
import type { Flow } from '../../net/counters.ts';
import type { LimitInput, RateLimitInput } from '../../net/rate-limit.ts';
import { print } from '../shared/agent-options.ts';
import { columns } from '../shared/columns.ts';
import { withAgent } from '../../client/session.ts';
import { mapsOf, nicOptions } from './command.ts';
import type { NicOptions } from './command.ts';
import { networkObject } from '../../net/programs.ts';
import { integer, printJson } from '../shared/values.ts';
import { own } from '../../core/own.ts';

interface LimitOptions extends NicOptions {
  outBytes?: number;
  outBurst?: number;
  outPackets?: number;
  outPacketsBurst?: number;
  inBytes?: number;
  inBurst?: number;
  inPackets?: number;
  inPacketsBurst?: number;
}

interface TcptopOptions extends NicOptions {
  intervalS: number;
  count?: number;
  rows: number;
}

/** `10M`, `1.5G`, `800k`: units of 1000. */
const amount =
  (name: string) =>
  (text: string): number => {
    const [, digits, unit = ''] = /^(\d+(?:\.\d+)?)([kMG]?)$/.exec(text) ?? [];
    if (digits === undefined) return integer(name, 1, 1)(text); // says what was expected
    return Number(digits) * (own({ k: 1e3, M: 1e6, G: 1e9 }, unit) ?? 1);
  };

export function registerTraffic(program: Command): void {
  const rate = program.command('rate-limit').description("limits of a NIC's traffic, each direction");
  nicOptions(rate.command('set'))
    .description('set all limits at once; what is left out is unlimited')
    .option('--out-bytes <rate>', 'bytes a second that the nested guest may send: 10M', amount('--out-bytes'))
    .option('--out-burst <bytes>', 'at once; default: 50 ms, at least 64 KiB', amount('--out-burst'))
    .option('--out-packets <rate>', 'packets a second', amount('--out-packets'))
    .option(
      '--out-packets-burst <number>',
      'at once; default: 50 ms, at least 64',
      amount('--out-packets-burst'),
    )
    .option('--in-bytes <rate>', 'bytes a second that go to it', amount('--in-bytes'))
    .option('--in-burst <bytes>', 'at once; default: 50 ms, at least 64 KiB', amount('--in-burst'))
    .option('--in-packets <rate>', 'packets a second', amount('--in-packets'))
    .option(
      '--in-packets-burst <number>',
      'at once; default: 50 ms, at least 64',
      amount('--in-packets-burst'),
    )
    .addHelpText(
      'after',
      `
What is too much is dropped. Bytes are those of whole frames with their Ethernet headers; k, M and G are 1000, 1000000 ...

Example:
  hyperturtle enable rate-limiter --nic web
  hyperturtle rate-limit set --nic web --out-bytes 12.5M --in-packets 20k`,
    )
    .action(setLimit);
  nicOptions(rate.command('show'))
    .description('the limits in force, and what was passed and dropped')
    .action(showLimit);
  nicOptions(program.command('tcptop'))
    .description('live table of TCP and UDP flows, busiest first; plain blocks without a terminal')
    .option('--interval-s <number>', 'seconds between updates', integer('--interval-s', 1, 3600), 1)
    .option('--count <number>', 'end after so many', integer('--count', 1, 2 ** 31))
    .option('--rows <number>', 'flows shown', integer('--rows', 1, 10_000), 40)
    .addHelpText('after', '\nExample:\n  hyperturtle enable tcptop --nic web && hyperturtle tcptop --nic web')
    .action(tcptop);
  nicOptions(program.command('packet-counter'))
    .description('packets and bytes in both directions')
    .action(packetCounter);
}

async function setLimit(o: LimitOptions): Promise<void> {
  const [{ readRateLimit, RateLimitInput }, { HyperturtleError }] = await Promise.all([
    import('../../net/rate-limit.ts'),
    import('../../core/errors.ts'),
  ]);
  type Given = number | undefined;
  const limit = (bytes: Given, burst: Given, packets: Given, packetsBurst: Given): LimitInput => ({
    ...(bytes === undefined ? {} : { bytesPerSecond: bytes }),
    ...(burst === undefined ? {} : { burstBytes: burst }),
    ...(packets === undefined ? {} : { packetsPerSecond: packets }),
    ...(packetsBurst === undefined ? {} : { burstPackets: packetsBurst }),
  });
  const checked = RateLimitInput().safeParse({
    out: limit(o.outBytes, o.outBurst, o.outPackets, o.outPacketsBurst),
    in: limit(o.inBytes, o.inBurst, o.inPackets, o.inPacketsBurst),
  });
  if (!checked.success)
    throw new HyperturtleError(
      'HT_USAGE',
      checked.error.issues.map((i) => `${i.path.join('.')}: ${i.message}`).join('; '),
    );
  const result = await withAgent(o, async (c) => {
    const maps = await mapsOf(c, 'rate-limiter', o.nic);
    const { peer, signal, timeoutMs } = c;
    const params = { object: networkObject('rate-limiter', o.nic), policy: { rateLimit: checked.data } };
    await peer.request('agent.policy.set', params, { signal, timeoutMs });
    return readRateLimit(maps);
  });
  print(o, result, limitsText);
}

function limitsText(limits: RateLimitInput): string {
  const each = (l: LimitInput = {}): string =>
    [
      l.bytesPerSecond === undefined ? '' : `${l.bytesPerSecond} bytes/s (burst ${l.burstBytes ?? 0})`,
      l.packetsPerSecond === undefined
        ? ''
        : `${l.packetsPerSecond} packets/s (burst ${l.burstPackets ?? 0})`,
    ]
      .filter(Boolean)
      .join(', ') || 'unlimited';
  return `out: ${each(limits.out)}\nin:  ${each(limits.in)}`;
}

async function showLimit(o: NicOptions): Promise<void> {
  const { rateCounts, readRateLimit } = await import('../../net/rate-limit.ts');
  const result = await withAgent(o, async (c) => {
    const maps = await mapsOf(c, 'rate-limiter', o.nic);
    return { limits: await readRateLimit(maps), counts: await rateCounts(maps) };
  });
  print(o, result, ({ limits, counts }) =>
    [
      limitsText(limits),
      columns(
        ['DIRECTION', 'PASSED', 'BYTES', 'DROPPED', 'BYTES'],
        (['out', 'in'] as const).map((d) => [
          d,
          ...[
            counts[d].passedPackets,
            counts[d].passedBytes,
            counts[d].droppedPackets,
            counts[d].droppedBytes,
          ].map(String),
        ]),
      ),
    ].join('\n'),
  );
}

interface FlowRate extends Flow {
  /** Since the look before; bytes per second. */
  outRate: number;
  inRate: number;
}

/** Busiest since the look before first; without one, most bytes in all. */
function flowRates(before: readonly Flow[] | undefined, now: readonly Flow[], seconds: number): FlowRate[] {
  const id = (f: Flow): string =>
    [f.protocol, f.local, f.localPort, f.remote, f.remotePort, f.firstNs].join(' ');
  const known = new Map(before?.map((f) => [id(f), f]));
  return now
    .map((f) => {
      const was = known.get(id(f));
      const per = (is: number, then = 0): number => (before ? Math.max(0, is - then) / seconds : is);
      return { ...f, outRate: per(f.outBytes, was?.outBytes), inRate: per(f.inBytes, was?.inBytes) };
    })
    .sort((a, b) => b.outRate + b.inRate - a.outRate - a.inRate || b.lastNs - a.lastNs);
}

/** Bytes as a person reads them at a glance: 950, 12.3k, 4.56M. */
function short(n: number): string {
  let value = n;
  for (const unit of ['', 'k', 'M', 'G']) {
    if (value < 999.5 || unit === 'G')
      return `${unit === '' ? Math.round(value) : value.toPrecision(3)}${unit}`;
    value /= 1000;
  }
  return '';
}

/** Numbers first, as addresses may be long: what a narrow screen cuts off is their end. */
function flowsText(
  rates: readonly FlowRate[],
  o: { perSecond: boolean; rows: number; brief?: boolean },
): string {
  const unit = o.perSecond ? '/S' : '';
  const side = (address: string, port: number): string =>
    address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
  const shown = (n: number): string => (o.brief ? short(n) : String(Math.round(n)));
  return (
    columns(
      [`OUT B${unit}`, `IN B${unit}`, 'OUT PKTS', 'IN PKTS', 'PROTO', 'LOCAL', 'REMOTE'],
      rates
        .slice(0, o.rows)
        .map((f) => [
          ...[f.outRate, f.inRate, f.outPackets, f.inPackets].map(shown),
          ...[f.protocol, side(f.local, f.localPort), side(f.remote, f.remotePort)],
        ]),
    ) || 'no flows'
  );
}

async function tcptop(o: TcptopOptions): Promise<void> {
  const [{ readFlows }, { sleep }, { isHyperturtleError }, { liveTable }] = await Promise.all([
    import('../../net/counters.ts'),
    import('../../core/wait.ts'),
    import('../../core/errors.ts'),
    import('../shared/screen.ts'),
  ]);
  const screen = o.json ? undefined : liveTable();
  try {
    await withAgent(o, async (c) => {
      const maps = await mapsOf(c, 'tcptop', o.nic);
      let before: { flows: Flow[]; at: number } | undefined;
      for (let n = 0; n < (o.count ?? Infinity); n++) {
        if (n > 0) await sleep(o.intervalS * 1000, c.signal);
        const at = performance.now();
        const { flows, others } = await readFlows(maps);
        const rates = flowRates(before?.flows, flows, before ? (at - before.at) / 1000 : 1);
        if (!screen) printJson({ flows: rates.slice(0, o.rows), others });
        else {
          const perSecond = before !== undefined;
          const total = (d: 'outRate' | 'inRate'): string => short(rates.reduce((sum, f) => sum + f[d], 0));
          const head = [
            `${o.nic}: ${flows.length} flow${flows.length === 1 ? '' : 's'}`,
            `out ${total('outRate')} B${perSecond ? '/s' : ''}, in ${total('inRate')} B${perSecond ? '/s' : ''}`,
            `without ports: ${others.out.packets} packets out, ${others.in.packets} in`,
          ].join('; ');
          const text = `${head}\n${flowsText(rates, { perSecond, rows: o.rows, brief: screen.columns !== undefined })}`;
          screen.show(text.split('\n'));
        }
        before = { flows, at };
      }
    });
  } catch (e) {
    if (!isHyperturtleError(e, 'HT_INTERRUPTED')) throw e;
  } finally {
    screen?.end();
  }
}

async function packetCounter(o: NicOptions): Promise<void> {
  const { packetCounts } = await import('../../net/counters.ts');
  const result = await withAgent(o, async (c) => packetCounts(await mapsOf(c, 'packet-counter', o.nic)));
  print(o, result, (r) =>
    columns(
      ['DIRECTION', 'FRAMES', 'PACKETS', 'BYTES'],
      (['out', 'in'] as const).map((d) => [d, ...[r[d].packets, r[d].segments, r[d].bytes].map(String)]),
    ),
  );
}
