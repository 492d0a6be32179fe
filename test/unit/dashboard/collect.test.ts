/** What the dashboard makes of a daemon's answers, tenants' maps above all: flows where they are flows, and no end to nothing. */
import net from 'node:net';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Collector } from '../../../src/dashboard/collect.ts';
import { ADMIN_METHODS } from '../../../src/host/daemon/admin-schema.ts';
import type { VmReport } from '../../../src/host/daemon/admin-schema.ts';
import { FLOW, FLOW_KEY, PACKET_COUNT } from '../../../src/kernel/net.ts';
import { HT_PROFILE_STACK } from '../../../src/kernel/sample.ts';
import { serve } from '../../../src/wire/handlers.ts';
import type { Handlers } from '../../../src/wire/handlers.ts';
import { RpcPeer } from '../../../src/wire/peer.ts';
import type { Result } from '../../../src/wire/schema.ts';
import { LIMITS, NIC } from '../../support/wire.ts';

const SINCE = '2026-11-22T10:00:00.000Z';
const b64 = (b: Uint8Array): string => Buffer.from(b).toString('base64');

const VM: VmReport = {
  name: 'one',
  from: 'config',
  phase: 'attached',
  problem: null,
  pid: 7,
  qmp: { path: '/q', problem: null },
  arena: { bytes: 1 << 20, state: 'plugged' },
  agent: { socket: '/a', connected: true, hello: null },
  used: null,
  ended: [],
  leftOff: [],
  stats: [],
  l1: null,
  nicMachine: null,
  nics: [{ ...NIC, id: 'web', ifname: 'htt0' }],
  links: [
    { id: 1, object: 'tcptop.web', program: 'in', hook: 'xdp', target: 'web', since: SINCE },
    { id: 2, object: 'other.web', program: 'in', hook: 'tc-egress', target: 'web', since: SINCE },
  ],
};

function flow(remotePort: number, bytes: number): { key: string; value: string } {
  const address = (last: number): number[] => [192, 0, 2, last, ...new Array<number>(12).fill(0)];
  const key = FLOW_KEY.encode({
    ...FLOW_KEY.decode(new Uint8Array(FLOW_KEY.size)),
    version: 4,
    protocol: 6,
    local: address(1),
    remote: address(2),
    local_port: 80,
    remote_port: remotePort,
  });
  const value = FLOW.encode({
    ...FLOW.decode(new Uint8Array(FLOW.size)),
    packets: [1, 2],
    bytes: [bytes, 1],
    first_ns: 5,
    last_ns: 6,
  });
  return { key: b64(key), value: b64(value) };
}

let dir: string;
let server: net.Server | undefined;
let collector: Collector;
let dumps: number;

async function daemon(
  dump: (cursor: string | undefined, map: string) => Result<'map.dump'>,
  vm: VmReport = VM,
): Promise<void> {
  const handlers: Partial<Handlers<typeof ADMIN_METHODS>> = {
    'admin.status': () => ({
      version: '1',
      instance: '0d9c3a52-6e0b-4f0e-8d0f-4d1f6a2b7c33',
      pid: 1,
      startedAt: SINCE,
      config: '/c',
      vms: 1,
      attached: 1,
      memoryBytes: 1,
      loader: { busy: 0, waiting: 0, loads: 0, killed: 0, crashed: 0, workers: 1 },
    }),
    'admin.doctor': () => ({ findings: [] }),
    'admin.vm.list': () => ({ vms: [vm] }),
    'admin.events': () => ({ events: [] }),
    'admin.vm.detail': () => ({ objects: [], limits: LIMITS, signature: 'none', hooks: [] }),
    'admin.map.get': () => ({ value: null, perCpu: [b64(new Uint8Array(PACKET_COUNT.size))] }),
    'admin.map.dump': ({ vm: name, object, map, cursor }) => {
      expect([name, object]).toEqual(['one', vm.links[0]?.object]);
      dumps++;
      return dump(cursor, map);
    },
  };
  const methods = serve(ADMIN_METHODS, handlers as Handlers<typeof ADMIN_METHODS>);
  server = net.createServer((socket) => {
    const peer = new RpcPeer(socket, { calls: {}, methods, session: 'connection', trusted: true });
    socket.on('close', () => peer.close());
  });
  await new Promise<void>((resolve) => server?.listen(path.join(dir, 's'), resolve));
}

beforeEach(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'ht-dashboard-'));
  collector = new Collector(path.join(dir, 's'));
  dumps = 0;
});
afterEach(() => {
  collector.close();
  server?.close();
  server = undefined;
  rmSync(dir, { recursive: true });
});

it('reads the flows of tcptop, the busiest first', async () => {
  await daemon(() => ({ entries: [flow(1000, 10), flow(2000, 99)] }));
  const { detail } = await collector.state('one');
  expect(detail?.traffic).toHaveLength(1);
  expect(detail?.traffic[0]).toMatchObject({ nic: 'web', object: 'tcptop.web', count: 2, problem: null });
  expect(detail?.traffic[0]?.flows[0]).toMatchObject({ remote: '192.0.2.2', remotePort: 2000, outBytes: 99 });
  expect((await collector.state(undefined)).detail).toBeNull();
});

