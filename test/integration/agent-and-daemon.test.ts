/**
 * Both halves as they are run: a real agent, a real daemon (only its kernel module is a fake), real commands, real
 * programs in this kernel, and a process that plays the L1's QEMU between them.
 */
// cspell:ignore defalt
import { afterAll, afterEach, beforeAll, expect, describe, test } from 'vitest';
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { exec } from '../../src/core/exec.ts';
import { connectSocket } from '../../src/core/sockets.ts';
import { waitFor, withDeadline } from '../../src/core/wait.ts';
import { LOCAL_METHODS } from '../../src/guest/agent/schema.ts';
import type { AgentResult } from '../../src/guest/agent/schema.ts';
import { compileBpf, compileBpfFile, findClang, whyNoBpf } from '../support/bpf.ts';
import { counterSource } from '../support/bpf-sources.ts';
import { compiledSources } from '../support/compiled.ts';
import { DaemonHarness } from '../support/daemon-harness.ts';
import type { FakeVm } from '../support/daemon-harness.ts';
import { endLinks } from '../support/fake-kernel.ts';
import { MessageRelay } from '../support/message-relay.ts';
import type { Message } from '../support/message-relay.ts';
import { RpcPeer } from '../../src/wire/peer.ts';

const clang = findClang();
const why = whyNoBpf(clang);

/** A forbidden helper: bpf_probe_read_kernel. */
const EVIL = `
SEC("raw_tp.w/hyperturtle_npf") int npf(struct bpf_raw_tracepoint_args *args)
{
	__u32 word;
	return ((long (*)(void *, __u32, const void *))113)(&word, 4, args);
}`;

/** What `hyperturtle status` asks, without a process for each time; undefined when nobody answers. */
async function agentStatus(socket: string): Promise<AgentResult<'agent.status'> | undefined> {
  const timeoutMs = 5000;
  const stream = await connectSocket(socket, AbortSignal.timeout(timeoutMs)).catch(() => undefined);
  if (stream === undefined) return undefined;
  const peer = new RpcPeer(stream, { calls: LOCAL_METHODS, session: 'connection' });
  try {
    return await peer.request('agent.status', {}, { timeoutMs });
  } catch {
    return undefined; // killed meanwhile
  } finally {
    peer.close();
  }
}

