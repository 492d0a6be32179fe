/**
 * The PCI device of a NIC in L1, through sysfs: where it is, which driver has it, and giving it to another one (what
 * driverctl does). `root` is `/` (or what $HYPERTURTLE_SYSFS_ROOT says), or a tree that a test made.
 */
import { variable } from '../../core/environment.ts';
import { existsSync, readFileSync, readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { HyperturtleError, errnoCode } from '../../core/errors.ts';

/** `0000:08:00.0` */
export type PciAddress = string;

const BRIDGE_CLASS = '0x0604';
const HEADER_SECONDARY_BUS = 0x19;
const CAPABILITIES = 0x34;
const CAP_EXPRESS = 0x10;
/** From the capability's beginning; its bits 19 to 31 are the physical slot number. */
const SLOT_CAPABILITIES = 0x14;

export class PciBus {
  readonly #root: string;

  constructor(root = variable('HYPERTURTLE_SYSFS_ROOT') ?? '/') {
    this.#root = root;
  }

  /**
   * What is plugged into the slot of this number, or undefined while nothing is. The number is the root port's own (PCI
   * Express slot capabilities): names in /sys/bus/pci/slots differ with the way of hot-plugging. Throws HT_NOT_FOUND
   * when no port has the number.
   */
  inSlot(slot: number): PciAddress | undefined {
    for (const address of this.#devices()) {
      if (!this.#text(address, 'class').startsWith(BRIDGE_CLASS)) continue;
      const config = this.#config(address);
      if (config === undefined || slotOf(config) !== slot) continue;
      const bus = (config[HEADER_SECONDARY_BUS] ?? 0).toString(16).padStart(2, '0');
      const behind = `${address.slice(0, 4)}:${bus}:00.0`;
      return this.#devices().includes(behind) ? behind : undefined;
    }
    throw new HyperturtleError('HT_NOT_FOUND', `no PCIe port of this machine has slot number ${slot}`);
  }

  /** `virtio-pci`, or undefined when no driver has it. */
  driver(address: PciAddress): string | undefined {
    return this.#link(address, 'driver');
  }

  /** Number of its IOMMU group, or undefined without an IOMMU. */
  iommuGroup(address: PciAddress): number | undefined {
    const group = this.#link(address, 'iommu_group');
    return group === undefined ? undefined : Number(group);
  }

  /** The NUMA node that it is at, or undefined where the machine does not say. */
  numaNode(address: PciAddress): number | undefined {
    const node = Number(this.#text(address, 'numa_node') || '-1');
    return Number.isInteger(node) && node >= 0 ? node : undefined;
  }

  /** Other devices of its group that neither are bridges nor belong to vfio-pci: they make it unusable for a VMM. */
  strangersInGroup(address: PciAddress): PciAddress[] {
    const dir = path.join(this.#of(address), 'iommu_group/devices');
    return readdirSync(dir).filter(
      (other) =>
        other !== address &&
        !this.#text(other, 'class').startsWith(BRIDGE_CLASS) &&
        ![undefined, 'vfio-pci'].includes(this.driver(other)),
    );
  }

  /** Its network device, once its driver has made one. */
  netdev(address: PciAddress): string | undefined {
    for (const virtio of this.#list(this.#of(address)).filter((n) => /^virtio\d+$/.test(n)))
      for (const name of this.#list(path.join(this.#of(address), virtio, 'net'))) return name;
    return undefined;
  }

  hasDriver(driver: string): boolean {
    return existsSync(path.join(this.#root, 'sys/bus/pci/drivers', driver));
  }

  /**
   * From now on the device is for this driver alone, at once and when it is looked for again; '' undoes that and lets
   * the kernel choose. Throws HT_KERNEL when the driver does not take it.
   */
  give(address: PciAddress, driver: string): void {
    const before = this.driver(address);
    if (driver !== '' && before === driver) return;
    this.#write(path.join(this.#of(address), 'driver_override'), `${driver}\n`, address);
    if (before !== undefined) this.#write(path.join(this.#of(address), 'driver/unbind'), address, address);
    this.#write(path.join(this.#root, 'sys/bus/pci/drivers_probe'), address, address);
  }

  #devices(): string[] {
    return this.#list(path.join(this.#root, 'sys/bus/pci/devices'));
  }

  #of(address: PciAddress): string {
    return path.join(this.#root, 'sys/bus/pci/devices', address);
  }

  #text(address: PciAddress, file: string): string {
    try {
      return readFileSync(path.join(this.#of(address), file), 'latin1').trim();
    } catch {
      return ''; // it has gone
    }
  }

  #config(address: PciAddress): Uint8Array | undefined {
    try {
      return readFileSync(path.join(this.#of(address), 'config'));
    } catch {
      return undefined;
    }
  }

  #link(address: PciAddress, name: string): string | undefined {
    try {
      return path.basename(readlinkSync(path.join(this.#of(address), name)));
    } catch {
      return undefined;
    }
  }

  #list(dir: string): string[] {
    try {
      return readdirSync(dir).sort();
    } catch (e) {
      if (errnoCode(e) === 'ENOENT') return [];
      throw e;
    }
  }

  #write(file: string, text: string, address: PciAddress): void {
    try {
      writeFileSync(file, text);
    } catch (e) {
      throw new HyperturtleError(
        'HT_KERNEL',
        `${address}: writing ${path.basename(file)}: ${errnoCode(e) ?? String(e)}${errnoCode(e) === 'EACCES' ? ': run as root' : ''}`,
        { cause: e },
      );
    }
  }
}

/** The physical slot number of a PCI Express port, or undefined when it is none or has no slot. */
export function slotOf(config: Uint8Array): number | undefined {
  const view = new DataView(config.buffer, config.byteOffset, config.byteLength);
  // a list of at most 48 capabilities, whatever the device says
  for (let at = config[CAPABILITIES] ?? 0, n = 0; at >= 0x40 && n < 48; at = config[at + 1] ?? 0, n++) {
    if (at + SLOT_CAPABILITIES + 4 > config.length) return undefined; // not root: only the head can be read
    if (config[at] !== CAP_EXPRESS) continue;
    const SLOT_IMPLEMENTED = 0x100;
    if (!(view.getUint16(at + 2, true) & SLOT_IMPLEMENTED)) return undefined;
    return view.getUint32(at + SLOT_CAPABILITIES, true) >>> 19;
  }
  return undefined;
}
