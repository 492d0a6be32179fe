/** `hyperturtle kubernetes ...`: this L1 as a node of a cluster. */
import type { Command } from 'commander';
import type { LogLevel } from '../../core/log-levels.ts';
import { LOG_LEVELS } from '../../core/log-levels.ts';
import { AGENT_SOCKET } from '../../core/default-paths.ts';
import { variable } from '../../core/environment.ts';
import { Option } from 'commander';
import { integer } from '../shared/values.ts';
import { registerImages } from './images.ts';
import { registerManifests } from './manifests.ts';
import { registerNodeStatus } from './node-status.ts';
import { registerReconcile } from './reconcile.ts';

interface PluginOptions {
  resource: string;
  nics?: number;
  network?: string;
  kubeletDir: string;
  everyS: number;
  socket: string;
  logLevel: LogLevel;
}

export function registerKubernetes(program: Command, version: string): void {
  const kubernetes = program
    .command('kubernetes')
    .description('L1s as nodes of Kubernetes: manifests, NICs of the host for pods');
  registerManifests(kubernetes, version);
  registerDevicePlugin(kubernetes);
  registerNodeStatus(kubernetes);
  registerImages(kubernetes, version);
  registerReconcile(kubernetes);
}

function registerDevicePlugin(kubernetes: Command): void {
  kubernetes
    .command('device-plugin')
    .description('give NICs of the host to pods, as a device plugin of kubelet; runs until SIGTERM')
    .option('--resource <name>', 'what pods ask for', 'hyperturtle.io/nic')
    .option(
      '--nics <number>',
      'how many NICs to keep for pods; default: as many as the host gives',
      integer('--nics', 0, 1024),
    )
    .option('--network <name>', "one of the host's networks ('hyperturtle nic list'); default: the first")
    .option(
      '--kubelet-dir <path>',
      "directory of kubelet's and its plugins' sockets",
      '/var/lib/kubelet/device-plugins',
    )
    .option('--every-s <number>', 'seconds between looks at the NICs', integer('--every-s', 1, 3600), 10)
    .option('--socket <path>', "the agent's socket", variable('HYPERTURTLE_SOCKET') ?? AGENT_SOCKET)
    .addOption(new Option('--log-level <level>', 'how much to log').choices(LOG_LEVELS).default('info'))
    .addHelpText(
      'after',
      `
NICs are got from the host ahead, named k8s-nic-0, k8s-nic-1, ... after the resource, and bound to vfio-pci. They stay
when the plugin ends, however it does: pods keep theirs.

Example of what a container asks for:
  resources: {limits: {hyperturtle.io/nic: 1}}`,
    )
    .action(run);
}

/** As kubelet takes them: a domain, and a name of one word. */
const RESOURCE = /^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?\/[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$/;

async function run(o: PluginOptions): Promise<void> {
  const [
    { HyperturtleError, isHyperturtleError },
    { jsonLog },
    { abortOnSignals },
    { runPlugin },
    means,
    holders,
  ] = await Promise.all([
    import('../../core/errors.ts'),
    import('../../core/log.ts'),
    import('../../core/lifecycle.ts'),
    import('../../kubernetes/device-plugin/plugin.ts'),
    import('../../kubernetes/device-plugin/means.ts'),
    import('../../guest/nic/holders.ts'),
  ]);
  if (!RESOURCE.test(o.resource))
    throw new HyperturtleError(
      'HT_USAGE',
      `--resource: a domain, a slash and a name expected, as hyperturtle.io/nic, '${o.resource}' found`,
    );
  const { log, flush } = jsonLog(o.logLevel);
  const signals = abortOnSignals(['SIGINT', 'SIGTERM']);
  try {
    await runPlugin({
      resource: o.resource,
      count: o.nics,
      dir: o.kubeletDir,
      everyMs: o.everyS * 1000,
      means: means.nicMeans({ socket: o.socket, network: o.network }),
      holders: holders.holdersOf,
      log,
      signal: signals.signal,
    });
  } catch (e) {
    // to be told to stop is how it ends
    if (!isHyperturtleError(e, 'HT_INTERRUPTED')) throw e;
    log.info({}, 'device plugin stopped');
  } finally {
    signals.dispose();
    flush();
  }
}