it('says that a map which is something else has no flows', async () => {
  await daemon(() => ({ entries: [{ key: 'AAAA', value: 'AA==' }] }));
  const { detail, problem } = await collector.state('one');
  expect(problem).toBeNull();
  expect(detail?.traffic[0]).toMatchObject({ flows: [], count: 0 });
  expect(detail?.traffic[0]?.problem).toMatch(/./);
});

it('stops reading a map that never ends', async () => {
  await daemon(() => ({ entries: Array.from({ length: 1024 }, (_, i) => flow(i, i)), cursor: 'AAAA' }));
  const { detail } = await collector.state('one');
  expect(dumps).toBe(8);
  expect(detail?.traffic[0]).toMatchObject({ count: 8192 });
  expect(detail?.traffic[0]?.flows).toHaveLength(50);
});

const SAMPLED: VmReport = {
  ...VM,
  links: [
    {
      id: 1,
      object: 'profile',
      program: 'profile',
      hook: 'sample',
      target: null,
      options: { hz: 99 },
      since: SINCE,
    },
  ],
  l1: {
    at: SINCE,
    pool: null,
    l2Count: 1,
    l2s: [
      {
        pid: 9,
        name: 'web',
        number: 3,
        since: SINCE,
        pages: 1,
        framesTaken: 0,
        faults: 0,
        mappedNew: 0,
        mappedExisting: 0,
        mappedAhead: 0,
        passes: 0,
      },
    ],
  },
};

function stack(l2: number, ip: bigint, samples: number): { key: string; value: string } {
  const key = HT_PROFILE_STACK.encode({
    l2,
    vcpu: 0,
    space: 0x1000n,
    cpl: 3,
    count: 1,
    end: 0n,
    ips: [ip, ...new Array<bigint>(62).fill(0n)],
  });
  const value = Buffer.alloc(8);
  value.writeBigUInt64LE(BigInt(samples));
  return { key: b64(key), value: b64(value) };
}

it('reads stacks of the nested guest that is looked at, and of no other', async () => {
  const stacks = [stack(3, 0x10n, 30), stack(3, 0x20n, 10), stack(4, 0x10n, 500)];
  await daemon((_, map) => ({ entries: map === 'stacks' ? stacks : [] }), SAMPLED);
  expect((await collector.state('one', 9)).detail?.profile).toMatchObject({
    object: 'profile',
    hz: 99,
    samples: 40,
    problem: null,
    root: { samples: 40, children: [{ samples: 30 }, { samples: 10 }] },
    hottest: [{ name: '[0x10]', samples: 30 }, { samples: 10 }],
  });
  expect((await collector.state('one', 10)).detail?.profile).toBeNull();
  expect((await collector.state('one')).detail?.profile).toBeNull();
});

it('says that a map which is something else has no stacks, and stops reading one that never ends', async () => {
  await daemon(() => ({ entries: [{ key: 'AAAA', value: 'AA==' }] }), SAMPLED);
  const { detail, problem } = await collector.state('one', 9);
  expect(problem).toBeNull();
  expect(detail?.profile).toMatchObject({ samples: 0, root: null });
  expect(detail?.profile?.problem).toMatch(/./);
  server?.close();
  collector.close();
  collector = new Collector(path.join(dir, 's'));
  dumps = 0;
  const many = Array.from({ length: 1000 }, (_, i) => stack(3, BigInt(i + 1), i + 1));
  await daemon(() => ({ entries: many, cursor: 'AAAA' }), SAMPLED);
  const endless = (await collector.state('one', 9)).detail?.profile;
  // the stacks, and then the table of kernels
  expect(dumps).toBeLessThanOrEqual(9);
  expect(endless?.root?.children.length ?? 0).toBeLessThanOrEqual(2000);
});

it('says why it knows nothing while no daemon is there, and asks the next one', async () => {
  const away = await collector.state(undefined);
  expect([away.daemon, away.vms]).toEqual([null, []]);
  expect(away.problem).toMatch(/no daemon at .*start it/);
  await daemon(() => ({ entries: [] }));
  await new Promise((r) => setTimeout(r, 450)); // as long as one look is fresh
  expect((await collector.state(undefined)).daemon).toMatchObject({ vms: 1 });
});

it('tells what was answered in L0, was there already, and reached L1, for each hook and for all', async () => {
  const counts = { linked: true, entries: 0, learned: 0 };
  const npf = {
    hook: 'npf',
    runs: 100,
    handled: 10,
    passed: 90,
    reasons: { PRESENT: 80, NO_TABLE: 3, LOW_GPA: 7 },
  };
  const sample = { hook: 'sample', runs: 1000, handled: 0, passed: 1000, reasons: {} };
  const nic = { hook: 'xdp', runs: 50, handled: 0, passed: 50, reasons: {}, target: 'web', link: 1 };
  await daemon(() => ({ entries: [] }), {
    ...VM,
    stats: [npf, sample, nic].map((s) => ({ ...counts, ...s })),
  });
  const { vms, problem } = await collector.state(undefined);
  expect(problem).toBeNull();
  expect(vms[0]?.totals).toEqual({ events: 100, inL0: 10, there: 80, toL1: 10 });
  expect(vms[0]?.stats.map((s) => [s.hook, s.answersForL1])).toEqual([
    ['npf', true],
    ['sample', false],
    ['xdp', false],
  ]);
  expect(vms[0]?.stats[0]).toMatchObject({
    there: 80,
    toL1: 10,
    why: [
      ['LOW_GPA', 7],
      ['NO_TABLE', 3],
    ],
  });
});
