/** `hyperturtle kubernetes reconcile`: the programs of this node of a cluster, as resources of Kubernetes say. */
import type { Command } from 'commander';
import { withAgent } from '../../client/session.ts';
import { integer } from '../shared/values.ts';
import { nodeOf, nodeOption, runService, serviceOptions } from './service.ts';
import type { NodeOptions } from './service.ts';

interface Options extends NodeOptions {
  namespace?: string;
  kubeconfig?: string;
  registryAuth?: string;
  plainRegistry?: string[];
  metrics?: { address: string; port: number };
}

/** Seconds to wait for an answer of the agent, which may have to wait for its host. */
const AGENT_S = 120;
const NAMESPACE = 'hyperturtle';

export function registerReconcile(kubernetes: Command): void {
  const command = kubernetes
    .command('reconcile')
    .description('have the agent load and link what HyperupcallSets of a cluster want; runs until SIGTERM');
  nodeOption(command)
    .option('--namespace <name>', "where the sets are; default: the kubeconfig's, or the pod's")
    .option('--kubeconfig <file>', "default: $KUBECONFIG, ~/.kube/config, the pod's service account")
    .option('--registry-auth <file>', "Docker's config.json, for objects in registries")
    .option('--plain-registry <host...>', 'registries that are asked without TLS')
    .option(
      '--metrics <address>',
      'serve measurements: PORT on the loopback address, or ADDRESS:PORT',
      address,
    );
  serviceOptions(command)
    .addHelpText(
      'after',
      `
Runs beside the agent, in a pod of a DaemonSet. What it did is the status of the HyperupcallNode that has the
node's name. When it ends, by whatever means, programs stay loaded and linked.

Example:
  kubectl -n hyperturtle get hyperupcallnodes`,
    )
    .action(reconcile);
}

/** `[ADDRESS:]PORT`; addresses of IPv6 are in brackets. */
function address(text: string): { address: string; port: number } {
  const [, host = '127.0.0.1', digits = ''] = /^(?:(\[[0-9a-f:.]+\]|[\d.]+):)?(.*)$/i.exec(text) ?? [];
  return { address: host.replace(/^\[|\]$/g, ''), port: integer("--metrics' port", 1, 65_535)(digits) };
}

async function reconcile(options: Options): Promise<void> {
  const [{ Reconciler }, { KubeApi }, { clusterOf }, { ociFetcher }, { CleanupStack }] = await Promise.all([
    import('../../fleet/reconciler.ts'),
    import('../../fleet/kube.ts'),
    import('../../fleet/cluster.ts'),
    import('../../fleet/oci.ts'),
    import('../../core/lifecycle.ts'),
  ]);
  const node = await nodeOf(options);
  const cluster = await clusterOf(options.kubeconfig);
  const namespace = options.namespace ?? cluster.namespace ?? NAMESPACE;
  const undo = new CleanupStack();
  const api = new KubeApi(cluster);
  undo.add('connections', () => api[Symbol.dispose]());
  try {
    await runService(options, 'stopped; programs stay', async (log, signal) => {
      const reconciler = new Reconciler({
        ...{ api, namespace, node, log },
        withAgent: (use, stop) =>
          withAgent({ socket: options.socket, timeoutS: AGENT_S }, (client) =>
            use(client.peer, AbortSignal.any([stop, client.signal])),
          ),
        oci: ociFetcher({ credentials: options.registryAuth, plain: options.plainRegistry ?? [] }),
      });
      const { metrics: at } = options;
      if (at) {
        const { serveFleetMetrics } = await import('../../fleet/metrics.ts');
        const server = await serveFleetMetrics(at, () => reconciler.figures);
        undo.add('measurements', () => server.close());
      }
      log.info({ node, namespace }, 'reconciling');
      await reconciler.run(signal);
    });
  } finally {
    await undo.run();
  }
}
