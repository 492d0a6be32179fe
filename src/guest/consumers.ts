/**
 * Configuration for those who start nested guests in an L1, so that the guests' RAM is a file of turtlefs and their NICs
 * are L0's: all from one description. Pure. What a consumer cannot do is said in what is printed for it.
 */
import type { Hypervisor } from './kata/settings.ts';
import { launchOptions, launcherOf } from './kata/texts.ts';
import { TURTLEFS_DIR, machineOption } from './vmm/arguments.ts';

export interface ConsumerSpec {
  /** Where turtlefs is mounted. */
  ramDir: string;
  memMib: number;
  cpus: number;
  /** Name of the runtime class, the runtime and the network. */
  name: string;
  /** The network's addresses as a prefix, IPv4 or IPv6. */
  subnet: string;
}

export const CONSUMER_DEFAULTS: ConsumerSpec = {
  ramDir: TURTLEFS_DIR,
  memMib: 2048,
  cpus: 1,
  name: 'hyperturtle',
  subnet: '192.0.2.0/24',
};

const cni = (s: ConsumerSpec): string =>
  `${JSON.stringify(
    {
      cniVersion: '1.0.0',
      name: s.name,
      plugins: [
        {
          type: 'hyperturtle-cni',
          mode: 'direct',
          device: 'netdev',
          fallback: 'none',
          ipam: {
            type: 'host-local',
            ranges: [[{ subnet: s.subnet }]],
            routes: [{ dst: s.subnet.includes(':') ? '::/0' : '0.0.0.0/0' }],
          },
        },
      ],
    },
    null,
    2,
  )}\n`;

const containerd = (s: ConsumerSpec): string => `version = 2

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.${s.name}]
  runtime_type = "io.containerd.kata.v2"
  privileged_without_host_devices = true
  pod_annotations = ["io.katacontainers.*"]
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.${s.name}.options]
    # as 'hyperturtle kata install --separate' makes it
    ConfigPath = "/etc/kata-containers/hyperturtle-qemu/configuration.toml"

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/opt/cni/bin"
  conf_dir = "/etc/cni/net.d"
`;

/** What 'kata install' does, for one who does it by hand. `values`: beside the path. */
function kataDropIn(h: Hypervisor, table: string, real: string, values: readonly string[]): string {
  const launcher = launcherOf(real);
  const start = `exec hyperturtle vmm ${launchOptions(h, false).join(' ')} -- ${real} "$@"`;
  return `# 'hyperturtle kata install --hypervisor ${h}' does all of this for the Kata that is installed (3.2 to 4.1), and looks
# whether it takes it. By hand: this is a file of config.d beside Kata's configuration, where no configuration of another
# hypervisor may be; the first path is an executable script '#!/bin/sh' that ends in
#   ${start}
# Keys that a version does not know (file_mem_backend from 3.32 on) keep its pods from starting. 'hyperturtle status' lists
# a pod's guest when its RAM is on turtlefs.
[hypervisor.${table}]
path = "${launcher}"
valid_hypervisor_paths = ["${launcher}", "${real}"]
${values.map((v) => `${v}\n`).join('')}`;
}

const NIC_PORTS = [
  '# for NICs by VFIO (hyperturtle nic add), one of the two; runtime-rs has only the second, from 3.31 on',
  '# hot_plug_vfio = "root-port"',
  '# cold_plug_vfio = "root-port"',
  '# pcie_root_port = 2',
];

const kataQemu = (s: ConsumerSpec): string =>
  kataDropIn('qemu', 'qemu', '/opt/kata/bin/qemu-system-x86_64', [
    `default_memory = ${s.memMib}`,
    `default_vcpus = ${s.cpus}`,
    '# preallocated pages would all be touched before L0 could give them; huge pages stay where they are',
    'enable_mem_prealloc = false',
    'enable_hugepages = false',
    ...NIC_PORTS,
  ]);

const kataClh = (s: ConsumerSpec): string =>
  kataDropIn('clh', 'clh', '/opt/kata/bin/cloud-hypervisor', [
    `default_memory = ${s.memMib}`,
    `default_vcpus = ${s.cpus}`,
    'enable_hugepages = false',
    ...NIC_PORTS,
  ]);

