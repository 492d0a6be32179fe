/**
 * What each service weighs that waits for work: the daemon without VMs, the agent without a host, and what runs beside it on a
 * node of Kubernetes. No lab, module, host or cluster is needed. Beside them Node.js that runs nothing.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { programFile } from '../../core/code-file.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { CleanupStack } from '../../core/lifecycle.ts';
import type { Progress } from '../../core/progress.ts';
import { withStep } from '../../core/progress.ts';
import { sleep } from '../../core/wait.ts';
import { kubeconfigOf } from '../../testbed/api-server.ts';
import { machineEnvironment } from '../shared/machine-environment.ts';
import type { MachineEnvironment } from '../shared/environment-schema.ts';

export interface IdleSpec {
  /** Seconds from a service's start until it is weighed. */
  afterS: number;
}

interface Weighed {
  what: string;
  residentKib: number;
  /** The part of it that is the process's own; the rest is files, of which there is one copy for all. */
  anonymousKib: number;
}

export interface IdleResult {
  benchmark: 'idle';
  environment: MachineEnvironment;
  parameters: IdleSpec;
  services: Weighed[];
}

export interface IdleOptions {
  version: string;
  progress: Progress;
  signal: AbortSignal;
  /** The command; default: this one, as it is installed. */
  main?: string;
}

/** Throws HT_CRASHED with what a service said that has ended. */
export async function runIdle(spec: IdleSpec, o: IdleOptions): Promise<IdleResult> {
  const startedAt = new Date();
  await using undo = new CleanupStack();
  const dir = await mkdtemp(path.join(os.tmpdir(), 'hyperturtle-idle-'));
  undo.add('directory', () => rm(dir, { recursive: true, force: true }));
  const all = await services(dir, o.main ?? programFile('cli/main'));
  const weighed: Weighed[] = [];
  for (const [what, args] of all)
    weighed.push(await withStep(o.progress, what, () => weigh(what, args, spec.afterS, dir, o.signal)));
  return {
    benchmark: 'idle',
    environment: machineEnvironment(o.version, startedAt),
    parameters: spec,
    services: weighed,
  };
}

/** By name, what Node.js is called with. */
async function services(dir: string, main: string): Promise<[what: string, args: string[]][]> {
  const at = (name: string): string => path.join(dir, name);
  for (const name of ['kubelet', 'run', 'state', 'bpf', 'agent-state']) await mkdir(at(name));
  // JSON is YAML
  const write = (name: string, config: object): Promise<void> => writeFile(at(name), JSON.stringify(config));
  await write('host.yaml', {
    ...{ vms: {}, run: at('run'), state: at('state'), bpffs: at('bpf') },
    metrics: { socket: at('host-metrics') },
  });
  await write('guest.yaml', {
    ...{ port: at('port'), socket: at('agent.sock'), state: at('agent-state') },
    metrics: { socket: at('guest-metrics') },
  });
  await writeFile(at('kubeconfig'), kubeconfigOf('http://127.0.0.1:1', 'hyperturtle'));
  const socket = ['--socket', at('agent.sock')];
  const node = ['--node', 'n1', ...socket];
  return [
    ['Node.js alone', ['-e', 'setInterval(() => {}, 1000)']],
    ['daemon', [main, 'host', 'daemon', '--config', at('host.yaml')]],
    ['agent', [main, 'guest', 'agent', '--config', at('guest.yaml'), '--no-module']],
    ['device plugin', [main, 'kubernetes', 'device-plugin', '--kubelet-dir', at('kubelet'), ...socket]],
    ['node-status', [main, 'kubernetes', 'node-status', ...node]],
    ['reconcile, in a pod', [main, 'kubernetes', 'reconcile', ...node]],
    [
      'reconcile, with a kubeconfig',
      [main, 'kubernetes', 'reconcile', '--kubeconfig', at('kubeconfig'), ...node],
    ],
  ];
}

async function weigh(
  what: string,
  args: readonly string[],
  afterS: number,
  dir: string,
  signal: AbortSignal,
): Promise<Weighed> {
  const env: NodeJS.ProcessEnv = {
    ...{ PATH: process.env['PATH'], HOME: dir },
    // of a pod, whose API does not answer
    ...{ KUBERNETES_SERVICE_HOST: '127.0.0.1', KUBERNETES_SERVICE_PORT_HTTPS: '1' },
  };
  const child = spawn(process.execPath, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => (said = (said + text).slice(-2000)));
  try {
    await sleep(afterS * 1000, signal);
    if (child.exitCode !== null || child.signalCode !== null)
      throw new HyperturtleError('HT_CRASHED', `${what} has ended: ${said.trim()}`);
    return { what, ...(await memoryOf(child.pid ?? 0)) };
  } finally {
    await end(child);
  }
}

/** In KiB. */
async function memoryOf(pid: number): Promise<{ residentKib: number; anonymousKib: number }> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  const field = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1] ?? NaN);
  return { residentKib: field('VmRSS'), anonymousKib: field('RssAnon') };
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
}
