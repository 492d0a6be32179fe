/** `hyperturtle kubernetes ...`: this L1 as a node of a cluster. */
import type { Command } from 'commander';
import { integer } from '../shared/values.ts';
import { registerImages } from './images.ts';
import { registerManifests } from './manifests.ts';
import { registerNodeStatus } from './node-status.ts';
import { registerReconcile } from './reconcile.ts';
import { runService, serviceOptions } from './service.ts';
import type { ServiceOptions } from './service.ts';

interface PluginOptions extends ServiceOptions {
  resource: string;
  nics?: number;
  network?: string;
  kubeletDir: string;
  everyS: number;
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
  const command = kubernetes
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
    .option('--every-s <number>', 'seconds between looks at the NICs', integer('--every-s', 1, 3600), 10);
  serviceOptions(command)
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
  const [{ HyperturtleError }, { runPlugin }, means, holders] = await Promise.all([
    import('../../core/errors.ts'),
    import('../../kubernetes/device-plugin/plugin.ts'),
    import('../../kubernetes/device-plugin/means.ts'),
    import('../../guest/nic/holders.ts'),
  ]);
  if (!RESOURCE.test(o.resource))
    throw new HyperturtleError(
      'HT_USAGE',
      `--resource: a domain, a slash and a name expected, as hyperturtle.io/nic, '${o.resource}' found`,
    );
  await runService(o, 'device plugin stopped', (log, signal) =>
    runPlugin({
      resource: o.resource,
      count: o.nics,
      dir: o.kubeletDir,
      everyMs: o.everyS * 1000,
      means: means.nicMeans({ socket: o.socket, network: o.network }),
      holders: holders.holdersOf,
      log,
      signal,
    }),
  );
}
