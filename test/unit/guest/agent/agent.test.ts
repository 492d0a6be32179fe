import { afterEach, beforeEach, expect, test } from 'vitest';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { openFds } from '../../../../src/bpf/fds.ts';
import { waitFor } from '../../../../src/core/wait.ts';
import { Agent } from '../../../../src/guest/agent/agent.ts';
import { AgentConfig } from '../../../../src/guest/agent/config.ts';
import { fixOf } from '../../../../src/guest/agent/fixes.ts';
import { AGENT_METRICS } from '../../../../src/guest/agent/metric-table.ts';
import { connectSocket } from '../../../../src/core/sockets.ts';
import { agentHasRegistered } from '../../../../src/guest/vmm/registered.ts';
import { LOCAL_METHODS } from '../../../../src/guest/agent/schema.ts';
import { wireFailure } from '../../../../src/wire/errors.ts';
import { RpcPeer } from '../../../../src/wire/peer.ts';
import type { NotificationName } from '../../../../src/wire/schema.ts';
import { FakeHost } from '../../../support/fake-host.ts';
import { FakeModule } from '../../../support/fake-module.ts';

type Client = RpcPeer<typeof LOCAL_METHODS>;

let dir: string;
let host: FakeHost;
let module: FakeModule;
let agent: Agent | undefined;
let clients: Client[];
let heard: { name: NotificationName; params: unknown }[];

beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), 'ht-agent-'));
  host = new FakeHost(path.join(dir, 'port'));
  module = new FakeModule();
  clients = [];
  heard = [];
});

afterEach(async () => {
  for (const c of clients) c.close();
  await agent?.stop();
  agent = undefined;
  await host.kill();
  rmSync(dir, { recursive: true, force: true });
  expect(module.opened, 'open devices').toBe(0);
  expect(openFds()).toEqual([]);
});

const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

async function startAgent(extra: object = {}, moreTimes: object = {}): Promise<Agent> {
  const config = AgentConfig().parse({
    port: host.socket,
    socket: path.join(dir, 'agent.sock'),
    state: path.join(dir, 'state'),
    ...extra,
  });
  const times = {
    retryMinMs: 5,
    retryMaxMs: 20,
    settleMs: 5,
    deviceMs: 10,
    pingEveryMs: 20,
    pingTimeoutMs: 500,
  };
  agent = await Agent.start({
    config,
    version: '0.0.0',
    log,
    module: module.open,
    times: { ...times, ...moreTimes },
  });
  return agent;
}

async function client(): Promise<Client> {
  const socket = await connectSocket(path.join(dir, 'agent.sock'), AbortSignal.timeout(2000));
  const peer = new RpcPeer(socket, {
    calls: LOCAL_METHODS,
    session: 'connection',
    onNotify: (name, params) => heard.push({ name, params }),
  });
  clients.push(peer);
  return peer;
}

const until = (what: string, holds: () => boolean): Promise<true> =>
  waitFor(what, () => (holds() ? true : undefined), { timeoutMs: 4000, intervalMs: 3 });
const reached = (): Promise<true> => until('desired state', () => agent!.status().desired.reached);
const inHost = (): string =>
  [...host.objects.keys(), ...host.links.map((l) => `${l.object}@${l.hook}`)].join(' ');
const elf = (text: string): string => Buffer.from(text).toString('base64');

test('what the configuration wants is loaded and linked, and what it does not is taken away', async () => {
  await host.start();
  const file = path.join(dir, 'npf.o');
  writeFileSync(file, 'npf');
  await startAgent({ objects: { npf: { file } }, links: [{ object: 'npf', hook: 'npf' }] });
  await reached();
  expect(inHost()).toBe('npf npf@npf');
  expect(agent!.status()).toMatchObject({
    host: { state: 'connected', vm: 'vm1' },
    desired: { objects: 1, links: 1 },
  });

  // an older agent's leavings
  await agent!.stop();
  host.calls.length = 0;
  await startAgent();
  await until('an empty host', () => inHost() === '');
  expect(host.calls.filter((c) => c !== 'hello')).toEqual(['unlink 1', 'unload npf']);
});

