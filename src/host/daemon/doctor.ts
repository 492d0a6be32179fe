/** Findings of `doctor` about the VMs and networks of a host: what is right, what is not, and what to do about it. */
import { existsSync } from 'node:fs';
import type { Finding } from '../../wire/schema.ts';
import { hasVdpa } from '../nics/vdpa.ts';
import { TUN_DEVICE, VHOST_DEVICE } from '../nics/tap.ts';
import type { HostConfig } from '../config.ts';
import type { VmStatus } from '../vm/vm-status.ts';

const ok = (what: string): Finding => ({ level: 'ok', what });

/** Findings of one VM, as that VM may know them. */
export function vmFindings(vm: VmStatus): Finding[] {
  const found: Finding[] = [];
  const { arena } = vm;
  const mib = arena.bytes >> 20;
  if (vm.still) return [stillFinding(vm.name, vm.still)];
  if (arena.state === 'plugged') found.push(ok(`host: the VM has its arena of ${mib} MiB`));
  else
    found.push({
      level: 'fail',
      what: `host: the VM does not have its arena (${arena.state})`,
      mend: `start it with the arguments that 'hyperturtle host args ${vm.name}' prints, or set its bus so that the arena is plugged`,
    });
  if (vm.problem !== null)
    found.push({
      level: 'warn',
      what: `host: ${vm.problem}`.slice(0, 4096),
      mend: 'ask the operator of the host',
    });
  if (vm.qmp.problem !== null)
    found.push({
      level: 'warn',
      what: 'host: no QMP connection to the VM: a reset of it would not be noticed at once',
      mend: 'give the VM a QMP socket that only the daemon uses',
    });
  for (const { link, reason } of vm.ended)
    found.push({
      level: 'warn',
      what: `host: link of '${link.object}' to ${link.hook}: ${reason}`.slice(0, 4096),
      mend: "load a faster program ('hyperturtle check' says how long a run may take), or link it again",
    });
  for (const { link, reason } of vm.leftOff)
    found.push({
      level: 'fail',
      what: `host: '${link.object}' on ${link.hook} of NIC ${link.target ?? ''} is ${reason}`.slice(0, 4096),
      mend: `have L1 link it again ('hyperturtle status' there says what keeps it); nics.withoutDaemon: keep or drop holds frames back meanwhile`,
    });
  found.push(...nicFindings(vm));
  return found;
}

/** Nothing else is expected of one that stands still. */
function stillFinding(name: string, { state, since, to }: NonNullable<VmStatus['still']>): Finding {
  const gone = state === 'moved' || state === 'saved';
  return {
    level: 'warn',
    what: `host: the VM is ${state} since ${since}${to === null ? '' : ` (${to})`}: ${gone ? 'its QEMU here stands still' : 'its nested guests run without acceleration'}`,
    mend: gone
      ? 'end its QEMU here: it must not go on at both ends'
      : `'hyperturtle host resume ${name}' when its move is over, or 'hyperturtle host cancel ${name}'`,
  };
}

/** Findings of the networks of the configuration: for the operator only. */
export function networkFindings(networks: HostConfig['networks']): Finding[] {
  const all = Object.entries(networks);
  if (all.length === 0) return [];
  const found = all.map(([name, network]): Finding => {
    if ('vdpa' in network)
      return hasVdpa()
        ? ok(`host: network ${name} is of vDPA devices, which this kernel knows`)
        : {
            level: 'fail',
            what: `host: network ${name} is of vDPA devices, which this kernel does not know`,
            mend: "modprobe vdpa vhost_vdpa and the driver of the NIC ('vdpa mgmtdev show' then lists it)",
          };
    const { bridge } = network;
    if (existsSync(`/sys/class/net/${bridge}/bridge`))
      return ok(`host: network ${name} has its bridge ${bridge}`);
    return {
      level: 'fail',
      what: existsSync(`/sys/class/net/${bridge}`)
        ? `host: ${bridge} of network ${name} is no bridge`
        : `host: bridge ${bridge} of network ${name} is missing`,
      mend: `make it ('ip link add ${bridge} type bridge'), or name another in the configuration`,
    };
  });
  const taps = all.flatMap(([, n]) => ('bridge' in n ? [n] : []));
  if (taps.length > 0 && !existsSync(TUN_DEVICE))
    found.push({
      level: 'fail',
      what: `host: there is no ${TUN_DEVICE}: no NIC can be made`,
      mend: 'modprobe tun',
    });
  if (taps.some((n) => n.vhost) && !existsSync(VHOST_DEVICE))
    found.push({
      level: 'warn',
      what: `host: there is no ${VHOST_DEVICE}: QEMU moves each frame itself`,
      mend: "modprobe vhost_net, or say 'vhost: false'",
    });
  return found;
}

function nicFindings(vm: VmStatus): Finding[] {
  const machine = vm.nicMachine;
  if (!machine) return [];
  const restart = `start the VM with the arguments that 'hyperturtle host args ${vm.name}' prints`;
  const found: Finding[] = [];
  if (machine.ports > 0) found.push(ok(`host: the VM has ${machine.ports} PCIe root ports for NICs`));
  else found.push({ level: 'fail', what: 'host: the VM has no PCIe root ports for NICs', mend: restart });
  if (!machine.iommu)
    found.push({
      level: 'warn',
      what: 'host: the VM has no IOMMU: NICs of it cannot be handed to its guests',
      mend: restart,
    });
  return found;
}
