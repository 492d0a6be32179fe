import { describe, expect, it } from 'vitest';
import { benchPolicy } from '../../../../src/bench/net/lab.ts';
import { NET_BARS, pairedRatio, summarizeNet } from '../../../../src/bench/net/summary.ts';
import {
  NET_APPS,
  NET_LOADS,
  NET_VARIANTS,
  loadLineSchema,
  netResultSchema,
} from '../../../../src/bench/net/schema.ts';
import type { NetBlock, NetLoad, NetResult, NetVariant } from '../../../../src/bench/net/schema.ts';
import { PAPER_BENCHES } from '../../../../src/bench/paper/benches.ts';
import { PolicyInput } from '../../../../src/net/firewall-rules.ts';
import { netBarTable, netHtml, netTerminal } from '../../../../src/report/net.ts';

const byPacket = (load: NetLoad): boolean => load === 'round-trip' || load === 'packets';

const block = (
  variant: NetVariant,
  load: NetLoad,
  round: number,
  turn: number,
  us: number,
  reflected = 2,
): NetBlock => ({
  variant,
  load,
  round,
  turn,
  lost: 0,
  emulatorCpuSeconds: 0.5,
  ns: byPacket(load) ? Array.from({ length: 11 }, (_, i) => (us + i - 5) * 1000) : [],
  units: byPacket(load) ? 11 : 1000,
  totalNs: us * 1000 * (byPacket(load) ? 11 : 1),
  counters: {
    exits: 110,
    nestedRuns: 33,
    l2ExitsByCause: { hlt: 22, npf: 11 },
    reflectedByCause: { hlt: reflected * 11 },
  },
});

/** All ways, a machine that is twice as slow in every other round, and direct ones that take half the time. */
const blocks: NetBlock[] = [0, 1, 2].flatMap((round) =>
  [0, 1].flatMap((turn) =>
    [...NET_LOADS, ...NET_APPS].flatMap((load) =>
      NET_VARIANTS.map((v) => {
        const slow = round === 1 ? 2 : 1;
        return block(v, load, round, turn, slow * (v.startsWith('nested') ? 1000 : 500));
      }),
    ),
  ),
);

describe('figures of bench net', () => {
  it('compare neighbours, so that a machine which is slower for a while changes no ratio', () => {
    const ratio = pairedRatio(blocks, { load: 'round-trip', of: 'pass', to: 'nested', as: 'fast' });
    expect(ratio).toEqual({ median: 2, least: 2, greatest: 2 });
    const cost = pairedRatio(blocks, { load: 'round-trip', of: 'nested', to: 'direct', as: 'long' });
    expect(cost?.median).toBe(2);
  });

  it('tell how far rounds lie apart', () => {
    const odd = blocks.map((b) =>
      b.round === 2 && b.variant === 'pass' ? block('pass', b.load, 2, b.turn, 250) : b,
    );
    const ratio = pairedRatio(odd, { load: 'round-trip', of: 'pass', to: 'nested', as: 'fast' });
    expect(ratio).toEqual({ median: 2, least: 2, greatest: 4 });
  });

  it('have no ratio where one of the two was not measured', () => {
    const half = blocks.filter((b) => b.variant !== 'nested');
    expect(pairedRatio(half, { load: 'round-trip', of: 'pass', to: 'nested', as: 'fast' })).toBeUndefined();
    expect(Object.keys(summarizeNet(half).ratios)).not.toContain('roundTripPassVsNested');
  });

  it('count exits for each round trip, and for each packet where several are under way', () => {
    const direct = summarizeNet(blocks).variants.find((v) => v.variant === 'direct')!;
    expect(direct).toMatchObject({
      l2ExitsPerRoundTrip: 3,
      reflectedPerRoundTrip: 2,
      exitsPerRoundTrip: 10,
      l2ExitsPerPacket: 1.5,
      reflectedPerPacket: 1,
      exitsPerPacket: 5,
      roundTrips: 66,
    });
  });

  it('take off what an idle L2 does in that time', () => {
    // 1000 exits a second; a direct round trip takes 2/3 ms on average and 10 exits
    const idle = { ...block('direct', 'memcached', 0, 0, 1e6), load: 'idle' as const };
    const quiet = { ...idle, counters: { ...idle.counters, exits: 1000 } };
    const s = summarizeNet([...blocks, quiet]);
    expect(s.idleExitsPerSecond).toBeCloseTo(1000);
    const direct = s.variants.find((v) => v.variant === 'direct')!;
    expect(direct.exitsPerRoundTripAlone).toBeCloseTo(10 - 2 / 3);
  });

  it('name each bar once', () => {
    expect(new Set(NET_BARS.map((b) => b.key)).size).toBe(NET_BARS.length);
  });
});

