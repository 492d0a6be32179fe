/**
 * One daemon with many VMs and NICs, without our kernel module: a daemon in a process and network namespace of its own, in which
 * each NIC is a tap; this process is the agents, the operator, a scraper and each QEMU's monitor.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { programFile } from '../../core/code-file.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { exec } from '../../core/exec.ts';
import { CleanupStack } from '../../core/lifecycle.ts';
import type { Progress } from '../../core/progress.ts';
import { sleep, waitFor, withDeadline } from '../../core/wait.ts';
import { connectAdmin } from '../../host/daemon/admin-client.ts';
import type { ADMIN_METHODS } from '../../host/daemon/admin-schema.ts';
import type { RpcPeer } from '../../wire/peer.ts';
import type { METHODS } from '../../wire/schema.ts';
import { Port } from '../control/port.ts';
import { machineEnvironment } from '../shared/machine-environment.ts';
import type { MachineEnvironment } from '../shared/environment-schema.ts';
import type { FromVmsDaemon } from './process.ts';
import { deviceName, qemuName } from './names.ts';
import { listenAsQemu } from './qmp.ts';

export interface VmsSpec {
  vms: number;
  /** NICs of each VM. */
  nics: number;
  scrapes: number;
  /** Between two scrapes. */
  scrapeEveryMs: number;
  /** How long an agent asks, one request after the other, while nothing else happens and while it is scraped. */
  pingSeconds: number;
}

interface Times {
  p50: number;
  p99: number;
  most: number;
}

export interface VmsResult {
  benchmark: 'vms';
  environment: MachineEnvironment;
  parameters: VmsSpec;
  /** From the start of the process until it serves, until all VMs are attached, until all NICs are taken up. */
  start: { servesMs: number; attachedMs: number; nicsMs: number };
  /** Without a change, and with another quota for each VM. */
  reload: { sameMs: number; changedMs: number };
  scrape: { ms: Times; bytes: number };
  /** Round trips of `ping` of one agent, in ms. */
  ping: { quiet: Times; scraped: Times };
  statusMs: Times;
  memoryMib: { attached: number; scraped: number };
}

const START_MS = 600_000;
const PROBE_MS = 2;

export interface VmsOptions {
  version: string;
  progress: Progress;
  signal: AbortSignal;
  /** The compiled process; default: beside this file. */
  processPath?: string;
}

/** Needs root. Throws HT_CRASHED, HT_TIMEOUT, HT_COMMAND_FAILED. */
export async function runVms(spec: VmsSpec, options: VmsOptions): Promise<VmsResult> {
  const startedAt = new Date();
  const undo = new CleanupStack();
  try {
    const dir = await setUp(spec, options, undo);
    const ports = await listen(spec, dir, undo);
    const { daemon, start } = await startDaemon(spec, options, dir, undo);
    const attached = await memoryMib(daemon.pid);
    const { admin, signal } = daemon;
    const reload = await measureReload(spec, admin, dir, signal);
    const agent = await ports[0]!.session(signal);
    const quiet = await pings(agent, spec.pingSeconds, signal);
    const [scrape, scraped] = await Promise.all([
      scrapes(spec, dir, signal),
      pings(agent, spec.pingSeconds, signal),
    ]);
    const statusMs = await timesOf(10, () => admin.request('admin.vm.list', {}, { signal }));
    return {
      benchmark: 'vms',
      environment: machineEnvironment(options.version, startedAt),
      parameters: spec,
      ...{ start, reload, scrape, ping: { quiet, scraped }, statusMs },
      memoryMib: { attached, scraped: await memoryMib(daemon.pid) },
    };
  } finally {
    await undo.run();
  }
}

const vmName = (v: number): string => `vm${v}`;

