/**
 * Configuration for those who start nested guests in an L1, so that the guests' RAM is a file of turtlefs and their NICs
 * are L0's: all from one description. Pure. What a consumer cannot do is said in what is printed for it.
 */
import { TURTLEFS_DIR, machineOption } from './vmm/arguments.ts';

export interface ConsumerSpec {
  /** Where turtlefs is mounted. */
  ramDir: string;
  memMib: number;
  cpus: number;
  /** Name of the runtime class, the runtime and the network. */
  name: string;
  /** A container image with this package, for the DaemonSet. */
  image: string;
  /** The network's addresses as a prefix, IPv4 or IPv6. */
  subnet: string;
}

export const CONSUMER_DEFAULTS: ConsumerSpec = {
  ramDir: TURTLEFS_DIR,
  memMib: 2048,
  cpus: 1,
  name: 'hyperturtle',
  image: 'hyperturtle:0.2.0',
  subnet: '192.0.2.0/24',
};

/** What a pod with a VM needs beside its containers: guest kernel, agent, VMM. Kata's own figures. */
const OVERHEAD = { memory: '160Mi', cpu: '250m' };

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
    ConfigPath = "/etc/kata-containers/configuration-${s.name}.toml"

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/opt/cni/bin"
  conf_dir = "/etc/cni/net.d"
`;

const kataQemu = (
  s: ConsumerSpec,
): string => `# To be set in a copy of Kata's configuration-qemu.toml. For Kata up to 3.31: later ones have no file_mem_backend, ignore
# it without a word, and keep RAM in /dev/shm: pods then run as before, and first touches stay with L1. For those, not
# tried: a script as path (and in valid_hypervisor_paths) that ends in
#   exec hyperturtle vmm --over /dev/shm -- /usr/bin/qemu-system-x86_64 "$@"
# 'hyperturtle status' lists a pod's guest when its RAM is on turtlefs.
[hypervisor.qemu]
machine_type = "q35"
# RAM is a shared file there; annotations of pods may only name what the second line lists
file_mem_backend = "${s.ramDir}"
valid_file_mem_backends = ["${s.ramDir}"]
default_memory = ${s.memMib}
default_vcpus = ${s.cpus}
# preallocated or huge pages would all be touched before L0 could give them
enable_mem_prealloc = false
enable_hugepages = false
# for NICs by VFIO (hyperturtle nic add); Kata before 3.2 has hotplug_vfio_on_root_bus = true instead of the first line
hot_plug_vfio = "root-port"
pcie_root_port = 2
`;

const kataClh =
  (): string => `# Kata's cloud-hypervisor gets its RAM as anonymous shared memory or huge pages and has no setting for a file:
# its first touches stay with L1. Not tried: a script as path (and in valid_hypervisor_paths) that ends in
#   exec hyperturtle vmm -- /usr/bin/cloud-hypervisor "$@"
# NICs of L0 by VFIO work without turtlefs.
[hypervisor.clh]
enable_hugepages = false
`;

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

const runtimeClass = (s: ConsumerSpec): string => `apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata:
  name: ${s.name}
handler: ${s.name}
overhead:
  podFixed:
    memory: ${OVERHEAD.memory}
    cpu: ${OVERHEAD.cpu}
scheduling:
  nodeSelector:
    hyperturtle/agent: "true"
`;

/** The node has the guest module and iproute2; turtlefs is mounted by the agent and must be seen by the node's VMMs. */
const daemonSet = (s: ConsumerSpec): string => `apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: ${s.name}-agent
  namespace: kube-system
  labels: {app: ${s.name}-agent}
spec:
  selector:
    matchLabels: {app: ${s.name}-agent}
  template:
    metadata:
      labels: {app: ${s.name}-agent}
    spec:
      # VMMs are processes of the node; the agent copies descriptors from them
      hostPID: true
      nodeSelector: {hyperturtle/agent: "true"}
      priorityClassName: system-node-critical
      initContainers:
        - name: cni
          image: ${s.image}
          # the package as a whole: the runtime executes the plugin on the node
          command:
            - sh
            - -ec
            - |
              plugin=$(readlink -f "$(command -v hyperturtle-cni)")
              cp -a "\${plugin%/dist/src/cli/*}/." /opt/hyperturtle/
              ln -sf /opt/hyperturtle/dist/src/cli/cni-main.cjs /opt/cni/bin/hyperturtle-cni
          volumeMounts:
            - {name: cni-bin, mountPath: /opt/cni/bin}
            - {name: package, mountPath: /opt/hyperturtle}
      containers:
        - name: agent
          image: ${s.image}
          command: [hyperturtle, guest, agent]
          securityContext:
            # mounts that the node sees are allowed to privileged containers only
            privileged: true
          resources:
            requests: {cpu: 20m, memory: 96Mi}
            limits: {memory: 256Mi}
          volumeMounts:
            - {name: run, mountPath: /run/hyperturtle, mountPropagation: Bidirectional}
            - {name: state, mountPath: /var/lib/hyperturtle}
            - {name: config, mountPath: /etc/hyperturtle, readOnly: true}
            - {name: dev, mountPath: /dev}
      volumes:
        - {name: cni-bin, hostPath: {path: /opt/cni/bin, type: DirectoryOrCreate}}
        - {name: package, hostPath: {path: /opt/hyperturtle, type: DirectoryOrCreate}}
        - {name: run, hostPath: {path: /run/hyperturtle, type: DirectoryOrCreate}}
        - {name: state, hostPath: {path: /var/lib/hyperturtle, type: DirectoryOrCreate}}
        - {name: config, hostPath: {path: /etc/hyperturtle, type: DirectoryOrCreate}}
        - {name: dev, hostPath: {path: /dev}}
`;

export const CONSUMERS = {
  qemu: { what: "QEMU's arguments for RAM on turtlefs", text: qemu },
  libvirt: { what: 'domain XML of a nested guest', text: libvirt },
  'cloud-hypervisor': { what: 'script that starts cloud-hypervisor', text: cloudHypervisor },
  firecracker: { what: 'why there is nothing to configure', text: firecracker },
  'kata-qemu': { what: "part of Kata's configuration-qemu.toml", text: kataQemu },
  'kata-clh': { what: "part of Kata's configuration-clh.toml, and what it cannot do", text: kataClh },
  containerd: { what: "runtime and CNI sections of containerd's config.toml", text: containerd },
  'runtime-class': { what: 'Kubernetes: RuntimeClass with overhead', text: runtimeClass },
  'daemon-set': { what: 'Kubernetes: agent and CNI plugin on each node', text: daemonSet },
  cni: { what: 'CNI network list', text: cni },
} as const satisfies Record<string, { what: string; text: (s: ConsumerSpec) => string }>;
export type Consumer = keyof typeof CONSUMERS;
