/** Measurements of daemon and agent, before Prometheus's own checker. */
import { spawnSync } from 'node:child_process';
import http from 'node:http';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MetricsServer } from '../../src/guest/agent/metrics.ts';
import type { AgentResult } from '../../src/guest/agent/schema.ts';
import { Convergence } from '../../src/fleet/figures.ts';
import { serveFleetMetrics } from '../../src/fleet/metrics.ts';
import { Metrics } from '../../src/host/daemon/metrics.ts';
import type { VmStatus } from '../../src/host/vm/vm-status.ts';
import { FILLS } from '../support/fake-kernel.ts';
import { promtool } from '../support/promtool.ts';

const tool = promtool();
const why = typeof tool === 'string' ? tool : undefined;

const VM = {
  name: 'vm1',
  countedSince: '2026-01-01T00:00:00.000Z',
  phase: 'attached',
  agent: { connected: true },
  used: { objects: 1 },
  arena: { state: 'plugged', bytes: 1 << 24 },
  // a device that every machine has
  nics: [{ ifname: 'lo', network: 'lan' }],
  l1: { l2Count: 1, l2s: [{}] },
  ended: [{ link: { hook: 'npf' } }],
  leftOff: [{ link: { hook: 'xdp' } }],
  stats: [
    {
      ...{ hook: 'npf', runs: 9, handled: 5, entries: 6, learned: 1, passed: 4, reasons: { NO_TABLE: 4 } },
      ...{ overruns: 1, maxNs: 250_000, fills: FILLS },
    },
    { hook: 'xdp', target: 'web', runs: 3, handled: 1, entries: 0, learned: 0, passed: 2, reasons: {} },
  ],
} as unknown as VmStatus;
const L2 = {
  name: 'l2 "quoted"\n',
  pid: 7,
  faults: 3,
  mappedNew: 2,
  mappedExisting: 1,
  mappedAhead: 0,
  passes: 0,
  since: '2026-01-01T00:00:00.000Z',
  framesTaken: 2,
  framesCharged: 3,
  framesCredit: 0,
  cgroup: '',
  pagesHeld: 3,
  pagesUnused: 0,
  pages: 512,
  ...{ largeWaiting: 1, largeSeen: 3, largeKept: 2, pagesVain: 4, pagesBack: 400 },
};
const STATUS = {
  startedAt: '2026-01-01T00:00:00.000Z',
  host: { state: 'connected', sessions: 2 },
  desired: { reached: true, objects: 1, links: 1, problems: [] },
  l2Problems: [],
  l2s: [L2],
  module: {
    ...{
      state: 'present',
      arenaBound: true,
      gracePeriods: 1,
      index: { words: 512, used: 3 },
      faults: { total: 1 },
    },
    pool: { level: 9, low: 4, high: 16, refills: 1, shrunk: 0, nodes: [{ node: 0, level: 9 }] },
  },
} as unknown as AgentResult<'agent.status'>;

let dir: string;
let close: () => Promise<void>;
/** Where it serves. */
let at: { socketPath: string } | { host: string; port: number };
beforeEach(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'ht-prom-'));
  at = { socketPath: socket() };
});
afterEach(async () => {
  await close();
  rmSync(dir, { recursive: true });
});

const socket = (): string => path.join(dir, 'metrics.sock');
const servers: Record<string, () => Promise<void>> = {
  daemon: async () => {
    const loader = { pids: [1], busy: 0, waiting: 0, loads: 1, killed: 0, crashed: 0 };
    const metrics = new Metrics({
      vms: () => [VM],
      loader: () => loader as never,
      kernel: () => ({ moduleLoaded: true, ftraceOn: true }),
      problems: () => [],
    });
    metrics.count('vm1', 'ping', 'ok');
    await metrics.listen({ socket: socket() });
    close = () => metrics.close();
  },
  agent: async () => {
    const figures = { status: () => STATUS, vmsElsewhere: () => 1 };
    const server = await MetricsServer.listen({ socket: socket() }, figures, AbortSignal.timeout(5000));
    close = () => server.close();
  },
  reconciler: async () => {
    const c = new Convergence();
    const set = {
      name: 'a',
      generation: 1,
      version: 'object' as const,
      links: 1,
      since: '2026-01-01T00:00:00.000Z',
    };
    c.round([{ ...set, phase: 'Linked' }], 0);
    c.round([{ ...set, phase: 'Refused', kind: 'REFUSED' }], 0);
    const counts = { watching: true, lists: 1, watches: 2, gone: 0, failures: 1 };
    const server = await serveFleetMetrics({ address: '127.0.0.1', port: 0 }, () => ({
      ...c.figures,
      ...{ startedAt: 1e12, agentAnswers: true, rounds: 2, requests: new Map([['200', 3]]) },
      resources: [{ resource: 'nodes', ...counts }],
    }));
    at = { host: '127.0.0.1', port: server.port };
    close = () => server.close();
  },
};