/** Directory, bpffs, and a network namespace with a device for each NIC. */
async function setUp(spec: VmsSpec, { progress, signal }: VmsOptions, undo: CleanupStack): Promise<string> {
  const step = progress.step(`${spec.vms * spec.nics} network devices`);
  const dir = await mkdtemp(path.join(os.tmpdir(), 'hyperturtle-bench-'));
  undo.add('directory', () => rm(dir, { recursive: true, force: true }));
  await mkdir(path.join(dir, 'bpf'));
  await exec('mount', ['-t', 'bpf', 'bpf', path.join(dir, 'bpf')], { signal });
  undo.add('bpffs', async () => void (await exec('umount', [path.join(dir, 'bpf')])));
  const namespace = namespaceOf(dir);
  await exec('ip', ['netns', 'add', namespace], { signal });
  undo.add('network namespace', async () => void (await exec('ip', ['netns', 'del', namespace])));
  const lines: string[] = [];
  for (let v = 0; v < spec.vms; v++)
    for (let n = 0; n < spec.nics; n++) lines.push(`tuntap add dev ${deviceName(v, n)} mode tap`);
  await writeFile(path.join(dir, 'devices'), `${lines.join('\n')}\n`);
  await exec('ip', ['-n', namespace, '-batch', path.join(dir, 'devices')], { timeoutMs: START_MS, signal });
  await writeConfig(spec, dir, 16);
  step.done();
  return dir;
}

const namespaceOf = (dir: string): string => path.basename(dir);

async function writeConfig(spec: VmsSpec, dir: string, links: number): Promise<void> {
  const vm = (v: number): [string, object] => [
    vmName(v),
    {
      qmp: path.join(dir, `${v}.qmp`),
      agent: { socket: path.join(dir, `${v}.port`) },
      arenaMib: 1,
      nics: { networks: ['lan'] },
      quotas: { links, requestsPerSecond: 100_000 },
    },
  ];
  const config = {
    vms: Object.fromEntries(Array.from({ length: spec.vms }, (_, v) => vm(v))),
    networks: { lan: { bridge: 'br0', mtu: 1500 } },
    metrics: { socket: path.join(dir, 'metrics') },
    log: { level: 'warn', file: path.join(dir, 'daemon.log') },
    ...{ state: path.join(dir, 'state'), run: path.join(dir, 'run'), bpffs: path.join(dir, 'bpf') },
  };
  // JSON is YAML
  await writeFile(path.join(dir, 'host.yaml'), JSON.stringify(config));
}

async function listen(spec: VmsSpec, dir: string, undo: CleanupStack): Promise<Port[]> {
  const ports: Port[] = [];
  for (let v = 0; v < spec.vms; v++) {
    const devices = Array.from({ length: spec.nics }, (_, n) => qemuName(v, n));
    const monitor = await listenAsQemu(path.join(dir, `${v}.qmp`), devices);
    undo.add('monitor', () => void monitor.close());
    const port = await Port.listen(path.join(dir, `${v}.port`));
    undo.add('port', () => port.close());
    ports.push(port);
  }
  return ports;
}

interface Daemon {
  pid: number;
  admin: RpcPeer<typeof ADMIN_METHODS>;
  signal: AbortSignal;
}

