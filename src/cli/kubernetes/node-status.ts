/** `hyperturtle kubernetes node-status`: tells the cluster whether this node's nested guests are accelerated. */
import type { Command } from 'commander';
import { withAgent } from '../../client/session.ts';
import { nodeOf, nodeOption, runService, serviceOptions } from './service.ts';
import type { NodeOptions } from './service.ts';

/** The agent answers at once, or is in a bad way. */
const AGENT_S = 10;
/** Who owns the label and the condition. */
const FIELD_MANAGER = 'hyperturtle-node-status';

export function registerNodeStatus(kubernetes: Command): void {
  const command = kubernetes
    .command('node-status')
    .description(
      'in a pod: label and condition of its node while acceleration is in force; runs until SIGTERM',
    );
  serviceOptions(nodeOption(command))
    .addHelpText(
      'after',
      `
The label hyperturtle.io/accelerated=true is what the runtime class kata-hyperturtle selects nodes by; the condition
HyperTurtleAccelerated has the reason. A node that looks worse for less than 30 s keeps both: its agent is being replaced.`,
    )
    .action(run);
}

async function run(o: NodeOptions): Promise<void> {
  const [{ ChildAbort }, { KubeApi }, { podCluster }, status] = await Promise.all([
    import('../../core/lifecycle.ts'),
    import('../../fleet/kube.ts'),
    import('../../fleet/cluster.ts'),
    import('../../kubernetes/node-status.ts'),
  ]);
  const name = await nodeOf(o);
  const node = `/api/v1/nodes/${name}`;
  const api = new KubeApi(podCluster());
  const look = async (signal: AbortSignal) => {
    using child = new ChildAbort(signal);
    return await withAgent(
      { socket: o.socket, timeoutS: AGENT_S },
      async ({ peer, signal: own, timeoutMs }) => {
        const to = { signal: AbortSignal.any([own, child.signal]), timeoutMs };
        const { links } = await peer.request('agent.desired', {}, to);
        return status.verdict(await peer.request('agent.status', {}, to), links);
      },
    );
  };
  try {
    await runService(o, 'stopped', (log, signal) =>
      status.tellNodeStatus(name, {
        look,
        node: (signal) => api.request({ path: node }, signal),
        apply: (part, object, signal) =>
          api.apply(part === 'node' ? node : `${node}/status`, object, FIELD_MANAGER, signal),
        log,
        signal,
      }),
    );
  } finally {
    api[Symbol.dispose]();
  }
}
