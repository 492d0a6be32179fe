/** `hyperturtle enable|disable`: the network programs that come with this package, on a NIC of this L1. */
import { Option } from 'commander';
import type { Command } from 'commander';
import { HOOK_OF_DIRECTION, NETWORK_HOOKS, NETWORK_PROGRAMS, networkObject } from '../../net/programs.ts';
import type { MapAccess } from '../../net/maps.ts';
import type { NetworkHook } from '../../net/programs.ts';
import type { PolicyInput } from '../../net/firewall-rules.ts';
import { l1Options, print } from '../shared/agent-options.ts';
import { withAgent } from '../../client/session.ts';
import type { L1Options } from '../shared/agent-options.ts';
import type { AgentClient } from '../../client/session.ts';
import { integer } from '../shared/values.ts';

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

const client = () =>
  Promise.all([import('../../client/object.ts'), import('../../client/programs.ts')] as const);

/** The maps of a NIC's program. Throws HT_NOT_FOUND when it is not enabled there. */
export async function mapsOf(c: AgentClient, program: string, nic: string): Promise<MapAccess> {
  const [, { programMaps }] = await client();
  return programMaps(c, program, nic);
}

async function enable(name: string, options: EnableOptions): Promise<void> {
  const [{ objectFile, readObject }, { enableProgram, programOf, readPolicy }] = await client();
  const { file } = programOf(name);
  if (options.policy !== undefined && name !== 'firewall') {
    const { HyperturtleError } = await import('../../core/errors.ts');
    throw new HyperturtleError('HT_USAGE', '--policy is for the firewall');
  }
  const policy = options.policy === undefined ? undefined : readPolicy(options.policy);
  const object = readObject(options.object ?? objectFile(file), { signature: options.signature });
  const directions = options.direction === 'both' ? (['out', 'in'] as const) : [options.direction];
  const hooks = options.hook ? [options.hook] : directions.map((d) => HOOK_OF_DIRECTION[d]);
  const called = networkObject(name, options.nic);
  const result = await withAgent(options, async (c) => {
    const before = name === 'firewall' ? () => beginFirewall(c, options.nic, policy) : undefined;
    const { order } = options;
    const done = await enableProgram(c, name, options.nic, {
      object,
      hooks,
      order,
      ...(before ? { before } : {}),
    });
    return { object: called, existed: done.existed, links: done.links };
  });
  print(options, result, (r) =>
    r.links
      .map((l) => `link ${l.id}: ${l.program} of ${r.object} answers ${l.hook} of ${options.nic}`)
      .join('\n'),
  );
}

/** Before the first packet: the policy that is given, else the one that is kept, else what is in force, else all may pass. */
async function beginFirewall(c: AgentClient, nic: string, given: PolicyInput | undefined): Promise<void> {
  const { readFirewall } = await import('../../net/firewall.ts');
  const { peer, signal, timeoutMs } = c;
  const to = { signal, timeoutMs };
  const object = networkObject('firewall', nic);
  const maps = await mapsOf(c, 'firewall', nic);
  const { policy: kept } = await peer.request('agent.policy', { object }, to);
  const firewall =
    given ?? (kept ? undefined : ((await readFirewall(maps)) ?? { default: 'allow' as const }));
  if (firewall) await peer.request('agent.policy.set', { object, policy: { firewall } }, to);
}

async function disable(name: string, options: NicOptions): Promise<void> {
  const [, { disableProgram, programOf }] = await client();
  programOf(name);
  await withAgent(options, (c) => disableProgram(c, name, options.nic));
  const called = networkObject(name, options.nic);
  print(options, { unloaded: called }, () => `${called} unloaded`);
}