describe.skipIf(why !== undefined)(`agent and daemon${why ? ` (skipped: ${why})` : ''}`, () => {
  let h: DaemonHarness;
  let vm: FakeVm;
  let agent: ChildProcess | undefined;
  let main: string;
  let said = '';

  beforeAll(async () => {
    main = path.join(compiledSources(), 'cli/main.js');
    h = new DaemonHarness();
    h.writeConfig({ one: {} });
    await h.startDaemon();
    vm = await h.startVm('one');
    if (!clang) return;
    writeFileSync(h.at('npf.bpf.o'), compileBpfFile(clang, path.resolve('c/bpf/npf/npf.bpf.c')));
    writeFileSync(h.at('counter.bpf.o'), compileBpf(clang, counterSource(1)));
    writeFileSync(h.at('counter2.bpf.o'), compileBpf(clang, counterSource(2)));
    writeFileSync(h.at('evil.bpf.o'), compileBpf(clang, EVIL));
    for (const n of ['firewall', 'rate_limiter', 'tcptop', 'packet_counter'])
      writeFileSync(h.at(`${n}.bpf.o`), compileBpfFile(clang, path.resolve(`c/bpf/net/${n}.bpf.c`)));
    writeFileSync(h.at('guest.yaml'), 'pingEveryS: 1\n');
    startAgent();
    await reached();
  }, 180_000);

  afterEach((context) => {
    if (context.task.result?.state === 'fail') console.error(said.slice(-3000), h.log.slice(-3000));
  });

  afterAll(async () => {
    if (agent) await killAgent();
    await h?.close();
  });

  function startAgent(): void {
    const args = ['guest', 'agent', '--config', h.at('guest.yaml'), '--port', h.at('one.guest')];
    const child = spawn(
      process.execPath,
      [main, ...args, '--socket', h.at('agent.sock'), '--state', h.at('l1'), '--no-module'],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    );
    child.stdout.on('data', (part: Buffer) => (said += part.toString()));
    child.stderr.on('data', (part: Buffer) => (said += part.toString()));
    agent = child;
  }

  async function killAgent(): Promise<void> {
    if (!agent) return;
    const gone = once(agent, 'exit');
    agent.kill('SIGKILL');
    await withDeadline('end of the agent', gone, 10_000);
    agent = undefined;
  }

  const runOn = async (socket: string, ...args: string[]) => {
    const all = { timeoutMs: 60_000, okStatus: Array.from({ length: 256 }, (_, i) => i) };
    const r = await exec(process.execPath, [main, ...args, '--socket', socket], all);
    return { status: r.status, out: r.stdout.toString(), err: r.stderr.toString() };
  };
  const run = (...args: string[]) => runOn(h.at('agent.sock'), ...args);
  const ok = async (...args: string[]): Promise<string> => {
    const r = await run(...args);
    expect([r.status, r.err], args.join(' ')).toEqual([0, '']);
    return r.out;
  };

  /** Connected to the daemon that runs now, and the host has what is wanted. */
  const reached = (): Promise<AgentResult<'agent.status'>> =>
    waitFor(
      'desired state',
      async () => {
        const s = await agentStatus(h.at('agent.sock'));
        if (s === undefined) return undefined;
        return s.desired.reached && s.host.state === 'connected' ? s : undefined;
      },
      { timeoutMs: 40_000, intervalMs: 100 },
    );

  const linked = async (): Promise<string> => {
    const list = JSON.parse(await ok('list', '--json')) as {
      objects: { name: string }[];
      links: { object: string }[];
    };
    return `${list.objects
      .map((o) => o.name)
      .sort()
      .join(' ')}; ${list.links.map((l) => l.object).join(' ')}`;
  };

  test('load and link npf, look at it, and be told why another is refused', async () => {
    expect(await ok('load', h.at('npf.bpf.o'), '--link')).toMatch(
      /npf loaded: .*\nlink \d+: .* answers npf\n/,
    );
    const evil = await run('load', h.at('evil.bpf.o'));
    expect(evil.status).toBe(19);
    expect(evil.err).toContain("refused by rule 'helper' in program 'npf' at instruction 4: helper 113");
    expect(await linked()).toBe('npf; npf');
    expect(await ok('limits')).toContain('hook npf');
    expect(await ok('stats')).toMatch(/^npf: /);
    expect((await run('doctor')).out).toMatch(/its host \(L0\)\n {2}\S/);
    expect(await ok('events')).toContain('object.refused');
  });

  test('network programs are driven by command: rules, limits, flows, counts', async () => {
    const object = (program: string, file: string): Promise<string> =>
      ok('load', h.at(`${file}.bpf.o`), '--name', `${program}.web`);
    const nic = ['--nic', 'web'];
    expect((await run('firewall', 'show', ...nic)).err).toContain('hyperturtle enable firewall --nic web');
    // without the NIC nothing stays loaded
    const enable = ['enable', 'firewall', ...nic, '--object', h.at('firewall.bpf.o')];
    expect((await run(...enable)).status).not.toBe(0);
    expect(await linked()).not.toContain('firewall');

    await object('firewall', 'firewall');
    expect((await run('firewall', 'show', ...nic)).err).toContain('drops everything');
    writeFileSync(
      h.at('web.yaml'),
      'default: {out: allow}\nrules:\n- deny out tcp port 25\n- {action: allow, direction: in, protocol: udp, fromPort: 53}\n',
    );
    expect(await ok('firewall', 'set', h.at('web.yaml'), ...nic)).toBe(
      [
        '   1  deny out tcp from any to any port 25',
        '   2  allow in udp from any port 53 to any',
        'default: out allow, in deny; not IP: out allow, in deny; ARP and neighbour discovery: allow',
        '',
      ].join('\n'),
    );
    await ok('firewall', 'add', 'allow in tcp to any port 80-443', '--at', '1', ...nic);
    expect(await ok('firewall', 'del', 'deny out tcp port 25', ...nic)).not.toContain('port 25');
    expect(await ok('firewall', 'hits', ...nic)).toMatch(
      /0 +0 +in +allow in tcp from any to any port 80-443/,
    );
    const bad = await run('firewall', 'add', 'allow in tpc', ...nic);
    expect([bad.status, bad.err]).toEqual([2, expect.stringContaining("protocol 'tpc'")]);
    writeFileSync(h.at('bad.yaml'), 'rules:\n- allow in tcp\ndefalt: deny\n');
    expect((await run('firewall', 'set', h.at('bad.yaml'), ...nic)).err).toContain('bad.yaml:3:1: defalt');

    await object('rate-limiter', 'rate_limiter');
    expect(
      await ok(
        ...['rate-limit', 'set', '--out-bytes', '12.5M', '--out-packets', '10', '--out-packets-burst', '2'],
        ...['--in-packets', '20k', ...nic],
      ),
    ).toBe(
      'out: 12500000 bytes/s (burst 625000), 10 packets/s (burst 2)\nin:  20000 packets/s (burst 1000)\n',
    );
    expect(await ok('rate-limit', 'show', ...nic)).toMatch(/out +0 +0 +0 +0/);
    await object('tcptop', 'tcptop');
    expect(await ok('tcptop', '--count', '1', ...nic)).toContain('no flows');
    await object('packet-counter', 'packet_counter');
    expect(JSON.parse(await ok('packet-counter', '--json', ...nic))).toMatchObject({ out: { packets: 0 } });
    for (const p of ['firewall', 'rate-limiter', 'tcptop', 'packet-counter']) await ok('disable', p, ...nic);
    expect(await linked()).toBe('npf; npf');
  });

  const nic = ['--nic', 'web'];
  const rules = async (): Promise<string[]> =>
    (JSON.parse(await ok('firewall', 'show', '--json', ...nic)) as { rules: string[] }).rules;

  test('of changes at the same time none is lost', async () => {
    await ok('load', h.at('firewall.bpf.o'), '--name', 'firewall.web');
    await Promise.all([1, 2, 3, 4].map((n) => ok('firewall', 'add', `allow in tcp port ${n}`, ...nic)));
    expect((await rules()).sort()).toEqual([1, 2, 3, 4].map((n) => `allow in tcp from any to any port ${n}`));
  });

  test('an agent that is killed while a policy is being set leaves the old one or the new one, and its answer holds', async () => {
    const policies = ['a', 'b'].map((name, n) => {
      const all = Array.from(
        { length: 100 },
        (_, i) => `allow in tcp from 10.${n}.${i}.0/24 to any port ${i}`,
      );
      writeFileSync(h.at(`${name}.yaml`), `rules: ${JSON.stringify(all)}\n`);
      return { file: h.at(`${name}.yaml`), all };
    });
    const cut = h.at('cut.sock');
    /** Sets the policy; the agent is killed at this point. Gives whether that was answered, and whether there was the point. */
    const set = async (file: string, point: string): Promise<{ answered: boolean; killed: boolean }> => {
      let asked: Message['id'];
      let killed = false;
      const relay = await MessageRelay.listen(cut, h.at('agent.sock'), async (when, { id, method }) => {
        if (method === 'agent.policy.set') asked = id;
        if (asked === undefined || id !== asked || killed) return;
        if (point !== `${when} the ${method === undefined ? 'answer' : 'change'}`) return;
        killed = true;
        await killAgent();
      });
      try {
        const { status } = await runOn(cut, 'firewall', 'set', file, ...nic);
        return { answered: status === 0, killed };
      } finally {
        relay.close();
      }
    };
    expect(await set(policies[0]!.file, 'never')).toEqual({ answered: true, killed: false });
    let now = await rules();
    expect(now).toEqual(policies[0]!.all);
    for (const point of ['before the change', 'after the change', 'before the answer', 'before the answer']) {
      const { file, all } = policies.find((p) => p.all[0] !== now[0])!;
      const { answered, killed } = await set(file, point);
      expect(killed, point).toBe(true);
      startAgent();
      await reached();
      const after = await rules();
      expect([now, all], point).toContainEqual(after);
      if (point === 'before the change') expect([answered, after]).toEqual([false, now]);
      if (point === 'before the answer') expect([answered, after]).toEqual([false, all]);
      if (answered) expect(after, point).toEqual(all);
      now = after;
    }
  }, 120_000);

  test('replace keeps the map, whose values are read and written from L1', async () => {
    await ok('load', h.at('counter.bpf.o'));
    await ok('map', 'set', 'counter', 'counts', '0', '41');
    expect(await ok('replace', 'counter', h.at('counter2.bpf.o'))).toContain('maps: kept counts');
    expect(await ok('map', 'get', 'counter', 'counts', '0')).toBe('41\n');
    expect(await ok('map', 'dump', 'counter', 'counts')).toBe('0  41\n');
  });

  test('whatever is killed, L1 has again what it wants, rules and limits included, with no manual step', async () => {
    await ok('load', h.at('rate_limiter.bpf.o'), '--name', 'rate-limiter.web');
    await ok('rate-limit', 'set', '--out-bytes', '12.5M', '--in-packets', '20k', ...nic);
    const kept = async (): Promise<unknown> => ({
      firewall: JSON.parse(await ok('firewall', 'show', '--json', ...nic)) as unknown,
      limits: (JSON.parse(await ok('rate-limit', 'show', '--json', ...nic)) as { limits: unknown }).limits,
    });
    const wanted = await kept();
    expect(wanted).toMatchObject({ limits: { out: { bytesPerSecond: 12_500_000 } } });
    const instance = async (): Promise<string> => (await reached()).host.daemon?.instance ?? '';
    const newDaemon = async (signal: NodeJS.Signals): Promise<void> => {
      await h.endDaemon(signal);
      await h.startDaemon();
    };
    const accidents: Record<string, () => Promise<void>> = {
      'daemon killed': () => newDaemon('SIGKILL'),
      'daemon restarted': () => newDaemon('SIGTERM'),
      'agent killed': async () => {
        await killAgent();
        startAgent();
      },
      'both killed, daemon back first': async () => {
        await killAgent();
        await newDaemon('SIGKILL');
        startAgent();
      },
      'both killed, agent back first': async () => {
        await killAgent();
        await h.endDaemon('SIGKILL');
        startAgent();
        await h.startDaemon();
      },
      'L1 reset': () => Promise.resolve(vm.reset()),
      'L1 killed and started again': async () => {
        await vm.end();
        vm = await h.startVm('one');
      },
    };
    for (const [what, accident] of Object.entries(accidents)) {
      const before = await instance();
      await accident();
      await waitFor(
        `state after: ${what}`,
        async () => {
          const s = await reached();
          if (/daemon/.test(what) && s.host.daemon?.instance === before) return undefined;
          return (await linked()) === 'counter firewall.web npf rate-limiter.web; npf' ? true : undefined;
        },
        { timeoutMs: 40_000, intervalMs: 200 },
      );
      expect(await kept(), what).toEqual(wanted);
    }
  }, 240_000);

  test('a link whose runs take too long is ended, everybody is told, and the agent leaves it off', async () => {
    const links = (): number => h.journal.filter((e) => e.op === 'link').length;
    const before = links();
    endLinks(h.at('kernel'), 'npf');
    const reason = 'the host ended it: a run took 900 us, the third within a minute above 200 us';
    const event = await waitFor(
      'the event',
      async () => {
        const said = await ok('events');
        return said.includes(reason) ? said : undefined;
      },
      { timeoutMs: 20_000, intervalMs: 100 },
    );
    expect(event).toMatch(/link\.ended +\d+: npf at npf: the host ended it/);
    const off = await waitFor(
      'the problem',
      async () => {
        // what is wanted is not reached, which the status of the command says
        const { out } = await run('status', '--json');
        const { problems } = (JSON.parse(out) as AgentResult<'agent.status'>).desired;
        return problems.find((p) => p.kind === 'ENDED');
      },
      { timeoutMs: 20_000, intervalMs: 100 },
    );
    expect(off).toMatchObject({ step: 'link npf at npf', message: reason });
    expect(await ok('list')).toContain(`npf at npf is not linked: ${reason}`);
    expect((await run('doctor')).out).toMatch(/npf at npf: the host ended it[^]*load a faster program/);
    expect((await h.vm('one')).ended).toMatchObject([{ link: { object: 'npf' }, reason }]);
    await h.logged(/"hook":"npf","programId":\d+,"ns":900000.*link ended/);
    // nobody links it again, and by hand not for a minute
    expect((await run('link', 'npf', '--hook', 'npf')).err).toMatch(/takes no program for \d+ s/);
    expect(links()).toBe(before);
  }, 120_000);
});