async function startDaemon(
  spec: VmsSpec,
  { progress, signal, version, processPath }: VmsOptions,
  dir: string,
  undo: CleanupStack,
): Promise<{ daemon: Daemon; start: VmsResult['start'] }> {
  const step = progress.step(`start with ${spec.vms} VMs of ${spec.nics} NICs each`);
  const t0 = performance.now();
  const file = processPath ?? programFile('bench/vms/process');
  const child = fork(file, [path.join(dir, 'host.yaml'), dir, version, String(spec.nics)], {
    execPath: 'ip',
    // ip becomes Node, and the channel to this process stays
    execArgv: ['netns', 'exec', namespaceOf(dir), process.execPath],
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  undo.add('daemon', async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exit = once(child, 'exit');
    child.disconnect();
    const timer = setTimeout(() => child.kill('SIGKILL'), 60_000);
    await exit;
    clearTimeout(timer);
  });
  const served = new Promise<FromVmsDaemon>((resolve, reject) => {
    child.once('message', resolve);
    child.once('exit', () => reject(new HyperturtleError('HT_CRASHED', 'the daemon has ended')));
  });
  const told = await withDeadline('the daemon', served, START_MS, signal);
  if ('problem' in told) throw new HyperturtleError('HT_CRASHED', told.problem);
  const servesMs = performance.now() - t0;
  const admin = await connectAdmin(path.join(dir, 'run/host.sock'), signal);
  undo.add('operator', () => admin.close());
  const when = async (what: string, holds: (vms: VmReports) => boolean): Promise<number> => {
    await waitFor(
      what,
      async () => {
        const { vms } = await admin.request('admin.vm.list', {}, { signal, timeoutMs: START_MS });
        return holds(vms) ? true : undefined;
      },
      { timeoutMs: START_MS, intervalMs: 2000, signal },
    );
    return performance.now() - t0;
  };
  await waitFor(
    'all VMs attached',
    async () => {
      const { attached } = await admin.request('admin.status', {}, { signal, timeoutMs: START_MS });
      return attached === spec.vms ? true : undefined;
    },
    { timeoutMs: START_MS, intervalMs: 100, signal },
  );
  const attachedMs = performance.now() - t0;
  const nicsMs = await when('all NICs', (vms) => vms.every((vm) => vm.nics.length === spec.nics));
  step.done();
  return { daemon: { pid: child.pid ?? 0, admin, signal }, start: { servesMs, attachedMs, nicsMs } };
}

type VmReports = { phase: string; nics: readonly unknown[] }[];

async function measureReload(
  spec: VmsSpec,
  admin: Daemon['admin'],
  dir: string,
  signal: AbortSignal,
): Promise<VmsResult['reload']> {
  const reload = async (): Promise<number> => {
    const t0 = performance.now();
    await admin.request('admin.reload', {}, { signal, timeoutMs: START_MS });
    return performance.now() - t0;
  };
  const sameMs = await reload();
  await writeConfig(spec, dir, 15);
  return { sameMs, changedMs: await reload() };
}

async function pings(agent: RpcPeer<typeof METHODS>, seconds: number, signal: AbortSignal): Promise<Times> {
  const ms: number[] = [];
  for (const end = performance.now() + seconds * 1000; performance.now() < end; ) {
    const t0 = performance.now();
    await agent.request('ping', {}, { signal });
    ms.push(performance.now() - t0);
    await sleep(PROBE_MS, signal);
  }
  return percentiles(ms);
}

async function scrapes(spec: VmsSpec, dir: string, signal: AbortSignal): Promise<VmsResult['scrape']> {
  const ms: number[] = [];
  let bytes = 0;
  for (let i = 0; i < spec.scrapes; i++) {
    const t0 = performance.now();
    const request = http.get({ socketPath: path.join(dir, 'metrics'), path: '/metrics', signal });
    request.on('error', () => {}); // told by what follows
    const [response] = (await once(request, 'response')) as [http.IncomingMessage];
    bytes = (await text(response)).length;
    ms.push(performance.now() - t0);
    await sleep(spec.scrapeEveryMs, signal);
  }
  return { ms: percentiles(ms), bytes };
}

async function timesOf(count: number, work: () => Promise<unknown>): Promise<Times> {
  const ms: number[] = [];
  for (let i = 0; i < count; i++) {
    const t0 = performance.now();
    await work();
    ms.push(performance.now() - t0);
  }
  return percentiles(ms);
}

function percentiles(ms: number[]): Times {
  ms.sort((a, b) => a - b);
  const at = (share: number): number => ms[Math.ceil(share * ms.length) - 1] ?? 0;
  return { p50: at(0.5), p99: at(0.99), most: at(1) };
}

async function memoryMib(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) / 1024;
}
