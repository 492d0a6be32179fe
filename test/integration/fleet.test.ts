/**
 * Sets of a cluster on a node: a real reconciler and agent, a host in this process, and a stand-in of the API server that fails
 * in each way that the real one is known to.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { exec } from '../../src/core/exec.ts';
import { sleep, waitFor } from '../../src/core/wait.ts';
import { RECONCILER_COMMAND } from '../../src/fleet/crd.ts';
import { compiledSources } from '../support/compiled.ts';
import { CONFIG_MAPS, Fleet, NODES, SETS, STATUSES } from '../support/fleet.ts';
import { Registry } from '../support/registry.ts';

const sha = (text: string): string => createHash('sha256').update(text).digest('hex');
const until = (what: string, holds: () => boolean): Promise<true> =>
  waitFor(what, () => (holds() ? true : undefined), { timeoutMs: 30_000, intervalMs: 10 });
const requests = (fleet: Fleet): number => [...fleet.api.answers.values()].reduce((a, b) => a + b, 0);

describe('a set', () => {
  test('is loaded and linked, changed in place, and unloaded when it is deleted', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    await fleet.reconcile();
    fleet.set('npf', 'v1');
    await fleet.becomes('npf Linked : set.npf*');
    expect(fleet.status()).toMatchObject({
      agent: '0.0.0',
      connected: true,
      summary: { wanted: 1, linked: 1, refused: 0 },
      sets: [{ generation: 1, version: 'object', sha256: sha('v1'), links: 1 }],
    });
    const owner = fleet.api.get(STATUSES, 'n1')?.metadata as unknown as { ownerReferences: object[] };
    expect(owner.ownerReferences).toEqual([
      { apiVersion: 'v1', kind: 'Node', name: 'n1', uid: fleet.api.get(NODES, 'n1')?.metadata.uid },
    ]);
    fleet.set('npf', 'v2');
    await fleet.becomes('npf Linked : set.npf*', () => fleet.status()?.sets[0]?.sha256 === sha('v2'));
    expect(fleet.host.calls.filter((c) => c.startsWith('unload') || c.startsWith('unlink'))).toEqual([]);
    fleet.api.delete(SETS, 'npf');
    await fleet.becomes(':');
    expect(fleet.status()?.summary).toEqual({ wanted: 0, linked: 0, refused: 0 });
  });

  test('is refused with the rule, and what was there stays', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    fleet.host.refuse.set('v2', 'helper.forbidden');
    await fleet.reconcile();
    fleet.set('npf', 'v1');
    await fleet.becomes('npf Linked : set.npf*');
    fleet.set('npf', 'v2');
    await fleet.becomes('npf Refused : set.npf*');
    expect(fleet.status()).toMatchObject({
      summary: { wanted: 1, linked: 0, refused: 1 },
      sets: [{ kind: 'REFUSED', rule: 'helper.forbidden', sha256: sha('v1'), generation: 2 }],
    });
    // somebody changes the rules of the host: no one has to touch the set
    fleet.host.refuse.clear();
    await fleet.becomes('npf Linked : set.npf*', () => fleet.has('set.npf') === sha('v2'));
  });

  test('that is refused is not sent to the host again and again', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    fleet.host.refuse.set('v1', 'helper.forbidden');
    await fleet.reconcile('n1', { refusedMs: 60_000, localMs: 20 });
    fleet.set('npf', 'v1');
    await fleet.becomes('npf Refused :');
    const rounds = fleet.reconcilers[0]?.counts.rounds ?? 0;
    await until('rounds', () => (fleet.reconcilers[0]?.counts.rounds ?? 0) > rounds + 5);
    expect(fleet.host.calls.filter((c) => c === 'load set.npf')).toHaveLength(1);
  });

  test('has the links that it says, and loses those that it does not say any more', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    await fleet.reconcile();
    fleet.set('npf', 'v1', { links: [{ hook: 'exit', options: { exits: ['cpuid'] } }] });
    await fleet.becomes('npf Linked : set.npf*');
    expect(fleet.host.links.map((l) => l.hook)).toEqual(['exit']);
    fleet.set('npf', 'v1', { links: [] });
    await fleet.becomes('npf Linked : set.npf');
    // a hook of KVM has one program: the host refuses the second link, and the object stays
    fleet.set('first', 'v2', { links: [{ hook: 'npf' }] });
    await fleet.becomes('first Linked npf Linked : set.npf set.first*');
    fleet.set('npf', 'v1', { links: [{ hook: 'npf' }] });
    await fleet.becomes('first Linked npf Refused : set.npf set.first*');
    expect(fleet.status()?.sets[1]).toMatchObject({ kind: 'HOOK_BUSY', sha256: sha('v1'), links: 0 });
  });

  test('is for nodes with its labels, while they have them', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1', { pool: 'a' });
    await fleet.reconcile();
    fleet.set('npf', 'v1', { nodeSelector: { pool: 'a' } });
    fleet.set('other', 'v2', { nodeSelector: { pool: 'b' } });
    await fleet.becomes('npf Linked : set.npf*');
    fleet.node('n1', { pool: 'b' });
    await fleet.becomes('other Linked : set.other*');
    // the Node object is made again by the kubelet: nothing is unloaded meanwhile
    fleet.api.delete(NODES, 'n1');
    await sleep(100);
    expect(fleet.state).toBe('other Linked : set.other*');
  });

  test('is rolled out by labels', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    fleet.configMap('v2');
    await fleet.reconcile();
    const rollout = { object: { configMap: { name: 'v2', key: 'o' } }, labels: { canary: 'true' } };
    fleet.set('npf', 'v1', { rollout });
    await fleet.becomes('npf Linked : set.npf*', () => fleet.has('set.npf') === sha('v1'));
    fleet.node('n1', { canary: 'true' });
    await fleet.becomes('npf Linked : set.npf*', () => fleet.has('set.npf') === sha('v2'));
    await until('status', () => fleet.status()?.sets[0]?.version === 'rollout');
    fleet.node('n1');
    await fleet.becomes('npf Linked : set.npf*', () => fleet.has('set.npf') === sha('v1'));
  });

  test('whose object is missing or another one than it says has failed until it is there', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    await fleet.reconcile();
    fleet.api.put(SETS, {
      metadata: { name: 'npf' },
      spec: { object: { configMap: { name: 'late', key: 'o' }, sha256: sha('right') } },
    });
    await fleet.becomes('npf Failed :');
    expect(fleet.status()?.sets[0]?.kind).toBe('NOT_FOUND');
    fleet.configMap('late', 'wrong');
    await until('integrity', () => fleet.status()?.sets[0]?.kind === 'INTEGRITY');
    fleet.configMap('late', 'right');
    await fleet.becomes('npf Linked : set.npf*');
  });

  test('that is none says so, and harms no other', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    await fleet.reconcile();
    fleet.api.put(SETS, { metadata: { name: 'bad' }, spec: { object: 7 } });
    fleet.set('npf', 'v1');
    await fleet.becomes('bad Failed npf Linked : set.npf*');
  });

  test('leaves alone what commands and the configuration load', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    await fleet.reconcile();
    fleet.set('npf', 'v1');
    await fleet.becomes('npf Linked : set.npf*');
    await fleet.withAgent((peer) =>
      peer.request('load', { name: 'mine', elf: Buffer.from('mine').toString('base64') }),
    );
    fleet.api.delete(SETS, 'npf');
    await fleet.becomes(': mine');
  });

  test('of a registry is fetched by its digest, with a token, and its signature beside it', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    await using registry = await Registry.start({ npf: 'from a registry' });
    const object = { oci: { image: registry.image, file: 'npf' } };
    await fleet.reconcile('n1', {}, [registry.host]);
    fleet.api.put(SETS, { metadata: { name: 'npf' }, spec: { object } });
    await fleet.becomes('npf Linked : set.npf*');
    expect(fleet.has('set.npf')).toBe(sha('from a registry'));
    expect(registry.seen).toContain('token repository:turtle/npf:pull');
    // a registry that gives other bytes is found out
    registry.content.set(registry.digestOf('from a registry'), Buffer.from('evil'));
    const other = { oci: { ...object.oci }, sha256: sha('from a registry') };
    fleet.api.put(SETS, { metadata: { name: 'npf' }, spec: { object: other } });
    await until('integrity', () => fleet.status()?.sets[0]?.kind === 'INTEGRITY');
    expect(fleet.has('set.npf')).toBe(sha('from a registry'));
    fleet.api.put(SETS, {
      metadata: { name: 'npf' },
      spec: { object: { oci: { ...object.oci, file: 'absent' } } },
    });
    await until('no such file', () => fleet.status()?.sets[0]?.kind === 'NOT_FOUND');
  });
});

describe('an API server', () => {
  test.each([false, true])('that says 410 Gone (as a status: %s) is listed again', async (goneByStatus) => {
    await using fleet = await Fleet.start({ goneByStatus });
    fleet.node('n1');
    await fleet.reconcile();
    fleet.set('old', 'v1');
    await fleet.becomes('old Linked : set.old*');
    // both watches end; meanwhile history is forgotten with all that happened in it
    fleet.api.fault = ({ verb }) => (verb === 'watch' ? { status: 503 } : undefined);
    fleet.api.cutWatches();
    fleet.api.delete(SETS, 'old');
    fleet.set('npf', 'v2');
    fleet.api.forget();
    fleet.api.fault = () => undefined;
    await fleet.becomes('npf Linked : set.npf*');
    expect(fleet.reconcilers[0]?.counts.sets).toMatchObject({ lists: 2, gone: 1 });
  });

  test('that throttles is asked again when it said, not before', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    fleet.set('npf', 'v1');
    let refused = 0;
    const times: number[] = [];
    fleet.api.fault = ({ verb, path }) => {
      if (verb !== 'list' || !path.endsWith('hyperupcallsets')) return undefined;
      times.push(performance.now());
      return refused++ < 2 ? { status: 429, retryAfterS: 1 } : undefined;
    };
    await fleet.reconcile();
    await fleet.becomes('npf Linked : set.npf*');
    expect(times).toHaveLength(3);
    for (const [i, t] of times.slice(1).entries()) expect(t - (times[i] ?? 0)).toBeGreaterThanOrEqual(990);
  });

  test('that throttles objects and status has them asked for later', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    fleet.set('npf', 'v1');
    const seen = { get: 0, apply: 0 };
    fleet.api.fault = ({ verb }) =>
      (verb === 'get' || verb === 'apply') && ++seen[verb] <= 2
        ? { status: 429, retryAfterS: 0.3 }
        : undefined;
    await fleet.reconcile();
    await fleet.becomes('npf Linked : set.npf*');
    expect(seen.get).toBeLessThanOrEqual(4);
    expect(seen.apply).toBeLessThanOrEqual(6);
  });

  test('that breaks off in the middle of a line has said nothing with it', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    await fleet.reconcile();
    fleet.set('npf', 'v1');
    await fleet.becomes('npf Linked : set.npf*');
    for (let i = 2; i < 6; i++) {
      fleet.api.cutWatches();
      fleet.set('npf', `v${i}`);
      await fleet.becomes('npf Linked : set.npf*', () => fleet.has('set.npf') === sha(`v${i}`));
    }
    expect(fleet.reconcilers[0]?.counts.sets.lists).toBe(1);
  });

  test('that lists an older state changes nothing back', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    await fleet.reconcile();
    fleet.set('gone', 'v0', { links: [] });
    fleet.set('npf', 'v1');
    await fleet.becomes('gone Linked npf Linked : set.gone set.npf*');
    const stale = fleet.api.list(SETS);
    fleet.api.delete(SETS, 'gone');
    fleet.set('npf', 'v2');
    await fleet.becomes('npf Linked : set.npf*', () => fleet.has('set.npf') === sha('v2'));
    const calls = fleet.host.calls.length;
    // the next list comes from a server that has not heard of the changes yet
    fleet.api.fault = ({ verb, path }) =>
      verb === 'list' && path.endsWith('hyperupcallsets') ? { list: stale } : undefined;
    fleet.api.forget();
    fleet.api.cutWatches();
    await until('a list', () => (fleet.reconcilers[0]?.counts.sets.lists ?? 0) > 1);
    await sleep(200);
    const rounds = fleet.reconcilers[0]?.counts.rounds ?? 0;
    await until('rounds after it', () => (fleet.reconcilers[0]?.counts.rounds ?? 0) > rounds + 1);
    expect(fleet.host.calls.slice(calls).filter((c) => /^(load|replace|unload)/.test(c))).toEqual([]);
    expect(fleet.has('set.npf')).toBe(sha('v2'));
  });

  test('that has no such resource any more, or refuses, is no reason to unload', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    await fleet.reconcile();
    fleet.set('npf', 'v1');
    await fleet.becomes('npf Linked : set.npf*');
    for (const status of [404, 403, 401, 500]) {
      const { lists = 0 } = fleet.reconcilers[0]?.counts.sets ?? {};
      fleet.api.fault = () => ({ status });
      fleet.api.forget();
      fleet.api.cutWatches();
      await until(`failure by ${status}`, () => fleet.log.some((l) => l.includes(`: ${status}`)));
      fleet.api.fault = ({ verb }) => (verb === 'list' ? { status } : undefined);
      await until('lists', () => (fleet.reconcilers[0]?.counts.sets.lists ?? 0) > lists + 1);
      expect(fleet.state).toBe('npf Linked : set.npf*');
    }
    fleet.api.fault = () => undefined;
    fleet.api.delete(SETS, 'npf');
    await fleet.becomes(':');
  });

  test('whose watches end at once, or say that something failed, is not asked without end', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    await fleet.reconcile('n1', { retryMinMs: 100, retryMaxMs: 200 });
    fleet.set('npf', 'v1');
    await fleet.becomes('npf Linked : set.npf*');
    fleet.api.fault = ({ verb }) => (verb === 'watch' ? { status: 500 } : undefined);
    fleet.api.sendWatches({ type: 'ERROR', object: { kind: 'Status', code: 500, message: 'etcd is away' } });
    const before = requests(fleet);
    await sleep(1000);
    // two watches, each every 50 ms on average once it waits for the longest time
    expect(requests(fleet) - before).toBeLessThan(60);
    expect(fleet.log.join('\n')).toContain('etcd is away');
    fleet.api.fault = () => undefined;
    fleet.set('npf', 'v2');
    await fleet.becomes('npf Linked : set.npf*', () => fleet.has('set.npf') === sha('v2'));
  });

  test('whose watch worked is asked again soon when it breaks, however often watches failed before', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    let failing = 5;
    fleet.api.fault = ({ verb, path }) =>
      verb === 'watch' && path.endsWith('hyperupcallsets') && failing-- > 0 ? { status: 500 } : undefined;
    // 20 ms, 40 ms ... 1.3 s for the seventh failure in a row
    await fleet.reconcile('n1', { retryMinMs: 20, retryMaxMs: 60_000 });
    fleet.set('npf', 'v1');
    await fleet.becomes('npf Linked : set.npf*');
    for (let i = 2; i < 12; i++) {
      await sleep(100);
      fleet.set('npf', `v${i}`);
      await fleet.becomes('npf Linked : set.npf*', () => fleet.has('set.npf') === sha(`v${i}`));
      fleet.api.cutWatches();
    }
    const begin = performance.now();
    fleet.set('npf', 'last');
    await fleet.becomes('npf Linked : set.npf*', () => fleet.has('set.npf') === sha('last'));
    expect(performance.now() - begin).toBeLessThan(5000);
  });

  test('that is away while the reconciler starts is waited for; programs stay', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    const stop = await fleet.reconcile();
    fleet.set('npf', 'v1');
    await fleet.becomes('npf Linked : set.npf*');
    await stop();
    fleet.api.fault = () => 'cut';
    await fleet.reconcile();
    await sleep(200);
    expect(fleet.state).toBe('npf Linked : set.npf*');
    fleet.api.fault = () => undefined;
    fleet.set('npf', 'v2');
    await fleet.becomes('npf Linked : set.npf*', () => fleet.has('set.npf') === sha('v2'));
  });
});

describe('a reconciler', () => {
  test('unloads what is deleted while it is being applied', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    fleet.host.onCall = (call) => {
      // between the agent's question and the host's answer
      if (call === 'load set.npf') fleet.api.delete(SETS, 'npf');
    };
    await fleet.reconcile();
    fleet.set('npf', 'v1');
    await until('load', () => fleet.host.calls.includes('load set.npf'));
    await fleet.becomes(':');
    expect(fleet.api.get(SETS, 'npf')).toBeUndefined();
  });

  test('loads the last of many changes, and not all of them', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    await fleet.reconcile('n1', { settleMs: 50 });
    for (let i = 1; i <= 50; i++) fleet.set('npf', `v${i}`);
    await fleet.becomes('npf Linked : set.npf*', () => fleet.has('set.npf') === sha('v50'));
    expect(fleet.host.calls.filter((c) => /^(load|replace)/.test(c)).length).toBeLessThan(5);
  });

  test('waits for the agent, and for the host', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    await fleet.stopAgent();
    await fleet.reconcile();
    fleet.set('npf', 'v1');
    await fleet.becomes('npf Pending :');
    expect(fleet.status()).toMatchObject({ connected: false, summary: { wanted: 1, linked: 0, refused: 0 } });
    await fleet.startAgent();
    await fleet.becomes('npf Linked : set.npf*');
    // a daemon that starts again has nothing: the agent loads it, and status follows
    await fleet.host.restart();
    await fleet.becomes('npf Linked : set.npf*', () => fleet.status()?.connected === true);
  });

  test('that starts again finds all as it is: nothing is loaded and nothing written', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    const stop = await fleet.reconcile();
    fleet.set('npf', 'v1');
    await fleet.becomes('npf Linked : set.npf*');
    await stop();
    const calls = fleet.host.calls.length;
    const written = fleet.api.answers.get('apply 200');
    await fleet.reconcile();
    await until('rounds', () => (fleet.reconcilers[1]?.counts.rounds ?? 0) > 2);
    expect(fleet.host.calls.slice(calls).filter((c) => /^(load|replace|link|un)/.test(c))).toEqual([]);
    expect(fleet.api.answers.get('apply 200')).toBe(written);
  });

  test('writes its own status and no other, and again when somebody deletes it', async () => {
    await using fleet = await Fleet.start();
    const names = ['n1', 'n2', 'n3'];
    for (const name of names) fleet.node(name);
    const wrote: string[] = [];
    fleet.api.onApply = (name) => wrote.push(name);
    for (const name of names) await fleet.reconcile(name);
    fleet.set('npf', 'v1');
    for (const name of names)
      await until(`status of ${name}`, () => fleet.status(name)?.summary.linked === 1);
    expect([...new Set(wrote)].sort()).toEqual(names);
    expect(fleet.api.answers.get('apply 409')).toBeUndefined();
    fleet.api.delete(STATUSES, 'n2');
    fleet.set('other', 'v2', { links: [] });
    await until('status again', () => fleet.status('n2')?.summary.linked === 2);
  });

  test('tries a status again that met a conflict', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    let conflicts = 0;
    fleet.api.fault = ({ verb }) => (verb === 'apply' && conflicts++ < 3 ? { status: 409 } : undefined);
    await fleet.reconcile();
    fleet.set('npf', 'v1');
    await fleet.becomes('npf Linked : set.npf*');
    expect(conflicts).toBeGreaterThan(3);
  });

  test('asks the API for nothing while nothing changes', async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    await fleet.reconcile('n1', { localMs: 20 });
    fleet.set('npf', 'v1');
    await fleet.becomes('npf Linked : set.npf*');
    const before = requests(fleet);
    const rounds = fleet.reconcilers[0]?.counts.rounds ?? 0;
    await until('rounds', () => (fleet.reconcilers[0]?.counts.rounds ?? 0) > rounds + 10);
    expect(requests(fleet)).toBe(before);
    expect(fleet.api.answers.get('get 200')).toBe(1); // the ConfigMap
    const { figures } = fleet.reconcilers[0] ?? {};
    expect(figures).toMatchObject({ converged: true, agentAnswers: true });
    expect(figures?.resources.map((r) => [r.resource, r.watching, r.watches, r.failures])).toEqual([
      ['hyperupcallsets', true, 1, 0],
      ['nodes', true, 1, 0],
    ]);
    expect(figures?.sets.map((s) => `${s.name} ${s.phase}`)).toEqual(['npf Linked']);
    expect(fleet.api.list(CONFIG_MAPS)).toHaveLength(1);
  });
});

/** Of the loopback address, free a moment ago. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

describe('the command', () => {
  let main: string;
  const children = new Set<ChildProcess>();
  beforeAll(() => {
    main = path.join(compiledSources(), 'cli/main.js');
  }, 300_000);
  afterEach(() => {
    for (const child of children) child.kill('SIGKILL');
    children.clear();
  });

  function start(fleet: Fleet, ...more: string[]): { child: ChildProcess; said: () => string } {
    const options = ['--kubeconfig', fleet.at('kubeconfig'), '--socket', fleet.at('agent.sock'), ...more];
    const child = spawn(process.execPath, [main, ...RECONCILER_COMMAND, ...options], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, NODE_NAME: 'n1' },
    });
    children.add(child);
    let said = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (part: Buffer) => (said += part.toString()));
    return { child, said: () => said };
  }

  // five starts of a process, where other work goes on
  test('killed at any moment leaves programs linked, and the next one goes on', {
    timeout: 180_000,
  }, async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    fleet.set('npf', 'v1');
    let command = start(fleet);
    await fleet.becomes('npf Linked : set.npf*');
    for (let i = 2; i < 5; i++) {
      // in the middle of a change, which it begins up to two seconds later
      fleet.set('npf', `v${i}`);
      await sleep(500 * (i - 1));
      const gone = once(command.child, 'exit');
      command.child.kill('SIGKILL');
      await gone;
      expect(fleet.host.links).toHaveLength(1);
      command = start(fleet);
      await fleet.becomes('npf Linked : set.npf*', () => fleet.status()?.sets[0]?.sha256 === sha(`v${i}`));
    }
    expect(fleet.host.calls.filter((c) => /^un/.test(c))).toEqual([]);
    // it may have been linked before this start, which takes signals once it speaks with the cluster
    await vi.waitFor(() => expect(command.said()).not.toBe(''), { timeout: 30_000 });
    const gone = once(command.child, 'exit');
    command.child.kill('SIGTERM');
    expect(await gone).toEqual([0, null]);
    expect(command.said()).toContain('stopped; programs stay');
    expect(fleet.host.links).toHaveLength(1);
  });

  test('serves its measurements where it is told to', { timeout: 60_000 }, async () => {
    await using fleet = await Fleet.start();
    fleet.node('n1');
    fleet.set('npf', 'v1');
    const port = await freePort();
    const { child } = start(fleet, '--metrics', `127.0.0.1:${port}`);
    const scrape = async (): Promise<string> => (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
    await fleet.becomes('npf Linked : set.npf*');
    await vi.waitFor(async () => expect(await scrape()).toContain('hyperturtle_reconciler_converged 1'), {
      timeout: 30_000,
    });
    const text = await scrape();
    expect(text).toContain('hyperturtle_reconciler_set_phase{set="npf",version="object",phase="Linked"} 1');
    expect(text).toMatch(/^hyperturtle_reconciler_api_requests_total\{outcome="200"\} [1-9]/m);
    expect(text).toContain('hyperturtle_reconciler_watching{resource="hyperupcallsets"} 1');
    const gone = once(child, 'exit');
    child.kill('SIGTERM');
    expect(await gone).toEqual([0, null]);
  });

  test.each([
    [[], 'the name of a node expected'],
    [['--node', 'n1', '--metrics', 'everywhere'], "--metrics' port"],
    [['--node', 'n1', '--kubeconfig', '/nonexistent/none'], 'a kubeconfig expected'],
  ])('with %j says what is expected', async (options, text) => {
    const env = { ...process.env };
    delete env['NODE_NAME'];
    const r = await exec(process.execPath, [main, ...RECONCILER_COMMAND, ...options], {
      ...{ env, timeoutMs: 60_000, okStatus: [2, 26] },
    });
    expect(r.stderr.toString()).toContain(text);
  });
});