test('what commands load is there again after the host, the agent, or both were killed, in any order', async () => {
  await host.start();
  await startAgent();
  const c = await client();
  await c.request('load', { name: 'mine', elf: elf('mine 1') });
  const { link } = await c.request('link', { object: 'mine', hook: 'npf' });
  expect(link).toMatchObject({ object: 'mine', program: 'on_fault' });
  expect(inHost()).toBe('mine mine@npf');

  await host.restart();
  await until('reached again', () => inHost() === 'mine mine@npf');

  await agent!.stop();
  await host.kill();
  await startAgent();
  await until('waiting for the host', () => agent!.status().host.lastError !== null);
  await host.start();
  await until('reached again', () => inHost() === 'mine mine@npf');

  await agent!.stop();
  await host.restart();
  await startAgent();
  await until('reached again', () => inHost() === 'mine mine@npf');

  const again = await client();
  await again.request('unlink', { id: host.links[0]!.id });
  await again.request('unload', { name: 'mine' });
  await host.restart();
  await reached();
  expect(inHost()).toBe('');
});

test("a refused object leaves the desired state alone, and the caller gets the host's answer", async () => {
  await host.start();
  host.refuse.set('evil', 'helper.forbidden');
  await startAgent();
  const c = await client();
  await expect(c.request('load', { name: 'x', elf: elf('evil') })).rejects.toMatchObject({
    code: 'HT_REFUSED',
    detail: { rule: 'helper.forbidden' },
  });
  expect(await c.request('agent.desired', {})).toEqual({ objects: [], links: [], removed: [] });
  await c.request('load', { name: 'x', elf: elf('good 1') });
  await expect(c.request('load', { name: 'x', elf: elf('good 2') })).rejects.toMatchObject({
    code: 'HT_EXISTS',
  });
  await expect(c.request('replace', { name: 'x', elf: elf('evil') })).rejects.toMatchObject({
    code: 'HT_REFUSED',
  });
  expect(await c.request('replace', { name: 'x', elf: elf('good 2') })).toMatchObject({ kept: ['counts'] });
  await host.restart();
  await until('the newer one', () => host.calls.filter((n) => n === 'load x').length >= 4);
  await reached();
  const list = await c.request('list', {});
  expect(list.objects[0]?.sha256).toBe((await c.request('agent.desired', {})).objects[0]?.sha256);
});

test('what cannot be written down is not done: a command says so with path and reason, and nothing is changed in the host', async () => {
  await host.start();
  await startAgent();
  const c = await client();
  await c.request('load', { name: 'a', elf: elf('a') });
  const { link } = await c.request('link', { object: 'a', hook: 'npf' });
  await reached();
  const before = await c.request('agent.desired', {});
  // where the next state is to be written; root writes into anything but a directory
  const blocked = path.join(dir, 'state/agent.json.new');
  mkdirSync(blocked);
  const why = {
    code: 'HT_KERNEL',
    message: expect.stringMatching(/^\S+state\/agent\.json: the state cannot be written: /) as string,
  };
  host.calls.length = 0;
  await expect(c.request('unload', { name: 'a', force: true })).rejects.toMatchObject(why);
  await expect(c.request('load', { name: 'b', elf: elf('b') })).rejects.toMatchObject(why);
  await expect(c.request('replace', { name: 'a', elf: elf('a 2') })).rejects.toMatchObject(why);
  await expect(c.request('unlink', { id: link.id })).rejects.toMatchObject(why);
  await expect(c.request('link', { object: 'a', hook: 'exit' })).rejects.toMatchObject(why);
  expect(host.calls.filter((call) => call !== 'list')).toEqual([]);
  expect(inHost()).toBe('a a@npf');
  expect(await c.request('agent.desired', {})).toEqual(before);
  expect(readdirSync(path.join(dir, 'state/objects'))).toHaveLength(1);

  rmSync(blocked, { recursive: true });
  await c.request('unload', { name: 'a', force: true });
  expect(inHost()).toBe('');
  expect(readdirSync(path.join(dir, 'state/objects'))).toEqual([]);
});