describe('what bench net is made of', () => {
  it('reads what the program in L2 prints', () => {
    expect(
      loadLineSchema().parse({ kind: 'rtt', window: 1, count: 1, lost: 0, totalNs: 5, ns: [5] }),
    ).toBeTruthy();
    expect(() => loadLineSchema().parse({ kind: 'rtt', window: 1, count: 1 })).toThrow();
  });

  it('has as many rules as were asked for, the last of which let its own packets pass', () => {
    const policy = benchPolicy(100);
    expect(PolicyInput().parse(policy).rules).toHaveLength(100);
    expect(policy.rules.slice(-2).join()).toMatch(/allow both udp.*allow both tcp/);
  });
});

describe('its report', () => {
  const result: NetResult = netResultSchema().parse({
    schema: 1,
    benchmark: 'net',
    environment: {
      hyperturtleVersion: '0',
      startedAt: '2026-01-01T00:00:00.000Z',
      durationSeconds: 1,
      accelerator: 'tcg',
      hostCpus: 2,
      hostCpuModel: 'x',
      hostMemoryMib: 1,
      hostKernel: '6',
      nodeVersion: 'v20',
      l0Kernel: '6',
      l1Kernel: '6',
      l2Kernel: '6',
      l0Qemu: '7',
      outerQemu: '7',
    },
    parameters: {
      rounds: 3,
      turns: 2,
      roundTrips: 11,
      packets: 11,
      window: 32,
      tcpBytes: 1000,
      rules: 100,
      requests: 300,
      clients: 8,
      l2MemoryMib: 96,
      l1MemoryMib: 2048,
      l1Cpus: 1,
      mtu: 1500,
      l2KernelArguments: '',
    },
    blocks,
    summary: summarizeNet(blocks),
  });

  it('has the figures that the paper has', () => {
    const bench = PAPER_BENCHES.find((b) => b.name === 'net')!;
    const values = bench.figures(JSON.parse(JSON.stringify(result)));
    // one round of three took twice as long
    expect(values['udp']?.nested).toBeCloseTo(4000 / 3);
    expect(values['udp']?.accelerated).toBeCloseTo(2000 / 3);
    expect(Object.keys(values).sort()).toEqual(['memcached', 'nginx', 'redis', 'throughput', 'udp']);
    for (const v of Object.values(values)) expect(v!.nested).toBeGreaterThan(0);
  });

  it('says of every bar whether it was met', () => {
    const rows = netBarTable(result).rows;
    expect(rows.find((r) => r[0]!.includes('direct + pass: times as fast'))).toEqual(
      expect.arrayContaining(['2 (2–2)', '≥ 1.64', 'met']),
    );
    const slow = {
      ...result,
      summary: summarizeNet(blocks.map((b) => ({ ...b, ns: b.ns.map(() => 1000) }))),
    };
    expect(netBarTable(slow).rows.some((r) => r.includes('NOT MET'))).toBe(true);
  });

  it('shows every way in text and in one HTML file', () => {
    const text = netTerminal(result, undefined);
    const html = netHtml(result);
    for (const name of [
      'memcached',
      'nested virtio, vhost in L1',
      'direct + tcptop',
      'direct + rate limiter',
    ]) {
      expect(text).toContain(name);
      expect(html).toContain(name);
    }
    expect(html).not.toMatch(/NaN|undefined/);
    // services are left out where none was asked
    const packetsOnly = blocks.filter(
      (b) => b.load !== 'memcached' && b.load !== 'redis' && b.load !== 'nginx',
    );
    const without = { ...result, blocks: packetsOnly, summary: summarizeNet(packetsOnly) };
    expect(netTerminal(without, undefined)).not.toContain('memcached');
    expect(netHtml(without)).not.toContain('memcached');
  });
});