function ask(
  url: string,
  o: { method?: string; accept?: string } = {},
): Promise<http.IncomingMessage & { body: string }> {
  return new Promise((resolve, reject) => {
    const headers = o.accept === undefined ? {} : { accept: o.accept };
    http
      .request({ ...at, path: url, method: o.method ?? 'GET', headers }, (response) => {
        let body = '';
        response.setEncoding('utf8').on('data', (c: string) => (body += c));
        response.on('end', () => resolve(Object.assign(response, { body })));
      })
      .on('error', reject)
      .end();
  });
}

describe.each(Object.keys(servers))('the metrics of the %s', (name) => {
  it.skipIf(why !== undefined)(`pass promtool's check${why ? ` (skipped: ${why})` : ''}`, async () => {
    if (typeof tool === 'string') throw new Error(tool);
    await servers[name]?.();
    const { body, headers } = await ask('/metrics');
    expect(headers['content-type']).toContain('text/plain; version=0.0.4');
    const options = { input: body, env: tool.env, encoding: 'utf8' } as const;
    const r = spawnSync(tool.program, ['check', 'metrics'], options);
    expect([r.status, r.stdout + r.stderr]).toEqual([0, '']);
    // promtool says nothing of a metric without samples; those of Node.js are prom-client's
    const own = [...body.matchAll(/^# TYPE (\S+) \S+$/gm)].filter((m) => !/_(nodejs|process)_/.test(m[0]));
    expect(own.length).toBeGreaterThan(12);
    expect(own.map((m) => m[1]).filter((m) => !new RegExp(`^${m}[ {]`, 'm').test(body))).toEqual([]);
  });

  it.each([
    ['nothing', undefined, 'text/plain'],
    ['anything', '*/*', 'text/plain'],
    [
      'what Prometheus 2 asks for',
      'application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1',
      'application/openmetrics-text',
    ],
    [
      'the older text before OpenMetrics, as Prometheus 3 can be told to',
      'text/plain;version=0.0.4;q=0.5,application/openmetrics-text;version=1.0.0;q=0.4,*/*;q=0.1',
      'text/plain',
    ],
    ['anything but OpenMetrics', 'application/openmetrics-text;q=0, */*', 'text/plain'],
  ])('are in the format that a scraper prefers that accepts %s', async (_, accept, type) => {
    await servers[name]?.();
    const { headers, body } = await ask('/metrics', accept === undefined ? {} : { accept });
    expect(headers['content-type']).toContain(`${type};`);
    expect(body.endsWith('# EOF\n')).toBe(type !== 'text/plain');
  });

  it('are OpenMetrics for who asks for it', async () => {
    await servers[name]?.();
    const { body, headers } = await ask('/metrics', { accept: 'application/openmetrics-text;version=1.0.0' });
    expect(headers['content-type']).toContain('application/openmetrics-text');
    expect(body.endsWith('# EOF\n')).toBe(true);
    // a counter's name is that of its samples without _total
    const counters = [...body.matchAll(/^# TYPE (\S+) counter$/gm)].map((m) => m[1] ?? '');
    expect(counters.length).toBeGreaterThan(0);
    for (const c of counters) {
      expect(c).not.toMatch(/_total$/);
      expect(body).toMatch(new RegExp(`^${c}_total[ {]`, 'm'));
    }
  });

  it('are answered with a query, by HEAD, and by nothing that writes', async () => {
    await servers[name]?.();
    expect((await ask('/metrics?x=1')).statusCode).toBe(200);
    expect(await ask('/metrics', { method: 'HEAD' })).toMatchObject({ statusCode: 200, body: '' });
    const post = await ask('/metrics', { method: 'POST' });
    expect([post.statusCode, post.headers.allow]).toEqual([405, 'GET, HEAD']);
    expect((await ask('/other')).statusCode).toBe(404);
  });
});
