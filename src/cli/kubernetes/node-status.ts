/** `hyperturtle kubernetes node-status`: tells the cluster whether this node's nested guests are accelerated. */
import { Option } from 'commander';
import type { Command } from 'commander';
import { withAgent } from '../../client/session.ts';
import { AGENT_SOCKET } from '../../core/default-paths.ts';
import { variable } from '../../core/environment.ts';
import { LOG_LEVELS } from '../../core/log-levels.ts';
import type { LogLevel } from '../../core/log-levels.ts';

interface Options {
  node?: string;
  socket: string;
  logLevel: LogLevel;
}

/** The agent answers at once, or is in a bad way. */
const AGENT_S = 10;

export function registerNodeStatus(kubernetes: Command): void {
  kubernetes
    .command('node-status')
    .description(
      'in a pod: label and condition of its node while acceleration is in force; runs until SIGTERM',
    )
    .option('--node <name>', 'name of the node; default: $NODE_NAME')
    .option('--socket <path>', "the agent's socket", variable('HYPERTURTLE_SOCKET') ?? AGENT_SOCKET)
    .addOption(new Option('--log-level <level>', 'how much to log').choices(LOG_LEVELS).default('info'))
    .addHelpText(
      'after',
      `
The label hyperturtle.io/accelerated=true is what the runtime class kata-hyperturtle selects nodes by; the condition
HyperTurtleAccelerated has the reason. A node that looks worse for less than 30 s keeps both: its agent is being replaced.`,
    )
    .action(run);
}

async function run(o: Options): Promise<void> {
  const [{ HyperturtleError, isHyperturtleError }, { jsonLog }, { abortOnSignals, ChildAbort }, api, status] =
    await Promise.all([
      import('../../core/errors.ts'),
      import('../../core/log.ts'),
      import('../../core/lifecycle.ts'),
      import('../../kubernetes/api.ts'),
      import('../../kubernetes/node-status.ts'),
    ]);
  const name = o.node ?? process.env['NODE_NAME'] ?? '';
  if (!/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/.test(name))
    throw new HyperturtleError(
      'HT_USAGE',
      `--node or $NODE_NAME: the name of a node expected, '${name}' found`,
    );
  const cluster = new api.ClusterApi(api.placeInPod());
  const { log, flush } = jsonLog(o.logLevel);
  const signals = abortOnSignals(['SIGINT', 'SIGTERM']);
  const node = `/api/v1/nodes/${name}`;
  try {
    await status.tellNodeStatus(name, {
      look: async (signal) => {
        using child = new ChildAbort(signal);
        return await withAgent(
          { socket: o.socket, timeoutS: AGENT_S },
          async ({ peer, signal: own, timeoutMs }) => {
            const to = { signal: AbortSignal.any([own, child.signal]), timeoutMs };
            const { links } = await peer.request('agent.desired', {}, to);
            return status.verdict(await peer.request('agent.status', {}, to), links);
          },
        );
      },
      node: (signal) => cluster.get(node, signal),
      apply: (part, object, signal) =>
        cluster.apply(part === 'node' ? node : `${node}/status`, object, signal),
      log,
      signal: signals.signal,
    });
  } catch (e) {
    // to be told to stop is how it ends
    if (!isHyperturtleError(e, 'HT_INTERRUPTED')) throw e;
    log.info({}, 'stopped');
  } finally {
    signals.dispose();
    flush();
  }
}
