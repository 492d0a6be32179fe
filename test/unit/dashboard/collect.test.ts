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
import { serve } from '../../../src/wire/handlers.ts';
import type { Handlers } from '../../../src/wire/handlers.ts';
import { RpcPeer } from '../../../src/wire/peer.ts';
import type { Result } from '../../../src/wire/schema.ts';
import { LIMITS, NIC } from '../../support/wire.ts';

const SINCE = '2026-11-22T10:00:00.000Z';
const b64 = (b: Uint8Array): string => Buffer.from(b).toString('base64');

const VM: VmReport = {
  ...{ name: 'one', from: 'config', phase: 'attached', problem: null, pid: 7 },
  qmp: { path: '/q', problem: null },
  arena: { bytes: 1 << 20, state: 'plugged' },
  agent: { socket: '/a', connected: true, hello: null },
  ...{ used: null, stats: [], l1: null, nicMachine: null },
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
    ...{
      version: 4,
      protocol: 6,
      local: address(1),
      remote: address(2),
      local_port: 80,
      remote_port: remotePort,
    },
  });
  const value = FLOW.encode({
    ...FLOW.decode(new Uint8Array(FLOW.size)),
    ...{ packets: [1, 2], bytes: [bytes, 1], first_ns: 5, last_ns: 6 },
  });
  return { key: b64(key), value: b64(value) };
}

let dir: string;
let server: net.Server | undefined;
let collector: Collector;
let dumps: number;

async function daemon(dump: (cursor: string | undefined) => Result<'map.dump'>): Promise<void> {
  const handlers: Partial<Handlers<typeof ADMIN_METHODS>> = {
    'admin.status': () => ({
      ...{
        version: '1',
        instance: '0d9c3a52-6e0b-4f0e-8d0f-4d1f6a2b7c33',
        pid: 1,
        startedAt: SINCE,
        config: '/c',
      },
      ...{ vms: 1, attached: 1, memoryBytes: 1 },
      loader: { busy: 0, waiting: 0, loads: 0, killed: 0, crashed: 0, workers: 1 },
    }),
    'admin.doctor': () => ({ findings: [] }),
    'admin.vm.list': () => ({ vms: [VM] }),
    'admin.events': () => ({ events: [] }),
    'admin.vm.detail': () => ({ objects: [], limits: LIMITS, signature: 'none', hooks: [] }),
    'admin.map.get': () => ({ value: null, perCpu: [b64(new Uint8Array(PACKET_COUNT.size))] }),
    'admin.map.dump': ({ vm, object, cursor }) => {
      expect([vm, object]).toEqual(['one', 'tcptop.web']);
      dumps++;
      return dump(cursor);
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

it('says why it knows nothing while no daemon is there, and asks the next one', async () => {
  const away = await collector.state(undefined);
  expect([away.daemon, away.vms]).toEqual([null, []]);
  expect(away.problem).toMatch(/no daemon at .*start it/);
  await daemon(() => ({ entries: [] }));
  await new Promise((r) => setTimeout(r, 450)); // as long as one look is fresh
  expect((await collector.state(undefined)).daemon).toMatchObject({ vms: 1 });
});
