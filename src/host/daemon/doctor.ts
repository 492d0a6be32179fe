/** The host's findings for `doctor`: what is well, what is not, and what to do about it. Nothing secret: tenants read them. */
import { existsSync, readFileSync } from 'node:fs';
import os from 'node:os';
import { SHADOW_MMU_CVE, SHADOW_MMU_FIXED_IN, shadowMmuFixed } from '../../core/nested-kvm.ts';
import { isBpffs } from '../../bpf/pins.ts';
import { HOST_DEVICE } from '../../kernel/host.ts';
import type { Finding } from '../../wire/schema.ts';
import { TUN_DEVICE, VHOST_DEVICE } from '../nics/tap.ts';
import type { HostConfig } from './config.ts';
import type { VmStatus } from './vm.ts';

/** Of the host as a whole. */
export function hostFindings(bpffs: string): Finding[] {
  return [kernelFinding(), nestedFinding(), moduleFinding(), bpffsFinding(bpffs), jitFinding()];
}

/** Of one VM, as that VM may know them. */
export function vmFindings(vm: VmStatus): Finding[] {
  const found: Finding[] = [];
  const { arena } = vm;
  const mib = arena.bytes >> 20;
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
  found.push(...nicFindings(vm));
  return found;
}

/** Of the networks of the configuration: for the operator only. */
export function networkFindings(networks: HostConfig['networks']): Finding[] {
  const all = Object.entries(networks);
  if (all.length === 0) return [];
  const found = all.map(([name, { bridge }]): Finding => {
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
  if (!existsSync(TUN_DEVICE))
    found.push({
      level: 'fail',
      what: `host: there is no ${TUN_DEVICE}: no NIC can be made`,
      mend: 'modprobe tun',
    });
  if (all.some(([, n]) => n.vhost) && !existsSync(VHOST_DEVICE))
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
  const anew = `start the VM with the arguments that 'hyperturtle host args ${vm.name}' prints`;
  const found: Finding[] = [];
  if (machine.ports > 0) found.push(ok(`host: the VM has ${machine.ports} PCIe root ports for NICs`));
  else found.push({ level: 'fail', what: 'host: the VM has no PCIe root ports for NICs', mend: anew });
  if (!machine.iommu)
    found.push({
      level: 'warn',
      what: 'host: the VM has no IOMMU: NICs of it cannot be handed to its guests',
      mend: anew,
    });
  return found;
}

const ok = (what: string): Finding => ({ level: 'ok', what });

function kernelFinding(): Finding {
  const release = os.release();
  const fixed = shadowMmuFixed(release, os.version());
  if (fixed === true) return ok(`host: kernel ${release} has ${SHADOW_MMU_CVE} mended`);
  if (fixed === false)
    return {
      level: 'fail',
      what: `host: kernel ${release} has ${SHADOW_MMU_CVE} (use after free in KVM's shadow MMU)`,
      mend: `update the host: fixed in ${SHADOW_MMU_FIXED_IN}`,
    };
  return {
    level: 'warn',
    what: `host: of kernel ${release} it is not known whether ${SHADOW_MMU_CVE} is mended`,
    mend: "see the distribution's advisory",
  };
}

function nestedFinding(): Finding {
  for (const vendor of ['kvm_amd', 'kvm_intel']) {
    const value = read(`/sys/module/${vendor}/parameters/nested`);
    if (value === undefined) continue;
    if (value === '1' || value === 'Y') return ok(`host: nested virtualization is on (${vendor})`);
    return {
      level: 'fail',
      what: `host: nested virtualization is off (${vendor}.nested=${value})`,
      mend: `load ${vendor} with nested=1`,
    };
  }
  return {
    level: 'fail',
    what: 'host: KVM is not loaded',
    mend: 'load kvm_amd or kvm_intel with nested=1, on hardware that virtualizes',
  };
}

function moduleFinding(): Finding {
  if (existsSync(HOST_DEVICE)) return ok('host: hyperturtle_host.ko is loaded');
  return {
    level: 'fail',
    what: 'host: hyperturtle_host.ko is not loaded',
    mend: 'modprobe hyperturtle_host',
  };
}

function bpffsFinding(dir: string): Finding {
  if (isBpffs(dir)) return ok('host: arenas are pinned in a bpffs');
  return { level: 'fail', what: `host: ${dir} is no bpffs`, mend: `mount -t bpf bpf ${dir}` };
}

function jitFinding(): Finding {
  const value = read('/proc/sys/net/core/bpf_jit_enable');
  if (value === '0')
    return {
      level: 'warn',
      what: 'host: eBPF programs are interpreted',
      mend: 'sysctl net.core.bpf_jit_enable=1',
    };
  return ok('host: eBPF programs run as native code');
}

function read(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch {
    return undefined;
  }
}
