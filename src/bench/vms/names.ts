/** Names of a NIC's devices: in the daemon's network namespace, and in QEMU. */
export const deviceName = (vm: number, nic: number): string => `htn${vm}x${nic}`;
export const qemuName = (vm: number, nic: number): string => `hyperturtle-nic-${vm}-${nic}`;
