/** Machines with Kata on them, as directories: configurations shaped like those of its versions, and stand-in programs. */
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';

export const SHARE = '/opt/kata/share/defaults/kata-containers';

export function put(root: string, file: string, text: string, mode = 0o644): void {
  mkdirSync(path.join(root, path.dirname(file)), { recursive: true });
  writeFileSync(path.join(root, file), text);
  chmodSync(path.join(root, file), mode);
}

export function putShim(root: string, file: string, language: 'Golang' | 'Rust', version: string): void {
  const says = `Kata Containers containerd shim (${language}): id: "io.containerd.kata.v2", version: ${version}, commit: 0123abc`;
  put(root, file, `#!/bin/sh\n[ "$*" = --version ] && echo '${says}'\n`, 0o755);
}

/** Shapes only: sections, keys and values that matter here, and some that must not. */
export const CONFIGURATIONS = {
  'go 3.2 qemu': `[hypervisor.qemu]
path = "/usr/bin/qemu-system-x86_64"
kernel = "/usr/share/kata-containers/vmlinux.container"
machine_type = "q35"
enable_annotations = ["enable_iommu"]
valid_hypervisor_paths = ["/usr/bin/qemu-system-x86_64"]
default_memory = 2048
memory_offset = 18446744073709551615
#file_mem_backend = ""
valid_file_mem_backends = [""]
#hot_plug_vfio = "root-port"
[factory]
[agent.kata]
[runtime]
internetworking_model="tcfilter"
[image]
`,
  'go 3.31 qemu': `[hypervisor.qemu]
path = "/opt/kata/bin/qemu-system-x86_64"
valid_hypervisor_paths = ["/opt/kata/bin/qemu-system-x86_64"]
enable_mem_prealloc = false
enable_hugepages = false
file_mem_backend = ""
valid_file_mem_backends = [""]
hot_plug_vfio = "no-port"
cold_plug_vfio = "no-port"
pcie_root_port = 0
[agent.kata]
[runtime]
experimental = []
`,
  'go 3.31 clh': `[hypervisor.clh]
path = "/opt/kata/bin/cloud-hypervisor"
valid_hypervisor_paths = ["/opt/kata/bin/cloud-hypervisor"]
hot_plug_vfio = "no-port"
cold_plug_vfio = "no-port"
[runtime]
`,
  'go 4.1 fc': `[hypervisor.firecracker]
path = "/opt/kata/bin/firecracker"
valid_hypervisor_paths = ["/opt/kata/bin/firecracker"]
jailer_path = "/opt/kata/bin/jailer"
valid_jailer_paths = ["/opt/kata/bin/jailer"]
enable_hugepages = false
[runtime]
`,
  'go 4.1 snp': `[hypervisor.qemu]
path = "/opt/kata/bin/qemu-system-x86_64-snp-experimental"
confidential_guest = true
[runtime]
`,
  'rs 3.8 clh': `[hypervisor.cloud-hypervisor]
path = "/opt/kata/bin/cloud-hypervisor"
valid_hypervisor_paths = ["/opt/kata/bin/cloud-hypervisor"]
[runtime]
name="virt_container"
hypervisor_name="cloud-hypervisor"
`,
  'rs 4.1 qemu': `[hypervisor.qemu]
path = "/opt/kata/bin/qemu-system-x86_64"
valid_hypervisor_paths = ["/opt/kata/bin/qemu-system-x86_64"]
cold_plug_vfio = "no-port"
pcie_root_port = 0
[hypervisor.qemu.factory]
enable_template = false
[agent.kata.mem_agent]
mem_agent_enable = false
[runtime]
name = "virt_container"
hypervisor_name = "qemu"
`,
  'rs 4.1 dragonball': `[hypervisor.dragonball]
path = ""
[runtime]
hypervisor_name = "dragonball"
`,
} as const;

export const VMMS = [
  '/usr/bin/qemu-system-x86_64',
  ...['qemu-system-x86_64', 'cloud-hypervisor', 'firecracker', 'jailer'].map((n) => `/opt/kata/bin/${n}`),
];