const kataFc = (s: ConsumerSpec): string =>
  `# With a jailer in Kata's configuration, jailer_path and valid_jailer_paths name a script for the jailer instead.
${kataDropIn('fc', 'firecracker', '/opt/kata/bin/firecracker', [
  `default_memory = ${s.memMib}`,
  `default_vcpus = ${s.cpus}`,
  'enable_hugepages = false',
])}`;

/**
 * It takes a file that is there and as large as the memory, and leaves it there. So the file loses its name before the program
 * starts: no signal, to whichever process, can leave it behind, and the program keeps terminal, signals and status.
 */
const cloudHypervisor = (s: ConsumerSpec): string => `#!/bin/sh
# The guest's RAM is a file without a name, open as descriptor 3: it ends with the process, however that ends.
set -e
ram=${s.ramDir}/${s.name}.$$
trap 'rm -f "$ram"; exit 1' HUP INT TERM
exec 3<>"$ram"
rm "$ram"
trap - HUP INT TERM
truncate -s ${s.memMib}M /proc/self/fd/3
exec cloud-hypervisor \\
  --cpus boot=${s.cpus} \\
  --memory size=0 --memory-zone id=ram,size=${s.memMib}M,file=/proc/self/fd/3,shared=on \\
  --kernel vmlinux --cmdline "console=hvc0 root=/dev/vda rw" --disk path=root.img
`;

const firecracker =
  (): string => `# Firecracker maps its guest's RAM as private anonymous memory (or a memfd, with vhost-user) and takes no file for a
# guest that it boots: there is nothing to configure. This puts such memory on turtlefs; with Firecracker itself it has
# not been tried:
#   hyperturtle vmm --name NAME -- firecracker ...
# A snapshot's memory file is mapped privately, so its pages are copies that belong to no file, and stay with L1. NICs
# by VFIO are not supported by it.
`;

const qemu = (s: ConsumerSpec): string =>
  [
    `qemu-system-x86_64 -accel kvm -cpu host -machine ${machineOption('q35')}`,
    `-smp ${s.cpus} -m ${s.memMib}M`,
    `-object memory-backend-file,id=ram,size=${s.memMib}M,mem-path=${s.ramDir},share=on`,
  ].join(' \\\n  ') + '\n';

const libvirt = (
  s: ConsumerSpec,
): string => `<!-- /etc/libvirt/qemu.conf: memory_backing_dir = "${s.ramDir}" -->
<domain type='kvm'>
  <name>${s.name}</name>
  <memory unit='MiB'>${s.memMib}</memory>
  <memoryBacking>
    <source type='file'/>
    <access mode='shared'/>
    <allocation mode='ondemand'/>
  </memoryBacking>
  <vcpu>${s.cpus}</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
  </os>
  <cpu mode='host-passthrough'/>
  <clock offset='utc'>
    <timer name='hpet' present='no'/>
  </clock>
  <devices>
    <!-- NICs: 'hyperturtle nic add', for the VMM libvirt, prints each -->
    <console type='pty'/>
  </devices>
</domain>
`;

export const CONSUMERS = {
  qemu: { what: "QEMU's arguments for RAM on turtlefs", text: qemu },
  libvirt: { what: 'domain XML of a nested guest', text: libvirt },
  'cloud-hypervisor': { what: 'script that starts cloud-hypervisor', text: cloudHypervisor },
  firecracker: { what: 'why there is nothing to configure', text: firecracker },
  'kata-qemu': { what: "drop-in for Kata with QEMU; 'kata install' writes it", text: kataQemu },
  'kata-clh': { what: 'the same for cloud-hypervisor', text: kataClh },
  'kata-fc': { what: 'the same for Firecracker', text: kataFc },
  containerd: { what: "runtime and CNI sections of containerd's config.toml", text: containerd },
  cni: { what: 'CNI network list', text: cni },
} as const satisfies Record<string, { what: string; text: (s: ConsumerSpec) => string }>;
export type Consumer = keyof typeof CONSUMERS;