test('what the host loses or its operator takes away is put back; what it refuses then is told as a problem', async () => {
  await host.start();
  await startAgent();
  const c = await client();
  await c.request('load', { name: 'a', elf: elf('a') });
  await c.request('link', { object: 'a', hook: 'npf' });
  host.drop('a');
  await until('put back', () => inHost() === 'a a@npf');
  host.refuse.set('a', 'policy');
  host.drop('a');
  await until('the problem', () => agent!.status().desired.problems.length > 0);
  expect(agent!.status().desired.problems[0]).toMatchObject({ step: 'load a', kind: 'REFUSED' });
});

test('a host that was restarted without the stream being closed is greeted again at once, and a question that came meanwhile answered', async () => {
  // between them something that stays, as QEMU does
  const streams: { far: net.Socket | undefined; near: net.Socket | undefined } = {
    far: undefined,
    near: undefined,
  };
  const connectFar = (): void => {
    const far = net.connect(host.socket);
    streams.far = far;
    far.on('error', () => {});
    far.on('data', (bytes) => streams.near?.write(bytes));
  };
  const relay = net.createServer((near) => {
    streams.near = near;
    near.on('error', () => {});
    near.on('data', (bytes) => streams.far?.write(bytes));
  });
  await host.start();
  await new Promise<void>((resolve) => relay.listen(path.join(dir, 'relay'), resolve));
  try {
    connectFar();
    // no ping would find out in the time of this test
    await startAgent({ port: path.join(dir, 'relay') }, { pingEveryMs: 60_000 });
    await reached();
    const c = await client();
    await c.request('load', { name: 'a', elf: elf('a') });
    await host.restart();
    connectFar();
    expect((await c.request('limits', {})).signature).toBe('none');
    await until('the object in the new host', () => inHost() === 'a');
    expect(agent!.status().host.sessions).toBe(2);
  } finally {
    await agent?.stop();
    streams.far?.destroy();
    streams.near?.destroy();
    await new Promise((resolve) => relay.close(resolve));
  }
});

test('without the host, questions fail with the reason, and the own ones are answered', async () => {
  await startAgent();
  const c = await client();
  await expect(c.request('list', {})).rejects.toMatchObject({ code: 'HT_UNAVAILABLE' });
  expect(await c.request('agent.status', {})).toMatchObject({ host: { vm: null, daemon: null } });
  expect(await c.request('ping', {})).toEqual({});
});

test('events and watches go on over a restart of the host', async () => {
  await host.start();
  await startAgent();
  const c = await client();
  await c.request('load', { name: 'a', elf: elf('a') });
  await c.request('events', { since: 1 });
  const { watch } = await c.request('map.watch', { object: 'a', map: 'counts', intervalMs: 100 });
  host.changed([...host.watches.keys()][0]!, 'AAAA', 'AQ==');
  await until('the change', () => heard.some((h) => h.name === 'map.changed'));
  await host.restart();
  await until('the renewed watch', () => host.watches.size === 1);
  host.changed([...host.watches.keys()][0]!, 'AAAA', 'Ag==');
  await until('the second change', () => heard.filter((h) => h.name === 'map.changed').length === 2);
  expect(heard.filter((h) => h.name === 'map.changed').at(-1)?.params).toMatchObject({
    watch,
    changes: [{ key: 'AAAA', value: 'Ag==' }],
  });
  const numbers = heard.flatMap((h) => (h.name === 'event' ? [(h.params as { seq: number }).seq] : []));
  expect(numbers).toEqual(numbers.map((_, i) => i + 1));
  expect(numbers.length).toBeGreaterThanOrEqual(2); // loaded before and after the restart

  c.close();
  await until('the end of the watch in the host', () => host.watches.size === 0);
});

