/** `hyperturtle enable|disable`: the network programs that come with this package, on a NIC of this L1. */
import { PLACES } from '../core/default-paths.ts';
import { variable } from '../core/environment.ts';
import { Option } from 'commander';
import type { Command } from 'commander';
import { HOOK_OF_DIRECTION, NETWORK_HOOKS, NETWORK_PROGRAMS, networkObject } from '../net/programs.ts';
import type { NetworkHook } from '../net/programs.ts';
import type { MapAccess } from '../net/maps.ts';
import type { PolicyInput } from '../net/firewall-rules.ts';
import { codeFile } from '../core/code-file.ts';
import { l1Options, print, withAgent } from './l1-client.ts';
import type { AgentClient, L1Options } from './l1-client.ts';
import { loadAndLink } from './transaction.ts';
import { integer } from './values.ts';

export interface NicOptions extends L1Options {
  nic: string;
}

interface EnableOptions extends NicOptions {
  direction: 'in' | 'out' | 'both';
  hook?: NetworkHook;
  order?: number;
  object?: string;
  signature?: string;
  policy?: string;
}

/** Where compiled programs are looked for, after $HYPERTURTLE_BPF: as installed, in this package, and in the payload of a lab. */
const FOLDERS = [PLACES.programs.path, ...['../bpf', '../../../bpf'].map(codeFile)];

export function nicOptions(command: Command): Command {
  return l1Options(command).requiredOption('--nic <id>', "a NIC of this machine ('hyperturtle nic list')");
}

export function registerNetworkPrograms(program: Command): void {
  const names = NETWORK_PROGRAMS.map((p) => p.name);
  nicOptions(program.command('enable'))
    .argument('<program>', names.join(', '))
    .description('load a network program for a NIC and link it: it then runs in the host on every packet')
    .addOption(
      new Option('--direction <which>', 'out: what the nested guest sends; in: what goes to it')
        .choices(['in', 'out', 'both'])
        .default('both'),
    )
    .addOption(new Option('--hook <name>', 'this hook alone, instead of a direction').choices(NETWORK_HOOKS))
    .option('--order <number>', 'among the programs of a hook, lower first', integer('--order', 0, 65_535))
    .option('--policy <file>', 'firewall: its rules (YAML or JSON), in force before the first packet')
    .option('--object <file>', 'compiled object; default: the installed one')
    .option('--signature <file>', 'detached signature; default: the object with .sig when there is one')
    .addHelpText(
      'after',
      `
${NETWORK_PROGRAMS.map((p) => `  ${p.name.padEnd(15)} ${p.purpose}`).join('\n')}

Each NIC has an object of its own, called PROGRAM.NIC, with maps of its own. A firewall that is enabled without
--policy allows everything until 'hyperturtle firewall set' says otherwise.

Examples:
  hyperturtle enable firewall --nic web --policy web.yaml
  hyperturtle enable tcptop --nic web --order 200 && hyperturtle tcptop --nic web
  hyperturtle disable firewall --nic web`,
    )
    .action(enable);
  nicOptions(program.command('disable'))
    .argument('<program>', names.join(', '))
    .description('unlink and unload a network program of a NIC')
    .action(disable);
}

async function programOf(name: string): Promise<(typeof NETWORK_PROGRAMS)[number]> {
  const found = NETWORK_PROGRAMS.find((p) => p.name === name);
  if (found) return found;
  const { HyperturtleError } = await import('../core/errors.ts');
  throw new HyperturtleError(
    'HT_USAGE',
    `program '${name}': one of ${NETWORK_PROGRAMS.map((p) => p.name).join(', ')} expected`,
  );
}

