/** Chains of programs on a real network device: a veth pair in a network namespace of the test's own, real frames. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { here } from '../../src/bpf/calls.ts';
import { openFds } from '../../src/bpf/fds.ts';
import { ensureBpffs } from '../../src/bpf/pins.ts';
import { BpfObject } from '../../src/bpf/object.ts';
import type { PacketHook } from '../../src/host/hooks.ts';
import { PACKET_HOOKS, packetProgramTypes } from '../../src/host/hooks.ts';
import { checkObject } from '../../src/host/admission/check.ts';
import { PacketChain, removeLeftovers } from '../../src/host/packets/chain.ts';
import { PacketLinks } from '../../src/host/packets/packet-links.ts';
import { compileBpf, findClang, whyNoBpf } from '../support/bpf.ts';
import { compiledSources } from '../support/compiled.ts';
import { packetSource } from '../support/bpf-sources.ts';
import { VethPair, whyNoNetwork } from '../support/network.ts';

const clang = findClang();
const why = whyNoBpf(clang) ?? whyNoNetwork();

const SECTIONS: Readonly<Record<PacketHook, string>> = {
  xdp: 'xdp',
  'tc-ingress': 'tc/ingress',
  'tc-egress': 'tc/egress',
};
/** Frames of the other side reach XDP and ingress, ours to it egress. */
const WAYS: readonly { hook: PacketHook; tcx: boolean }[] = [
  ...PACKET_HOOKS.map((hook) => ({ hook, tcx: true })),
  { hook: 'tc-ingress', tcx: false },
  { hook: 'tc-egress', tcx: false },
];

