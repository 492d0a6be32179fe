/** What a VMM is given so that a nested guest gets a NIC by VFIO: the forms of those that can take it. */

export const VMMS = ['qemu', 'cloud-hypervisor', 'kata', 'libvirt'] as const;
export type Vmm = (typeof VMMS)[number];

/** `address`: 0000:08:00.0. Each is ready to be copied. */
export function vmmForm(vmm: Vmm, address: string, group: number): string {
  const [, domain = '', bus = '', slot = '', fn = ''] = /^(\w+):(\w+):(\w+)\.(\w+)$/.exec(address) ?? [];
  switch (vmm) {
    case 'qemu':
      return `-device vfio-pci,host=${address}`;
    case 'cloud-hypervisor':
      return `--device path=/sys/bus/pci/devices/${address}/`;
    case 'kata':
      // in configuration.toml: hotplug_vfio_on_root_bus = true, pcie_root_port = 1
      return `--device /dev/vfio/${group}`;
    case 'libvirt':
      return [
        "<hostdev mode='subsystem' type='pci' managed='no'>",
        `  <source><address domain='0x${domain}' bus='0x${bus}' slot='0x${slot}' function='0x${fn}'/></source>`,
        '</hostdev>',
      ].join('\n');
  }
}
