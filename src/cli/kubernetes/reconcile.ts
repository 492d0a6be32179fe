/** `hyperturtle kubernetes reconcile`: the programs of this node of a cluster, as resources of Kubernetes say. */
import { Option } from 'commander';
import type { Command } from 'commander';
import { withAgent } from '../../client/session.ts';
import { AGENT_SOCKET } from '../../core/default-paths.ts';
import { variable } from '../../core/environment.ts';
import { LOG_LEVELS } from '../../core/log-levels.ts';
import type { LogLevel } from '../../core/log-levels.ts';

interface Options {
  socket: string;
  node?: string;
  namespace?: string;
  kubeconfig?: string;
  registryAuth?: string;
  plainRegistry?: string[];
  logLevel: LogLevel;
}

/** Seconds to wait for an answer of the agent, which may have to wait for its host. */
const AGENT_S = 120;
const NAMESPACE = 'hyperturtle';

export function registerReconcile(kubernetes: Command): void {
  kubernetes
    .command('reconcile')
    .description('have the agent load and link what HyperupcallSets of a cluster want; runs until SIGTERM')
    .option('--node <name>', 'this node; default: $NODE_NAME')
    .option('--namespace <name>', "where the sets are; default: the kubeconfig's, or the pod's")
    .option('--kubeconfig <file>', "default: $KUBECONFIG, ~/.kube/config, the pod's service account")
    .option('--registry-auth <file>', "Docker's config.json, for objects in registries")
    .option('--plain-registry <host...>', 'registries that are asked without TLS')
    .option('--socket <path>', "the agent's socket", variable('HYPERTURTLE_SOCKET') ?? AGENT_SOCKET)
    .addOption(new Option('--log-level <level>', 'how much to log').choices(LOG_LEVELS).default('info'))
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

async function reconcile(options: Options): Promise<void> {
  const [
    { Reconciler },
    { KubeApi, kubeConfig },
    { ociFetcher },
    lifecycle,
    { jsonLog },
    { HyperturtleError },
  ] = await Promise.all([
    import('../../fleet/reconciler.ts'),
    import('../../fleet/kube.ts'),
    import('../../fleet/oci.ts'),
    import('../../core/lifecycle.ts'),
    import('../../core/log.ts'),
    import('../../core/errors.ts'),
  ]);
  const node = options.node ?? process.env['NODE_NAME'];
  if (node === undefined || node === '')
    throw new HyperturtleError(
      'HT_USAGE',
      'say which node this is: --node NAME, or NODE_NAME in the environment',
    );
  const api = new KubeApi(await kubeConfig(options.kubeconfig));
  const namespace = options.namespace ?? api.namespace ?? NAMESPACE;
  const { log, flush } = jsonLog(options.logLevel);
  const signals = lifecycle.abortOnSignals();
  const reconciler = new Reconciler({
    api,
    namespace,
    node,
    log,
    withAgent: (use, signal) =>
      withAgent({ socket: options.socket, timeoutS: AGENT_S }, (client) =>
        use(client.peer, AbortSignal.any([signal, client.signal])),
      ),
    oci: ociFetcher({ credentials: options.registryAuth, plain: options.plainRegistry ?? [] }),
  });
  try {
    log.info({ node, namespace }, 'reconciling');
    await reconciler.run(signals.signal);
  } finally {
    signals.dispose();
    api[Symbol.dispose]();
    log.info({}, 'stopped; programs stay');
    flush();
  }
}
