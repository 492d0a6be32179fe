/** `hyperturtle nic add|del|list`: NICs of this L1 that its host gives and takes, ready for a nested guest. */
import { Option } from 'commander';
import type { Command } from 'commander';
import type { LocalNic, NicHost, NicUse } from '../guest/nic/nic.ts';
import type { Vmm } from '../guest/nic/vmm.ts';
import { columns, l1Options, print, withAgent } from './l1-client.ts';
import type { AgentClient, L1Options } from './l1-client.ts';

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
    .option('--mac <address>', "default: made of this machine's and the NIC's name")
    .addOption(
      new Option('--driver <name>', 'who gets it: a nested guest, or this machine')
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
Asked for again, it is the same NIC. It stays until it is removed or this machine boots anew. A VMM locks all of its
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
    .option('--force', 'also while a process uses it')
    .action(del);
  l1Options(nic.command('list'))
    .description('NICs of this machine from its host, the networks there are, and how many more it may have')
    .action(list);
}

/** The host behind the agent. */
export function nicHost({ peer, signal, timeoutMs }: AgentClient): NicHost {
  const options = { signal, timeoutMs };
  return {
    add: (params) => peer.request('nic.add', params, options),
    del: (id) => peer.request('nic.del', { id }, options),
    list: () => peer.request('nic.list', {}, options),
  };
}

async function add(id: string | undefined, o: AddOptions): Promise<void> {
  const { addNic } = await import('../guest/nic/nic.ts');
  const params = {
    ...(id === undefined ? {} : { id }),
    ...(o.network === undefined ? {} : { network: o.network }),
    ...(o.mac === undefined ? {} : { mac: o.mac.toLowerCase() }),
  };
  const { VMMS, vmmForm } = await import('../guest/nic/vmm.ts');
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
  const { delNic } = await import('../guest/nic/nic.ts');
  const result = await withAgent(o, (c) =>
    delNic(id, o.force ?? false, { host: nicHost(c), signal: c.signal }),
  );
  print(o, result, ({ existed }) => (existed ? `${id} removed` : `there was no NIC '${id}'`));
}

async function list(o: L1Options): Promise<void> {
  const { listNics } = await import('../guest/nic/nic.ts');
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
      `networks: ${networks.map((n) => `${n.name} (MTU ${n.mtu})`).join(', ') || 'none'}; ${free} more could be had`,
    ].join('\n'),
  );
}

function whereText(n: LocalNic): string {
  if (n.address === null) return 'not there yet';
  const user = n.vfio ?? n.interface ?? '';
  return `${n.address} ${n.driver ?? 'no driver'}${user === '' ? '' : ` ${user}`}`;
}
