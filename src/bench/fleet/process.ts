/**
 * Nodes of `hyperturtle bench fleet`: `FROM TO L2S KUBECONFIG NAMESPACE`. A reconciler for each, as `kubernetes reconcile` has it, with
 * a connection of its own to the API; the agents are simulated. Ends when its parent does, or says so.
 */
import { setMaxListeners } from 'node:events';
import { messageOf } from '../../core/errors.ts';
import { runMain } from '../../core/run-main.ts';
import { clusterOf } from '../../fleet/cluster.ts';
import { KubeApi } from '../../fleet/kube.ts';
import { Reconciler } from '../../fleet/reconciler.ts';
import { SimulatedAgent } from './agent.ts';

export type ToNodes = { what: 'memory' | 'stop' | 'churn' };
export type FromNodes =
  | { ready: true }
  | { problem: string }
  | { rssKib: number; heapKib: number; cpuSeconds: number; agentRequests: number };

/** Nested guests come and go: on each node one in this time. */
const CHURN_MS = 30_000;

const nodeName = (i: number): string => `node-${i}`;
const tell = (message: FromNodes): void => void process.send?.(message);

async function runNodes([
  from = '0',
  to = '0',
  l2s = '0',
  kubeconfig = '',
  namespace = '',
]: string[]): Promise<void> {
  const stop = new AbortController();
  // each reconciler has some
  setMaxListeners(0, stop.signal);
  const agents: SimulatedAgent[] = [];
  const running: Promise<void>[] = [];
  const problems: string[] = [];
  const log = { info: () => {}, warn: (_: object, message: string) => void problems.push(message) };
  for (let i = Number(from); i < Number(to); i++) {
    const agent = new SimulatedAgent(Number(l2s));
    agents.push(agent);
    const reconciler = new Reconciler({
      api: new KubeApi(await clusterOf(kubeconfig)),
      ...{ namespace, node: nodeName(i), log },
      withAgent: (use, signal) => use(agent.calls, signal),
      oci: () => Promise.reject(new Error('no registry is simulated')),
    });
    running.push(reconciler.run(stop.signal));
  }
  const churning = setInterval(() => agents.forEach((a) => a.churn()), CHURN_MS);
  process.on('message', ({ what }: ToNodes) => {
    if (what === 'stop') stop.abort(new Error('the benchmark is over'));
    else {
      globalThis.gc?.();
      const { rss, heapUsed } = process.memoryUsage();
      const { user, system } = process.cpuUsage();
      tell({
        ...{ rssKib: rss >> 10, heapKib: heapUsed >> 10, cpuSeconds: (user + system) / 1e6 },
        agentRequests: agents.reduce((n, a) => n + a.requests, 0),
      });
    }
  });
  process.on('disconnect', () => stop.abort(new Error('nobody is there any more')));
  tell({ ready: true });
  await Promise.all(running);
  clearInterval(churning);
}

for (const name of ['SIGINT', 'SIGHUP'] as const) process.on(name, () => {});

runMain(async () => {
  try {
    await runNodes(process.argv.slice(2));
  } catch (e) {
    tell({ problem: messageOf(e) });
    process.exitCode = 1;
  }
  if (process.connected) process.disconnect();
});
