/** NICs in L1: finding them by their slot in a made-up sysfs, and what is done and undone around the driver. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { HyperturtleError } from '../../../../src/core/errors.ts';
import { addNic, delNic } from '../../../../src/guest/nic/nic.ts';
import type { NicDeps, NicHost } from '../../../../src/guest/nic/nic.ts';
import { PciBus, slotOf } from '../../../../src/guest/nic/pci.ts';
import { VMMS, vmmForm } from '../../../../src/guest/nic/vmm.ts';
import { NIC } from '../../../support/wire.ts';

/** Configuration space of a root port with a slot. */
function portConfig(slot: number, bus: number): Buffer {
  const config = Buffer.alloc(256);
  config[0x19] = bus;
  config[0x34] = 0x40;
  config.set([0x05, 0x60], 0x40); // MSI, then express
  config[0x60] = 0x10;
  config.writeUInt16LE(0x0142, 0x62);
  config.writeUInt32LE((slot << 19) | 0x60, 0x60 + 0x14);
  return config;
}

describe('PciBus', () => {
  let root: string;
  beforeEach(() => {
    root = mkdtempSync(path.join(os.tmpdir(), 'ht-pci-'));
  });
  afterEach(() => {
    rmSync(root, { recursive: true });
  });
  const device = (address: string, files: Record<string, string | Buffer>): string => {
    const dir = path.join(root, 'sys/bus/pci/devices', address);
    mkdirSync(dir, { recursive: true });
    for (const [name, content] of Object.entries(files)) writeFileSync(path.join(dir, name), content);
    return dir;
  };

  it('finds what is in a slot by the number in the root port itself', () => {
    device('0000:00:01.0', { class: '0x060400\n', config: portConfig(15, 1) });
    device('0000:00:02.0', { class: '0x060400\n', config: portConfig(16, 0x1a) });
    device('0000:00:1f.0', { class: '0x060100\n', config: Buffer.alloc(256) });
    const bus = new PciBus(root);
    expect(bus.inSlot(16)).toBeUndefined();
    device('0000:1a:00.0', { class: '0x020000\n', config: Buffer.alloc(256) });
    expect(bus.inSlot(16)).toBe('0000:1a:00.0');
    expect(bus.inSlot(15)).toBeUndefined();
    expect(() => bus.inSlot(17)).toThrow(/no PCIe port of this machine has slot number 17/);
  });

  it.each([
    ['without capabilities', Buffer.alloc(256)],
    ['cut off, as others than root see it', portConfig(3, 1).subarray(0, 64)],
    ['whose list of capabilities never ends', Buffer.alloc(256, 0x40)],
    ['whose port has no slot', portConfig(3, 1).fill(0x42, 0x62, 0x63).fill(0, 0x63, 0x64)],
  ])('sees no slot in configuration space %s', (_, config) => {
    expect(slotOf(config)).toBeUndefined();
  });

  it('tells driver, group and network device, and gives the device to a driver as the kernel wants it', () => {
    const dir = device('0000:08:00.0', { class: '0x020000', driver_override: '' });
    const drivers = path.join(root, 'sys/bus/pci/drivers');
    mkdirSync(path.join(drivers, 'virtio-pci'), { recursive: true });
    writeFileSync(path.join(drivers, 'virtio-pci/unbind'), '');
    symlinkSync(path.join(drivers, 'virtio-pci'), path.join(dir, 'driver'));
    mkdirSync(path.join(root, 'groups/12/devices/0000:08:00.0'), { recursive: true });
    symlinkSync(path.join(root, 'groups/12'), path.join(dir, 'iommu_group'));
    mkdirSync(path.join(dir, 'virtio3/net/eth5'), { recursive: true });
    const bus = new PciBus(root);
    expect([bus.driver('0000:08:00.0'), bus.iommuGroup('0000:08:00.0'), bus.netdev('0000:08:00.0')]).toEqual([
      'virtio-pci',
      12,
      'eth5',
    ]);
    expect(bus.strangersInGroup('0000:08:00.0')).toEqual([]);
    bus.give('0000:08:00.0', 'vfio-pci');
    const text = (...p: string[]): string => readFileSync(path.join(...p), 'latin1');
    expect(text(dir, 'driver_override')).toBe('vfio-pci\n');
    expect(text(drivers, 'virtio-pci/unbind')).toBe('0000:08:00.0');
    expect(text(root, 'sys/bus/pci/drivers_probe')).toBe('0000:08:00.0');
  });
});