test('nested guests are registered and shown with their counters, also in the metrics', async () => {
  await host.start();
  await startAgent({ metrics: { socket: path.join(dir, 'metrics.sock') } });
  module.startVm(42);
  await until('the registration', () => agent!.status().l2s.length === 1);
  expect(agent!.status().l2s[0]).toMatchObject({ pid: 42, name: 'l2-42', mappedNew: 5, passes: 3 });
  const text = await scrape(path.join(dir, 'metrics.sock'));
  expect(text).toContain('hyperturtle_agent_l2s 1');
  expect(text).toContain('hyperturtle_l2_mapped_new{l2="l2-42",pid="42"} 5');
  expect(text).toContain('hyperturtle_agent_pool_frames 100');
  expect(text.trimEnd().endsWith('# EOF')).toBe(true);
  const served = [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map((m) => `${m[1]} ${m[2]}`);
  expect(served.sort()).toEqual(
    Object.entries(AGENT_METRICS)
      .map(([name, { kind }]) => `${name} ${kind}`)
      .sort(),
  );
});

test("counters of nested guests and of the agent have the time at which they began: another one after the agent's restart", async () => {
  await host.start();
  const metrics = { metrics: { socket: path.join(dir, 'metrics.sock') } };
  const begun = async (): Promise<{ agent: number; l2: number; since: string | undefined }> => {
    await until('the registration', () => agent!.status().l2s.length === 1);
    const text = await scrape(path.join(dir, 'metrics.sock'));
    const of = (name: string): number =>
      Number(new RegExp(`^hyperturtle_${name} (\\S+)$`, 'm').exec(text)?.[1]);
    const { startedAt, l2s } = agent!.status();
    expect(of('agent_start_time_seconds')).toBe(Date.parse(startedAt!) / 1000);
    const times = {
      agent: of('agent_start_time_seconds'),
      l2: of('l2_start_time_seconds\\{l2="l2-42",pid="42"\\}'),
      since: l2s[0]?.since,
    };
    expect(times.l2).toBe(Date.parse(times.since!) / 1000);
    return times;
  };
  await startAgent(metrics);
  module.startVm(42);
  const before = await begun();
  await agent!.stop();
  await new Promise((r) => setTimeout(r, 5));
  await startAgent(metrics);
  const after = await begun();
  expect(after.agent).toBeGreaterThan(before.agent);
  expect(after.l2).toBeGreaterThan(before.l2);
});

test('what is wanted of a NIC that was given back is a problem with the command that ends it, and ends by it', async () => {
  await host.start();
  await startAgent();
  const c = await client();
  await c.request('nic.add', { id: 'web' });
  for (const name of ['firewall.web', 'mine']) await c.request('load', { name, elf: elf(name) });
  await c.request('link', { object: 'firewall.web', hook: 'tc-ingress', target: 'web' });
  await c.request('link', { object: 'mine', hook: 'xdp', target: 'web' });
  await c.request('nic.del', { id: 'web' });
  await until('the problems', () => agent!.status().desired.problems.length === 2);
  for (const p of agent!.status().desired.problems)
    expect(fixOf(p), p.step).toMatch(/^'hyperturtle nic del web --force' gives up all/);

  const given = await c.request('agent.unwant', { target: 'web' });
  expect(given.links.map((l) => l.object).sort()).toEqual(['firewall.web', 'mine']);
  expect(given.objects).toEqual(['firewall.web']);
  await reached();
  expect(inHost()).toBe('mine');
  const { objects, links } = await c.request('agent.desired', {});
  expect([objects.map((o) => o.name), links]).toEqual([['mine'], []]);
  expect(await c.request('agent.unwant', { target: 'web' })).toEqual({ links: [], objects: [] });

  // with the NIC there, and for good: also after a restart
  await c.request('nic.add', { id: 'web' });
  await c.request('link', { object: 'mine', hook: 'xdp', target: 'web' });
  await c.request('agent.unwant', { target: 'web' });
  expect(inHost()).toBe('mine');
  await agent!.stop();
  await startAgent();
  await reached();
  expect(inHost()).toBe('mine');
});

test('what is wanted of a NIC is given up also when the NIC, a link or a program goes meanwhile', async () => {
  await host.start();
  await startAgent();
  const c = await client();
  await c.request('nic.add', { id: 'web' });
  for (const name of ['firewall.web', 'mine']) await c.request('load', { name, elf: elf(name) });
  await c.request('link', { object: 'firewall.web', hook: 'tc-ingress', target: 'web' });
  await c.request('link', { object: 'mine', hook: 'xdp', target: 'web' });
  host.onCall = (call) => {
    if (call.startsWith('unlink')) host.links = [];
    if (call === 'unload firewall.web') host.objects.delete('firewall.web');
  };
  const given = await c.request('agent.unwant', { target: 'web' });
  expect([given.links.length, given.objects]).toEqual([2, ['firewall.web']]);
  expect(host.calls.filter((call) => call.startsWith('unlink'))).toHaveLength(2);
  const { objects, links } = await c.request('agent.desired', {});
  expect([objects.map((o) => o.name), links]).toEqual([['mine'], []]);
  await reached();
  expect(inHost()).toBe('mine');
});

test('what the host refuses to end for a NIC stays wanted, and comes back where it had gone', async () => {
  await host.start();
  await startAgent();
  const c = await client();
  await c.request('nic.add', { id: 'web' });
  await c.request('load', { name: 'firewall.web', elf: elf('f') });
  await reached();
  await new Promise((resolve) => setTimeout(resolve, 100)); // nothing is left to be compared
  host.onCall = (call) => {
    if (call !== 'unload firewall.web') return;
    host.objects.delete('firewall.web'); // and no event of it
    throw wireFailure('BUSY', 'another request is under way');
  };
  await expect(c.request('agent.unwant', { target: 'web' })).rejects.toMatchObject({ code: 'HT_BUSY' });
  await until('the object', () => inHost() === 'firewall.web');
  expect((await c.request('agent.desired', {})).objects.map((o) => o.name)).toEqual(['firewall.web']);
});

test('an object that the host has lost and that is given up is a problem no longer, at once', async () => {
  await host.start();
  await startAgent({}, { retryMinMs: 60_000, retryMaxMs: 60_000 });
  const c = await client();
  await c.request('load', { name: 'x', elf: elf('x') });
  host.refuse.set('x', 'helper');
  host.drop('x');
  await until('the problem', () => agent!.status().desired.problems.length === 1);
  await c.request('unload', { name: 'x' });
  await reached();
});

test('a running nested guest for which the next arena has no room is told to have no index, in status and metrics', async () => {
  await host.start();
  await startAgent({ metrics: { socket: path.join(dir, 'metrics.sock') } });
  module.startVm(42);
  await until('the registration', () => agent!.status().l2s.length === 1);
  expect(agent!.status().l2s[0]).toMatchObject({ slots: 1 });
  expect(agent!.status().l2s[0]).not.toHaveProperty('noIndex');
  module.setArena(false);
  await until('the end of the arena', () => agent!.status().l2s.length === 0);
  module.index = false;
  module.setArena(true);
  await until('the registration', () => agent!.status().l2s.length === 1);
  expect(agent!.status().l2s[0]).toMatchObject({
    slots: 0,
    noIndex: expect.stringMatching(
      /no page of its RAM has a place in the arena.*page index had no room/,
    ) as string,
  });
  const { l2s } = await (await client()).request('agent.status', {});
  expect(l2s[0]).toHaveProperty('noIndex');
  expect(agent!.status().l2Problems[0]!.message).toMatch(/1024 pages .*the page index has no room/);
  expect(await scrape(path.join(dir, 'metrics.sock'))).toContain(
    'hyperturtle_l2_indexed{l2="l2-42",pid="42"} 0',
  );
});

test('a run waits for the agent at the socket that it was given', async () => {
  await startAgent();
  module.startVm(42);
  await agentHasRegistered(42, 4000, undefined, path.join(dir, 'agent.sock'));
  expect(agent!.status().l2s.map((l2) => l2.pid)).toEqual([42]);
});

test('a second agent at the same socket is refused, an abandoned socket is not', async () => {
  await host.start();
  const first = await startAgent();
  await expect(startAgent()).rejects.toMatchObject({ code: 'HT_BUSY' });
  agent = first;
  await first.stop();
  writeFileSync(path.join(dir, 'agent.sock'), '');
  rmSync(path.join(dir, 'agent.sock'));
  await startAgent();
  await reached();
});

function scrape(socketPath: string): Promise<string> {
  return new Promise((resolve, reject) => {
    http
      .get(
        { socketPath, path: '/metrics', headers: { accept: 'application/openmetrics-text' }, agent: false },
        (response) => {
          let text = '';
          response.on('data', (part: Buffer) => (text += part.toString()));
          response.on('end', () => resolve(text));
        },
      )
      .on('error', reject);
  });
}