describe.skipIf(why !== undefined)(`chains of programs on a device${why ? ` (skipped: ${why})` : ''}`, () => {
  let net: VethPair;
  const objects: BpfObject[] = [];
  const chains: PacketChain[] = [];

  beforeAll(() => {
    net = VethPair.create();
  });
  afterAll(() => {
    net.close();
  });
  afterEach(async () => {
    await net.within(async () => {
      for (const c of chains.splice(0)) await c.close();
    });
    for (const o of objects.splice(0)) o.close();
    expect(net.attached()).toEqual([]);
    expect(openFds().filter((f) => !f.includes('namespace'))).toEqual([]);
  });

  /** A program that counts what it sees in `seen` and answers always the same. */
  const program = (hook: PacketHook, answer: number): { fd: number; name: string; seen: () => number } => {
    if (!clang) throw new Error('no clang');
    const elf = compileBpf(clang, packetSource(SECTIONS[hook], answer));
    const verdict = checkObject(elf, { policy: { cpus: 2 } });
    expect(verdict.refusals).toEqual([]);
    const object = BpfObject.load({ name: 'test', elf, types: packetProgramTypes() });
    objects.push(object);
    const [only] = object.programs;
    return { fd: only?.fd ?? -1, name: 'prog', seen: () => net.counter(object.mapFd('seen')) };
  };
  const chain = (hook: PacketHook, tcx: boolean): PacketChain => {
    const made = new PacketChain(here, net.ifindex, hook, { tcx });
    chains.push(made);
    return made;
  };
  const NEXT: Readonly<Record<PacketHook, number>> = { xdp: 2, 'tc-ingress': -1, 'tc-egress': 3 };
  const DROP: Readonly<Record<PacketHook, number>> = { xdp: 1, 'tc-ingress': 2, 'tc-egress': 2 };
  /** XDP_TX and TC_ACT_REDIRECT: nothing that a tenant may do. */
  const ELSEWHERE: Readonly<Record<PacketHook, number>> = { xdp: 3, 'tc-ingress': 7, 'tc-egress': 7 };

  it.each(WAYS)('$hook (tcx: $tcx): runs them in their order until one drops', async ({ hook, tcx }) => {
    const first = program(hook, NEXT[hook]);
    const second = program(hook, DROP[hook]);
    const third = program(hook, NEXT[hook]);
    const c = chain(hook, tcx);
    await net.within(async () => {
      expect(net.ping()).toBe(true);
      await c.set([{ id: 1, order: 100, program: first }]);
      expect(net.ping()).toBe(true);
      expect(first.seen()).toBeGreaterThan(0);
      // given last, runs first; and among equals the older one
      await c.set([...c.entries, { id: 3, order: 100, program: third }]);
      await c.set([...c.entries, { id: 2, order: 50, program: second }]);
      const before = first.seen();
      expect(net.ping()).toBe(false);
      expect([first.seen(), third.seen()]).toEqual([before, 0]);
      expect(c.counts(2)).toEqual({ runs: second.seen(), dropped: second.seen() });
      expect(c.counts(1)).toEqual({ runs: before, dropped: 0 });
      await c.set(c.entries.filter((e) => e.id !== 2));
      expect(net.ping()).toBe(true);
      expect(third.seen()).toBe(first.seen() - before);
      expect(c.counts(1).runs).toBe(first.seen());
    });
  });

  it.each(WAYS)('$hook (tcx: $tcx): takes every other answer for a drop', async ({ hook, tcx }) => {
    const c = chain(hook, tcx);
    const elsewhere = program(hook, ELSEWHERE[hook]);
    await net.within(async () => {
      await c.set([{ id: 1, order: 1, program: elsewhere }]);
      expect(net.ping()).toBe(false);
      expect(c.counts(1).dropped).toBeGreaterThan(0);
    });
  });

  it('tc: TC_ACT_OK passes the frame at once, past the programs behind', async () => {
    const c = chain('tc-ingress', true);
    const accept = program('tc-ingress', 0);
    const drop = program('tc-ingress', 2);
    await net.within(async () => {
      await c.set([
        { id: 1, order: 1, program: accept },
        { id: 2, order: 2, program: drop },
      ]);
      expect(net.ping()).toBe(true);
      expect(drop.seen()).toBe(0);
    });
  });

  it.each(WAYS)(
    '$hook (tcx: $tcx): no frame passes while one dropping program takes the place of another',
    async ({ hook, tcx }) => {
      const one = program(hook, DROP[hook]);
      const other = program(hook, DROP[hook]);
      const c = chain(hook, tcx);
      await net.within(async () => {
        await c.set([{ id: 1, order: 1, program: one }]);
        const { sent, answered } = await net.during(async () => {
          for (let i = 0; i < 100; i++) await c.set([{ id: 1, order: 1, program: i % 2 ? one : other }]);
        });
        expect(sent).toBeGreaterThan(100);
        expect(answered).toBe(0);
        expect(one.seen()).toBeGreaterThan(0);
        expect(other.seen()).toBeGreaterThan(0);
      });
    },
  );

  /** A process that drops all by a filter of clsact, until it is killed. */
  const killed = async (options: object): Promise<void> => {
    const child = spawn(
      'ip',
      ['netns', 'exec', net.name, process.execPath, '--input-type=module', '-e', LEFT_BEHIND],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
        env: {
          ...process.env,
          SOURCES: compiledSources(),
          IFINDEX: String(net.ifindex),
          OPTIONS: JSON.stringify(options),
        },
      },
    );
    await once(child.stdout, 'data');
    net.within(() => expect(net.ping()).toBe(false));
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  };

  it('a filter of clsact that is pinned drops on after a kill -9, and the next process has it go on with its counters', async () => {
    const bpffs = mkdtempSync(path.join(os.tmpdir(), 'ht-pins-'));
    ensureBpffs(bpffs);
    const pins = path.join(bpffs, 'chain');
    try {
      await killed({ pins });
      const drop = program('tc-ingress', DROP['tc-ingress']);
      const c = new PacketChain(here, net.ifindex, 'tc-ingress', { tcx: false, pins });
      chains.push(c);
      await net.within(async () => {
        expect(net.ping()).toBe(false);
        expect([await c.hold(), c.ids]).toEqual([true, [1]]);
        await c.adopt([{ id: 1, order: 1, program: drop }], new Map());
        // one by the killed one, one without it, one here
        expect(net.ping()).toBe(false);
        expect(c.counts(1)).toEqual({ runs: 3, dropped: 3 });
        expect(drop.seen()).toBe(1);
        // a stranger's filter, or none, is nothing to take over
        await c.close();
        expect(net.ping()).toBe(true);
        expect(await c.hold()).toBe(false);
        expect(existsSync(pins)).toBe(false);
      });
    } finally {
      execFileSync('umount', [bpffs]);
      rmSync(bpffs, { recursive: true });
    }
  });

  it('what cannot be looked at is held, not given up', async () => {
    const pins = mkdtempSync(path.join(os.tmpdir(), 'ht-pins-'));
    mkdirSync(path.join(pins, 'web/xdp'), { recursive: true });
    writeFileSync(path.join(pins, 'web/xdp/link'), ''); // in no bpffs
    const links = new PacketLinks({ call: here, nics: () => [], pins });
    const before = { runs: 0, dropped: 0 };
    const left = { id: 1, entry: 'none', before };
    const adopted = await links.adopt({ nic: 'web', hook: 'xdp', ifindex: net.ifindex, links: [left] });
    expect(adopted).toMatchObject({ held: true });
    expect([existsSync(path.join(pins, 'web/xdp/link')), links.hooksOf('web')]).toEqual([true, ['xdp']]);
    await links.endHeld();
    expect(existsSync(path.join(pins, 'web'))).toBe(false);
    rmSync(pins, { recursive: true });
  });

  it('a filter of clsact that a killed process left unpinned passes all frames, and the next start removes it', async () => {
    await killed({});
    await net.within(async () => {
      expect(net.ping()).toBe(true);
      expect(net.attached()).toHaveLength(1);
      await removeLeftovers(here, net.ifindex);
      expect(net.attached()).toEqual([]);
    });
  });
});

/** Drops all by a filter, then waits to be killed. */
const LEFT_BEHIND = `
const { PacketChain } = await import(process.env.SOURCES + '/host/packets/chain.js');
const { loadCode } = await import(process.env.SOURCES + '/bpf/net.js');
const code = new Uint8Array([0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0]);
const program = loadCode(3, 'drop', code);
const { here } = await import(process.env.SOURCES + '/bpf/calls.js');
const chain = new PacketChain(here, Number(process.env.IFINDEX), 'tc-ingress', { tcx: false, ...JSON.parse(process.env.OPTIONS) });
await chain.set([{ id: 1, order: 1, program: { fd: program.fd, name: 'drop' } }]);
console.log('ready');
setInterval(() => {}, 1000);`;
