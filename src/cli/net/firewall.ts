/** `hyperturtle firewall ...`: rules of the firewall on a NIC, changed while packets pass. */
import { Option } from 'commander';
import type { Command } from 'commander';
import type { FirewallHits } from '../../net/firewall.ts';
import type { PolicyInput } from '../../net/firewall-rules.ts';
import type { MapAccess } from '../../net/maps.ts';
import { print } from '../shared/agent-options.ts';
import { columns } from '../shared/columns.ts';
import { withAgent } from '../../client/session.ts';
import { mapsOf, nicOptions } from './command.ts';
import type { NicOptions } from './command.ts';
import { networkObject } from '../../net/programs.ts';
import { integer } from '../shared/values.ts';

const SYNTAX = `
Rules, the first that matches decides:
  allow|deny [in|out|both] [PROTOCOL] [from PREFIXES [port PORTS]] [to PREFIXES [port PORTS]] [port PORTS]
  out is what the nested guest sends, in is what goes to it. PROTOCOL: tcp, udp, icmp, icmpv6, sctp, ... or a number.
  PREFIXES: any, or 10.0.0.0/8,fd00::/8. PORTS: 80,443,8000-8080; without an address before it, the destination's.
There is no connection tracking: answers need a rule of their own.`;

export function registerFirewall(program: Command): void {
  const firewall = program.command('firewall').description('rules of the firewall on a NIC');
  const sub = (name: string): Command => nicOptions(firewall.command(name));
  sub('set')
    .argument('<file>', 'YAML or JSON: default, nonIp, neighbours, rules')
    .description('set all rules and defaults at once: no packet meets a mix of old and new')
    .addHelpText(
      'after',
      `${SYNTAX}

Example of a file:
  default: {out: allow, in: deny}     # what no rule matches; deny when left out
  rules:
    - deny out tcp from any to any port 25
    - allow in tcp from 10.0.0.0/8 to any port 22,80-443
    - {action: allow, direction: in, protocol: udp, fromPort: 53}`,
    )
    .action(set);
  sub('show').description('the rules in force, numbered').action(show);
  sub('add')
    .argument('<rule>', 'one rule, in quotes')
    .description('add a rule, at the end or at a place')
    .option('--at <number>', 'number that the rule gets; default: last', integer('--at', 1, 1024))
    .addOption(new Option('--default <action>', 'set the default as well').choices(['allow', 'deny']))
    .addHelpText(
      'after',
      `${SYNTAX}

Example:
  hyperturtle firewall add --nic web --at 1 "deny out tcp from any to 10.0.0.0/8 port 80-443"`,
    )
    .action(add);
  sub('del')
    .argument('<rule>', "its number ('firewall show'), or the rule itself")
    .description('remove a rule')
    .action(del);
  sub('hits').description('packets and bytes of each rule since it was set').action(hits);
}

const nothing = async (nic: string): Promise<never> => {
  const { HyperturtleError } = await import('../../core/errors.ts');
  throw new HyperturtleError(
    'HT_NOT_FOUND',
    `the firewall of '${nic}' has no policy and drops everything: 'hyperturtle firewall set' gives it one`,
  );
};

function policyText(p: PolicyInput): string {
  const each = (x: PolicyInput['default']): string =>
    typeof x === 'object' ? `out ${x.out ?? 'deny'}, in ${x.in ?? 'deny'}` : (x ?? 'deny');
  return [
    ...(p.rules ?? []).map(
      (r, i) => `${String(i + 1).padStart(4)}  ${typeof r === 'string' ? r : JSON.stringify(r)}`,
    ),
    `default: ${each(p.default)}; not IP: ${each(p.nonIp)}; ARP and neighbour discovery: ${p.neighbours === false ? 'by the rules' : 'allow'}`,
  ].join('\n');
}

/** Tries of a change, as another command may change the rules at the same time. */
const TRIES = 8;

/** Applies what `change` makes of the policy that is wanted, and prints what is in force then. */
async function changed(
  options: NicOptions,
  change: (now: PolicyInput | undefined) => PolicyInput | Promise<PolicyInput>,
): Promise<void> {
  const [{ isHyperturtleError }, { readFirewall }] = await Promise.all([
    import('../../core/errors.ts'),
    import('../../net/firewall.ts'),
  ]);
  const result = await withAgent(options, async (client) => {
    const { peer, signal, timeoutMs } = client;
    const maps: MapAccess = await mapsOf(client, 'firewall', options.nic);
    const object = networkObject('firewall', options.nic);
    for (let tries = 1; ; tries++)
      try {
        const { policy: kept, revision } = await peer.request(
          'agent.policy',
          { object },
          { signal, timeoutMs },
        );
        // not what the host has where the two differ: after its restart it may not have been told yet
        const now = kept && 'firewall' in kept ? kept.firewall : await readFirewall(maps);
        const policy = { firewall: await change(now) };
        await peer.request('agent.policy.set', { object, policy, revision }, { signal, timeoutMs });
        return (await readFirewall(maps)) ?? (await nothing(options.nic));
      } catch (e) {
        if (!isHyperturtleError(e, 'HT_BUSY') || tries === TRIES) throw e;
      }
  });
  print(options, result, policyText);
}

async function set(file: string, options: NicOptions): Promise<void> {
  const { readPolicy } = await import('../../client/programs.ts');
  const policy = readPolicy(file);
  await changed(options, () => policy);
}

async function show(options: NicOptions): Promise<void> {
  const { readFirewall } = await import('../../net/firewall.ts');
  const result = await withAgent(
    options,
    async (c) => (await readFirewall(await mapsOf(c, 'firewall', options.nic))) ?? nothing(options.nic),
  );
  print(options, result, policyText);
}

async function add(
  rule: string,
  options: NicOptions & { at?: number; default?: 'allow' | 'deny' },
): Promise<void> {
  const { parseRule } = await import('../../net/firewall-rules.ts');
  parseRule(rule); // a mistake is told before anybody is asked
  await changed(options, (now) => {
    const rules = [...(now?.rules ?? [])];
    rules.splice(options.at === undefined ? rules.length : options.at - 1, 0, rule);
    return { ...now, ...(options.default ? { default: options.default } : {}), rules };
  });
}

async function del(which: string, options: NicOptions): Promise<void> {
  const [{ formatRule, parseRule }, { HyperturtleError }] = await Promise.all([
    import('../../net/firewall-rules.ts'),
    import('../../core/errors.ts'),
  ]);
  await changed(options, async (now) => {
    const rules = [...((now ?? (await nothing(options.nic))).rules ?? [])];
    const at = /^\d+$/.test(which) ? Number(which) - 1 : rules.indexOf(formatRule(parseRule(which)));
    if (rules[at] === undefined)
      throw new HyperturtleError('HT_NOT_FOUND', `no rule '${which}': there are ${rules.length}`);
    rules.splice(at, 1);
    return { ...now, rules };
  });
}

async function hits(options: NicOptions): Promise<void> {
  const { firewallHits } = await import('../../net/firewall.ts');
  const result = await withAgent(options, async (c) =>
    firewallHits(await mapsOf(c, 'firewall', options.nic)),
  );
  print(options, result, hitsText);
}

function hitsText({ rules, others }: FirewallHits): string {
  return columns(
    ['PACKETS', 'BYTES', 'DIRECTION', 'RULE'],
    [
      ...rules.map((r) => [String(r.packets), String(r.bytes), r.direction, r.rule]),
      ...others
        .filter((o) => o.packets > 0)
        .map((o) => [String(o.packets), String(o.bytes), o.direction, `(${o.what})`]),
    ],
  );
}