/** A bus with one device in one slot. */
class OneDevice extends PciBus {
  readonly did: string[] = [];
  driverNow: string | undefined = 'virtio-pci';
  takes = true;
  group: number | undefined = 7;
  present = true;
  override inSlot(): string | undefined {
    return this.present ? '0000:08:00.0' : undefined;
  }
  override driver(): string | undefined {
    return this.driverNow;
  }
  override iommuGroup(): number | undefined {
    return this.group;
  }
  override strangersInGroup(): string[] {
    return [];
  }
  override netdev(): string | undefined {
    return this.driverNow === 'virtio-pci' ? 'eth5' : undefined;
  }
  override hasDriver(): boolean {
    return false;
  }
  override give(_address: string, driver: string): void {
    this.did.push(`give ${driver}`);
    this.driverNow = this.takes ? driver : undefined;
  }
}

describe('a NIC', () => {
  let pci: OneDevice;
  let deps: NicDeps;
  let existed: boolean;
  beforeEach(() => {
    pci = new OneDevice();
    existed = false;
    const host: NicHost = {
      add: () => {
        pci.did.push('add');
        return Promise.resolve({ nic: NIC, existed });
      },
      del: () => {
        pci.did.push('del');
        return Promise.resolve({ existed: true });
      },
      list: () => Promise.resolve({ nics: [NIC], networks: [], free: 0 }),
    };
    deps = {
      host,
      pci,
      modprobe: (module) => {
        pci.did.push(`modprobe ${module}`);
        return Promise.resolve();
      },
      holders: () => [],
      signal: new AbortController().signal,
      timeoutMs: 100,
    };
  });

  it('for a nested guest is bound to vfio-pci, whose module is loaded when it is missing', async () => {
    expect(await addNic({ id: 'web' }, 'vfio-pci', deps)).toMatchObject({
      address: '0000:08:00.0',
      driver: 'vfio-pci',
      iommuGroup: 7,
      vfio: '/dev/vfio/7',
      interface: null,
      existed: false,
    });
    expect(pci.did).toEqual(['add', 'modprobe vfio-pci', 'give vfio-pci']);
  });

  it('for this machine stays with virtio-net, and has a name', async () => {
    const made = await addNic({}, 'virtio-net', deps);
    expect(made).toMatchObject({ vfio: null, interface: 'eth5' });
  });

  it.each([
    ['there is no IOMMU', (p: OneDevice) => (p.group = undefined), /intel_iommu=on/, ['add', 'del']],
    ['it never appears', (p: OneDevice) => (p.present = false), /slot 16: not within/, ['add', 'del']],
    [
      'the driver does not take it',
      (p: OneDevice) => (p.takes = false),
      /driver vfio-pci expected after binding, none found/,
      ['add', 'modprobe vfio-pci', 'give vfio-pci', 'del'],
    ],
  ])('goes back to the host when %s', async (_, broken, message, did) => {
    broken(pci);
    await expect(addNic({}, 'vfio-pci', deps)).rejects.toThrow(message);
    expect(pci.did).toEqual(did);
  });

  it('that was there before stays when something fails, with the driver that it had', async () => {
    existed = true;
    pci.takes = false;
    await expect(addNic({}, 'vfio-pci', deps)).rejects.toBeInstanceOf(HyperturtleError);
    expect(pci.did).toEqual(['add', 'modprobe vfio-pci', 'give vfio-pci', 'give virtio-pci']);
  });

  it('in use is not given back unless forced, and the user is named', async () => {
    pci.driverNow = 'vfio-pci';
    const used = { ...deps, holders: (file: string) => (file === '/dev/vfio/7' ? [4711] : []) };
    await expect(delNic('web', false, used)).rejects.toMatchObject({
      code: 'HT_IN_USE',
      message: /process 4711/,
    });
    expect(await delNic('web', true, used)).toEqual({ existed: true });
    expect(await delNic('other', false, used)).toEqual({ existed: false });
  });

  it('has a form for each VMM', () => {
    const forms = VMMS.map((v) => vmmForm(v, '0000:08:00.0', 7));
    expect(forms).toEqual([
      '-device vfio-pci,host=0000:08:00.0',
      '--device path=/sys/bus/pci/devices/0000:08:00.0/',
      '--device /dev/vfio/7',
      "<hostdev mode='subsystem' type='pci' managed='no'>\n  <source><address domain='0x0000' bus='0x08' slot='0x00' function='0x0'/></source>\n</hostdev>",
    ]);
  });
});
