/** The firewall program on real kernel objects: packets of every kind, and a plain reference beside it. */
import path from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { localMaps } from '../../src/bpf/local-maps.ts';
import { BpfObject } from '../../src/bpf/object.ts';
import { runProgram } from '../../src/bpf/test-run.ts';
import { packetProgramTypes } from '../../src/host/hooks.ts';
import { formatAddress } from '../../src/net/address.ts';
import { applyFirewall, firewallHits, readFirewall } from '../../src/net/firewall.ts';
import { formatRule, policyOf } from '../../src/net/firewall-rules.ts';
import type { Direction, PolicyInput, Rule } from '../../src/net/firewall-rules.ts';
import type { MapAccess } from '../../src/net/maps.ts';
import { compileBpfFile, findClang, whyNoBpf } from '../support/bpf.ts';
import { ethernet, frame, judge } from '../support/frames.ts';
import type { PacketSpec } from '../support/frames.ts';

const clang = findClang();
const why = whyNoBpf(clang);
const TCP = { protocol: 6, fromPort: 1000, toPort: 80 };
const V4 = { from: '10.0.0.2', to: '192.0.2.1' };
const V6 = { from: 'fd00::2', to: '2001:db8::1' };

describe.skipIf(why !== undefined)(`the firewall${why ? ` (skipped: ${why})` : ''}`, () => {
  let elf: Buffer;
  let object: BpfObject;
  let maps: MapAccess;
  beforeAll(() => {
    elf = compileBpfFile(clang!, path.resolve('c/bpf/net/firewall.bpf.c'));
  });
  beforeEach(() => {
    object?.close();
    object = BpfObject.load({ name: 'firewall', elf, types: packetProgramTypes() });
    maps = localMaps(object);
  });
  afterAll(() => object.close());

  const PASS = { firewall_xdp: 2, firewall_out: -1, firewall_in: -1 } as const;
  const DROP = { firewall_xdp: 1, firewall_out: 2, firewall_in: 2 } as const;
  type Program = keyof typeof PASS;
  const run = (program: Program, bytes: Uint8Array): 'allow' | 'deny' => {
    const { result } = runProgram(object.program(program).fd, bytes);
    expect([PASS[program], DROP[program]]).toContain(result);
    return result === PASS[program] ? 'allow' : 'deny';
  };
  /** What both programs that see this direction say: they must agree. */
  const verdict = (bytes: Uint8Array, direction: Direction = 'out'): string => {
    // the kernel makes no skb for a test run of an IP frame that has no whole IP header
    const least = bytes[12] === 0x86 ? 54 : 34;
    if (bytes[13] !== 6 && bytes.length < least)
      return direction === 'in' ? 'deny' : run('firewall_xdp', bytes);
    if (direction === 'in') return run('firewall_in', bytes);
    const [tc, xdp] = [run('firewall_out', bytes), run('firewall_xdp', bytes)];
    expect(xdp).toBe(tc);
    return tc;
  };
  const counted = async (what: string, direction: Direction = 'out'): Promise<number> =>
    (await firewallHits(maps)).others.find((o) => o.what === what && o.direction === direction)!.packets;

  it('stays within the budget of the verifier', () => {
    for (const p of object.programs) expect(p.info().verifiedInstructions).toBeLessThan(200_000);
  });

  it('drops everything before it has a policy', async () => {
    expect(await readFirewall(maps)).toBeUndefined();
    expect(verdict(frame({ ...V4, ...TCP }))).toBe('deny');
    expect(verdict(ethernet(0x0806, Array<number>(28).fill(0)), 'in')).toBe('deny');
  });

  it('lets the first rule that matches decide, in each direction for itself', async () => {
    await applyFirewall(maps, {
      default: { in: 'allow', out: 'deny' },
      rules: [
        'deny out tcp from any to 192.0.2.1 port 81',
        'allow out tcp from 10.0.0.0/8 to 192.0.2.0/24 port 80-443',
        'deny in udp from any port 53',
        {
          action: 'allow',
          direction: 'out',
          protocol: 'udp',
          to: ['2001:db8::/32'],
          toPort: [53, '5000-5003'],
        },
      ],
    });
    const out = (p: Partial<PacketSpec>): string => verdict(frame({ ...V4, ...TCP, ...p }));
    expect(out({})).toBe('allow');
    expect(out({ toPort: 81 })).toBe('deny');
    expect(out({ toPort: 443 })).toBe('allow');
    expect(out({ toPort: 444 })).toBe('deny');
    expect(out({ from: '11.0.0.0' })).toBe('deny');
    expect(out({ to: '192.0.3.0' })).toBe('deny');
    expect(out({ ...V6, protocol: 17, toPort: 53 })).toBe('allow');
    expect(out({ ...V6, protocol: 17, toPort: 5003 })).toBe('allow');
    expect(out({ ...V6, protocol: 17, toPort: 5004 })).toBe('deny');
    expect(out({ ...V6, to: '2001:db9::', protocol: 17, toPort: 53 })).toBe('deny');
    expect(verdict(frame({ ...V4, ...TCP }), 'in')).toBe('allow');
    expect(verdict(frame({ ...V4, protocol: 17, fromPort: 53 }), 'in')).toBe('deny');
    const { rules } = await firewallHits(maps);
    expect(rules.map((r) => [r.direction, r.packets])).toEqual([
      ['out', 2],
      ['out', 4],
      ['out', 4],
      ['in', 1],
    ]);
  });

  it('sees through VLAN tags, IPv4 options and IPv6 extension headers', async () => {
    await applyFirewall(maps, { default: 'deny', rules: ['allow both tcp from any to any port 80'] });
    for (const more of [{ vlans: [5] }, { vlans: [5, 6] }, { optionWords: 1 }, { optionWords: 10 }])
      for (const toPort of [80, 81])
        expect(verdict(frame({ ...V4, ...TCP, ...more, toPort }))).toBe(toPort === 80 ? 'allow' : 'deny');
    const chains = [[0], [43], [60], [51], [135], [0, 43, 60, 51], [0, 60, 43, 51, 60, 135]];
    for (const extensions of chains)
      for (const toPort of [80, 81])
        expect(verdict(frame({ ...V6, ...TCP, extensions, vlans: [7], toPort }), 'in')).toBe(
          toPort === 80 ? 'allow' : 'deny',
        );
  });

  it('drops what is malformed even where all is allowed, and counts it', async () => {
    await applyFirewall(maps, { default: 'allow' });
    const whole4 = frame({ ...V4, ...TCP, payloadBytes: 20 });
    const whole6 = frame({ ...V6, ...TCP, extensions: [0, 60], payloadBytes: 20 });
    const changed = (bytes: Uint8Array, at: number, value: number): Uint8Array => {
      const copy = bytes.slice();
      copy[at] = value;
      return copy;
    };
    const bad: Uint8Array[] = [
      // every length short of the whole: the IP header tells a length that is not there
      ...Array.from({ length: whole4.length - 15 }, (_, i) => whole4.slice(0, 15 + i)),
      ...Array.from({ length: whole6.length - 15 }, (_, i) => whole6.slice(0, 15 + i)),
      changed(whole4, 14, 0x55),
      changed(whole4, 14, 0x44),
      changed(whole4, 14, 0x4f), // options up to beyond the ports
      changed(whole4, 17, 22), // total length without ports
      changed(whole4, 16, 0xff),
      changed(whole6, 14, 0x40),
      changed(whole6, 19, 34), // ends between the extension headers and the ports
      changed(whole6, 55, 200), // an extension header longer than the packet
      frame({ ...V4, ...TCP, vlans: [1, 2, 3] }),
      frame({ ...V6, ...TCP, extensions: [0, 60, 60, 60, 60, 60, 60] }),
      frame({ ...V4, ...TCP, fragment: { offset: 1, more: false } }),
      frame({ ...V6, ...TCP, fragment: { offset: 1, more: true } }),
    ];
    for (const [i, bytes] of bad.entries()) {
      expect(verdict(bytes), `frame ${i} of ${bytes.length} bytes`).toBe('deny');
      expect(verdict(bytes, 'in'), `frame ${i} of ${bytes.length} bytes`).toBe('deny');
    }
    const headless = bad.filter((b) => b.length < (b[12] === 0x86 ? 54 : 34)).length;
    expect(await counted('malformed', 'out')).toBe(2 * bad.length - headless);
    expect(await counted('malformed', 'in')).toBe(bad.length - headless);
    expect(verdict(whole4)).toBe('allow');
    expect(verdict(whole6)).toBe('allow');
    expect(verdict(Uint8Array.from([...whole4, 0, 0, 0]))).toBe('allow'); // padding
  });

  it('judges later fragments by the rules without ports alone, first ones by all', async () => {
    await applyFirewall(maps, {
      default: 'allow',
      rules: ['deny both udp from any to any port 53', 'deny both from any to 203.0.113.0/24'],
    });
    for (const v of [V4, V6])
      for (const d of ['in', 'out'] as const) {
        const dns = { ...v, protocol: 17, toPort: 53 };
        expect(verdict(frame(dns), d)).toBe('deny');
        expect(verdict(frame({ ...dns, fragment: { offset: 0, more: true } }), d)).toBe('deny');
        expect(verdict(frame({ ...dns, fragment: { offset: 2, more: true } }), d)).toBe('allow');
      }
    const elsewhere = { ...V4, to: '203.0.113.9', protocol: 17, fragment: { offset: 100, more: false } };
    expect(verdict(frame(elsewhere))).toBe('deny');
  });

  it('lets neighbours find each other and judges other frames that are not IP as it was told', async () => {
    const arp = ethernet(0x0806, Array<number>(28).fill(0));
    const lldp = ethernet(0x88cc, Array<number>(28).fill(0));
    const icmp6 = (type: number, hopLimit: number): Uint8Array =>
      frame({ ...V6, protocol: 58, fromPort: type << 8, hopLimit });
    await applyFirewall(maps, { default: 'deny', nonIp: { in: 'allow' } });
    expect(verdict(arp)).toBe('allow');
    for (const type of [133, 134, 135, 136]) expect(verdict(icmp6(type, 255))).toBe('allow');
    expect(verdict(icmp6(135, 254))).toBe('deny');
    expect(verdict(icmp6(132, 255))).toBe('deny');
    expect(verdict(icmp6(137, 255))).toBe('deny'); // redirect
    expect(verdict(lldp)).toBe('deny');
    expect(verdict(lldp, 'in')).toBe('allow');
    await applyFirewall(maps, { default: 'deny', neighbours: false });
    expect(verdict(arp)).toBe('deny');
    expect(verdict(icmp6(135, 255))).toBe('deny');
    expect(await counted('neighbours')).toBe(10);
  });

  it('keeps the counters of rules that stay, and gives the policy back as it was set', async () => {
    const rules = ['allow out tcp from any to any port 80', 'deny out udp from any to any port 53'];
    await applyFirewall(maps, { default: 'deny', rules });
    verdict(frame({ ...V4, ...TCP }));
    await applyFirewall(maps, { default: 'allow', rules: ['deny out sctp', ...rules.slice(0, 1)] });
    verdict(frame({ ...V4, ...TCP }));
    verdict(frame({ ...V4, ...TCP, protocol: 132 }));
    const hits = await firewallHits(maps);
    expect(hits.rules.map((r) => [r.rule, r.packets])).toEqual([
      ['deny out sctp from any to any', 2],
      ['allow out tcp from any to any port 80', 4],
    ]);
    expect(await readFirewall(maps)).toEqual({
      default: { in: 'allow', out: 'allow' },
      nonIp: { in: 'allow', out: 'allow' },
      neighbours: true,
      rules: ['deny out sctp from any to any', 'allow out tcp from any to any port 80'],
    });
  });

  it('judges random packets by random rules as a plain list of rules does', async () => {
    // few values, near each other, so that rules and packets meet
    const v4 = fc.nat(63).map((n) => 0x0a00_0000n + BigInt(n));
    // also where the program's words of an address end (bits 80 and 32) and where prefixes usually do (64)
    const part = (bits: bigint, more: bigint): fc.Arbitrary<bigint> =>
      fc.constantFrom(0n, 1n, 2n, more, (1n << bits) - 2n, (1n << bits) - 1n);
    const v6 = fc
      .tuple(part(48n, 0xfd00n << 32n), part(48n, 1n << 32n), part(32n, 7n))
      .map(([high, middle, low]) => (high << 80n) | (middle << 32n) | low);
    const bits6 = fc.constantFrom(0, 1, 47, 48, 49, 63, 64, 65, 95, 96, 97, 126, 127, 128);
    const prefix = fc.oneof(
      fc.tuple(v4, fc.integer({ min: 24, max: 32 })).map(([a, bits]) => {
        const low = BigInt(32 - bits);
        return { version: 4 as const, address: (a >> low) << low, bits };
      }),
      fc.tuple(v6, bits6).map(([a, bits]) => {
        const low = BigInt(128 - bits);
        return { version: 6 as const, address: (a >> low) << low, bits };
      }),
    );
    const range = fc.tuple(fc.nat(15), fc.nat(15)).map(([a, b]) => ({
      first: Math.min(a, b) + (a % 3 === 0 ? 65_520 : 0),
      last: Math.max(a, b) + (a % 3 === 0 ? 65_520 : 0),
    }));
    const protocol = fc.constantFrom(6, 17, 1, 58, 132, 47);
    const rule: fc.Arbitrary<Rule> = fc
      .record({
        action: fc.constantFrom('allow' as const, 'deny' as const),
        direction: fc.constantFrom('in' as const, 'out' as const, 'both' as const),
        protocol: fc.option(protocol),
        from: fc.array(prefix, { maxLength: 2 }),
        fromPorts: fc.array(range, { maxLength: 2 }),
        to: fc.array(prefix, { maxLength: 2 }),
        toPorts: fc.array(range, { maxLength: 2 }),
      })
      .map((r) =>
        r.protocol !== null && [6, 17, 132].includes(r.protocol) ? r : { ...r, fromPorts: [], toPorts: [] },
      )
      .filter(
        (r) =>
          r.from.length === 0 ||
          r.to.length === 0 ||
          r.from.some((a) => r.to.some((b) => a.version === b.version)),
      );
    const port = fc.nat(15).chain((n) => fc.constantFrom(n, n + 65_520));
    const packet: fc.Arbitrary<PacketSpec> = fc
      .record({
        version: fc.constantFrom(4 as const, 6 as const),
        v4: fc.tuple(v4, v4),
        v6: fc.tuple(v6, v6),
        protocol,
        fromPort: port,
        toPort: port,
        later: fc.nat(5),
      })
      .map(({ version, later, ...r }) => {
        const [a, b] = version === 4 ? r.v4 : r.v6;
        return {
          from: formatAddress(version, a),
          to: formatAddress(version, b),
          protocol: r.protocol,
          fromPort: r.fromPort,
          toPort: r.toPort,
          ...(later === 0 ? { fragment: { offset: 50, more: true } } : {}),
        };
      });
    const rules = fc.oneof(
      fc.array(rule, { maxLength: 12 }),
      fc.array(rule, { minLength: 60, maxLength: 140 }),
    );
    await fc.assert(
      fc.asyncProperty(
        rules,
        fc.constantFrom('allow' as const, 'deny' as const),
        fc.array(packet, { minLength: 40, maxLength: 40 }),
        async (list, byDefault, packets) => {
          const input: PolicyInput = { default: byDefault, rules: list.map(formatRule) };
          const policy = policyOf(input);
          await applyFirewall(maps, input);
          for (const p of packets)
            for (const d of ['in', 'out'] as const)
              expect(verdict(frame(p), d), `${d} ${JSON.stringify(p)}`).toBe(judge(policy, d, p));
        },
      ),
      { numRuns: 25, seed: 4 },
    );
  });

  it('holds 255 rules for each direction and refuses more, changing nothing', async () => {
    const rules = Array.from(
      { length: 255 },
      (_, i) => `deny out tcp from 10.${i}.0.0/16 to 10.${i}.7.0/24 port ${i * 7}`,
    );
    await applyFirewall(maps, { default: 'allow', rules });
    for (const i of [0, 63, 64, 127, 128, 191, 192, 254]) {
      const p = { from: `10.${i}.1.1`, to: `10.${i}.7.9`, protocol: 6, toPort: i * 7 };
      expect(verdict(frame(p))).toBe('deny');
      expect(verdict(frame({ ...p, toPort: i * 7 + 1 }))).toBe('allow');
    }
    await expect(
      applyFirewall(maps, { default: 'deny', rules: [...rules, 'allow out tcp'] }),
    ).rejects.toMatchObject({ code: 'HT_NO_SPACE' });
    expect(verdict(frame({ ...V4, ...TCP }))).toBe('allow');
    const { rules: hits } = await firewallHits(maps);
    expect(hits.reduce((n, h) => n + h.packets, 0)).toBe(16);
  });
});