/** Throws HT_NOT_FOUND, naming where it was looked for. */
export async function objectFile(file: string): Promise<string> {
  const [{ existsSync }, path, { HyperturtleError }] = await Promise.all([
    import('node:fs'),
    import('node:path'),
    import('../core/errors.ts'),
  ]);
  const own = variable('HYPERTURTLE_BPF');
  const folders = [...(own === undefined ? [] : [own]), ...FOLDERS];
  const found = folders.map((f) => path.join(f, file)).find((f) => existsSync(f));
  if (found !== undefined) return found;
  throw new HyperturtleError(
    'HT_NOT_FOUND',
    `${file} is in none of ${folders.join(', ')}: give --object FILE, or its folder as HYPERTURTLE_BPF`,
  );
}

/** The maps of a NIC's program. Throws HT_NOT_FOUND when it is not enabled there. */
export async function programMaps(
  { peer, signal, timeoutMs }: AgentClient,
  program: string,
  nic: string,
): Promise<MapAccess> {
  const [{ wireMaps }, { HyperturtleError }] = await Promise.all([
    import('../net/maps.ts'),
    import('../core/errors.ts'),
  ]);
  const name = networkObject(program, nic);
  const { objects } = await peer.request('list', {}, { signal, timeoutMs });
  if (!objects.some((o) => o.name === name))
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `${program} is not enabled on NIC '${nic}': 'hyperturtle enable ${program} --nic ${nic}' does it`,
    );
  return wireMaps((method, params) => peer.request(method, params as never, { signal, timeoutMs }), name);
}

/** A policy from a YAML or JSON file; every mistake with its line. Throws HT_NOT_FOUND, HT_CONFIG. */
export async function readPolicy(file: string): Promise<PolicyInput> {
  const [{ readYaml }, { PolicyInput }] = await Promise.all([
    import('../core/yaml.ts'),
    import('../net/firewall-rules.ts'),
  ]);
  return readYaml(file, PolicyInput);
}

async function enable(name: string, options: EnableOptions): Promise<void> {
  const { file } = await programOf(name);
  const [{ readObject }, { HyperturtleError }, { readFirewall }] = await Promise.all([
    import('./l1-objects.ts'),
    import('../core/errors.ts'),
    import('../net/firewall.ts'),
  ]);
  if (options.policy !== undefined && name !== 'firewall')
    throw new HyperturtleError('HT_USAGE', '--policy is for the firewall');
  const policy = options.policy === undefined ? undefined : await readPolicy(options.policy);
  const { signature } = options;
  const object = await readObject(options.object ?? (await objectFile(file)), {
    set: {},
    ...(signature === undefined ? {} : { signature }),
  });
  const directions = options.direction === 'both' ? (['out', 'in'] as const) : [options.direction];
  const hooks = options.hook ? [options.hook] : directions.map((d) => HOOK_OF_DIRECTION[d]);
  const called = networkObject(name, options.nic);
  const result = await withAgent(options, async (client) => {
    const { peer, signal, timeoutMs } = client;
    const to = { signal, timeoutMs };
    const order = options.order === undefined ? {} : { order: options.order };
    const done = await loadAndLink(
      client,
      { name: called, ...object },
      {
        before: async () => {
          if (name !== 'firewall') return;
          const maps = await programMaps(client, name, options.nic);
          const { policy: kept } = await peer.request('agent.policy', { object: called }, to);
          const firewall =
            policy ?? (kept ? undefined : ((await readFirewall(maps)) ?? { default: 'allow' as const }));
          if (firewall) await peer.request('agent.policy.set', { object: called, policy: { firewall } }, to);
        },
        links: () => hooks.map((hook) => ({ hook, target: options.nic, ...order })),
      },
    );
    return { object: called, existed: done.existed, links: done.links };
  });
  print(options, result, (r) =>
    r.links
      .map((l) => `link ${l.id}: ${l.program} of ${r.object} answers ${l.hook} of ${options.nic}`)
      .join('\n'),
  );
}

async function disable(name: string, options: NicOptions): Promise<void> {
  await programOf(name);
  const called = networkObject(name, options.nic);
  await withAgent(options, ({ peer, signal, timeoutMs }) =>
    peer.request('unload', { name: called, force: true }, { signal, timeoutMs }),
  );
  print(options, { unloaded: called }, () => `${called} unloaded`);
}
