/** `hyperturtle nic add|del|list`: NICs of this L1 that its host gives and takes, ready for a nested guest. */
import { Option } from 'commander';
import type { Command } from 'commander';
import type { LocalNic, NicUse } from '../../guest/nic/nic.ts';
import type { Vmm } from '../../guest/nic/vmm.ts';
import { NETWORK_PROGRAMS, networkObject } from '../../net/programs.ts';
import { l1Options, print } from '../shared/agent-options.ts';
import { columns } from '../shared/columns.ts';
import { withAgent } from '../../client/session.ts';
import type { L1Options } from '../shared/agent-options.ts';
import { nicHost, unwantNic } from '../../client/nics.ts';
import type { Unwanted } from '../../client/nics.ts';

interface AddOptions extends L1Options {
  network?: string;
  mac?: string;
  driver: NicUse;
  vmm?: Vmm;
}

export function registerNic(program: Command): void {
  const nic = program
    .command('nic')
    .description('NICs that the host gives to this machine, for nested guests');
  l1Options(nic.command('add'))
    .argument('[id]', 'a name of your choice; default: nic0, nic1, ...')
    .description('get a NIC from the host and bind it to vfio-pci, for a nested guest')
    .option('--network <name>', "one of the host's networks ('hyperturtle nic list'); default: the first")
    .option('--mac <address>', "MAC address; default: made of this machine's and the NIC's name")
    .addOption(
      new Option('--driver <name>', 'vfio-pci: a nested guest gets it; virtio-net: this machine')
        .choices(['vfio-pci', 'virtio-net'])
        .default('vfio-pci'),
    )
    .addOption(
      new Option('--vmm <name>', 'print only what this VMM needs').choices([
        'qemu',
        'cloud-hypervisor',
        'kata',
        'libvirt',
      ]),
    )
    .addHelpText(
      'after',
      `
Asked for again, it is the same NIC. It stays until it is removed or this machine boots again. A VMM locks all of its
guest's memory for it (ulimit -l).

Examples:
  hyperturtle nic add web
  qemu-system-x86_64 ... $(hyperturtle nic add web --vmm qemu)
  hyperturtle nic add --driver virtio-net --network lan`,
    )
    .action(add);
  l1Options(nic.command('del'))
    .argument('<id>')
    .description('give a NIC back; links to it end')
    .option('--force', 'also while a process uses it; and what is wanted for it is given up')
    .addHelpText(
      'after',
      `
Programs that were enabled or linked on it stay wanted, and run again on a NIC of the same name. What that is, and
what ends it, is said; --force ends it, also when the NIC has gone before.`,
    )
    .action(del);
  l1Options(nic.command('list'))
    .description('NICs of this machine from its host, the networks there are, and how many more it may have')
    .action(list);
}

async function add(id: string | undefined, o: AddOptions): Promise<void> {
  const { addNic } = await import('../../guest/nic/nic.ts');
  const params = {
    ...(id === undefined ? {} : { id }),
    ...(o.network === undefined ? {} : { network: o.network }),
    ...(o.mac === undefined ? {} : { mac: o.mac.toLowerCase() }),
  };
  const { VMMS, vmmForm } = await import('../../guest/nic/vmm.ts');
  const made = await withAgent(o, (c) => addNic(params, o.driver, { host: nicHost(c), signal: c.signal }));
  const { address, iommuGroup, vfio } = made;
  const forms: Partial<Record<Vmm, string>> =
    vfio === null || address === null || iommuGroup === null
      ? {}
      : Object.fromEntries(VMMS.map((vmm) => [vmm, vmmForm(vmm, address, iommuGroup)]));
  print(o, { ...made, vmm: forms }, () => {
    if (o.vmm) return forms[o.vmm] ?? '';
    return [
      `${made.nic.id}: ${made.nic.mac} in ${made.nic.network}, MTU ${made.nic.mtu}${made.existed ? ' (there already)' : ''}`,
      whereText(made),
      ...Object.entries(forms).map(([vmm, form]) => `${vmm}: ${form.includes('\n') ? '\n' : ''}${form}`),
    ].join('\n');
  });
}

async function del(id: string, o: L1Options & { force?: boolean }): Promise<void> {
  const { delNic } = await import('../../guest/nic/nic.ts');
  const { force = false } = o;
  const result = await withAgent(o, async (c) => {
    const to = { signal: c.signal, timeoutMs: c.timeoutMs };
    const { existed } = await delNic(id, force, { host: nicHost(c), signal: c.signal });
    const givenUp = force ? await unwantNic(c, id) : NOTHING;
    const { links } = await c.peer.request('agent.desired', {}, to);
    return { existed, givenUp, wanted: links.filter((l) => l.target === id) };
  });
  print(o, result, (r) => delText(id, r, force));
}

const NOTHING: Unwanted = { links: [], objects: [] };

export function delText(
  id: string,
  r: { existed: boolean; givenUp: Unwanted; wanted: Unwanted['links'] },
  force = false,
): string {
  const name = (l: Unwanted['links'][number]): string => `${l.object} at ${l.hook}`;
  const lines = [r.existed ? `${id} removed` : `there was no NIC '${id}'`];
  const gone = [...new Set([...r.givenUp.links.map(name), ...r.givenUp.objects])];
  if (gone.length > 0) lines.push(`not wanted any more: ${gone.join(', ')}`);
  if (r.wanted.length > 0)
    lines.push(
      `still wanted, for when there is a NIC '${id}' again: ${r.wanted.map(name).join(', ')}`,
      `to give that up: ${force ? 'restart the agent, which is of an earlier version, and then ' : ''}${giveUp(id, r.wanted).join(' && ')}`,
    );
  return lines.join('\n');
}

/** Commands; without a NIC a link of other objects than this NIC's programs cannot be named by its number. */
function giveUp(id: string, wanted: Unwanted['links']): string[] {
  const objects = [...new Set(wanted.map((l) => l.object))];
  const programs = objects.map((o) => NETWORK_PROGRAMS.find((p) => networkObject(p.name, id) === o)?.name);
  return programs.every((p) => p !== undefined)
    ? programs.map((p) => `hyperturtle disable ${p} --nic ${id}`)
    : [`hyperturtle nic del ${id} --force`];
}

async function list(o: L1Options): Promise<void> {
  const { listNics } = await import('../../guest/nic/nic.ts');
  const result = await withAgent(o, async (c) => {
    const host = nicHost(c);
    const { networks, free } = await host.list();
    return { nics: await listNics({ host, signal: c.signal }), networks, free };
  });
  print(o, result, ({ nics, networks, free }) =>
    [
      columns(
        ['NIC', 'MAC', 'NETWORK', 'MTU', 'WHERE', 'HOOKS'],
        nics.map((n) => [
          n.nic.id,
          n.nic.mac,
          n.nic.network,
          String(n.nic.mtu),
          whereText(n),
          n.nic.hooks.join(' '),
        ]),
      ) || 'no NICs',
      `networks: ${networks.map((n) => `${n.name} (MTU ${n.mtu})`).join(', ') || 'none'}; ${free} more are available`,
    ].join('\n'),
  );
}

function whereText(n: LocalNic): string {
  if (n.address === null) return 'not there yet';
  const user = n.vfio ?? n.interface ?? '';
  return `${n.address} ${n.driver ?? 'no driver'}${user === '' ? '' : ` ${user}`}`;
}
