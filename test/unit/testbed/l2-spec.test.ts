import { describe, expect, it } from 'vitest';
import { formatNic, l2Arguments, l2Files, parseNic, vfioDevices } from '../../../src/testbed/l2-spec.ts';
import { ramPath } from '../../../src/guest/vmm/arguments.ts';
import type { L2Spec } from '../../../src/testbed/l2-spec.ts';
import type { RamKind } from '../../../src/guest/vmm/arguments.ts';

const spec = (change: Partial<L2Spec> = {}): L2Spec => ({
  name: 'a',
  memMib: 256,
  ram: 'tmpfs',
  kernel: '/k',
  initrd: '/i',
  append: 'quiet',
  machine: 'pc',
  console: { kind: 'device', path: '/dev/virtio-ports/x' },
  qemu: 'qemu-system-x86_64',
  ...change,
});
const args = (change: Partial<L2Spec> = {}): string => l2Arguments(spec(change), l2Files('a')).join(' ');

describe('arguments of an L2', () => {
  it('give it shared file memory of the kind that was asked for', () => {
    const memory = (ram: RamKind): string => /-object (\S+)/.exec(args({ ram }))![1]!;
    expect(memory('tmpfs')).toBe('memory-backend-file,id=ram,mem-path=/dev/shm,size=256M,share=on');
    expect(memory('tmpfs-prealloc')).toMatch(/\/dev\/shm.*share=on,prealloc=on$/);
    expect(memory('turtlefs')).toBe(
      'memory-backend-file,id=ram,mem-path=/run/hyperturtle/ram,size=256M,share=on,align=2M',
    );
    expect(memory('hugetlbfs')).toBe('memory-backend-file,id=ram,mem-path=/dev/hugepages,size=256M,share=on');
    expect(memory('anonymous')).toBe('memory-backend-ram,id=ram,size=256M');
  });

  it('start it stopped, so that it can be registered before its first fault', () => {
    expect(args().split(' ')).toContain('-S');
  });

  it('bring its console to a device or to a socket', () => {
    expect(args()).toContain('-chardev pipe,id=console,path=/dev/virtio-ports/x');
    expect(args({ console: { kind: 'socket', path: '/s' } })).toContain(
      '-chardev socket,id=console,path=/s,server=on,wait=off',
    );
  });

  it('give it no more ports than it has, as each costs a nested boot some twenty exits', () => {
    expect(args()).toContain('-device virtio-serial-pci,id=serial0,max_ports=2 ');
  });

  it('leave out an initrd that is not there', () => {
    expect(args()).toContain('-initrd /i');
    expect(args({ initrd: undefined })).not.toContain('-initrd');
  });

  it('name the RAM file only when somebody else shall map it', () => {
    expect(ramPath(spec({ ram: 'turtlefs' }))).toBe('/run/hyperturtle/ram');
    expect(ramPath(spec({ ram: 'turtlefs', ramFileName: 'a.ram' }))).toBe('/run/hyperturtle/ram/a.ram');
  });

  it('give it NICs of the host by VFIO, and virtio NICs on taps', () => {
    const nics = ['vfio:0000:08:00.0', 'tap:lt0:02:00:00:00:00:01', 'tap:lt1:02:00:00:00:00:02:vhost'];
    expect(nics.map((n) => formatNic(parseNic(n)))).toEqual(nics);
    const text = args({ nics: nics.map(parseNic) });
    // plugged in when it is up
    expect(text).not.toContain('vfio');
    expect(vfioDevices({ nics: nics.map(parseNic) })).toEqual([
      { driver: 'vfio-pci', id: 'net0', host: '0000:08:00.0', rombar: 0 },
    ]);
    expect(text).toMatch(
      /-netdev tap,id=net1,ifname=lt0,script=no,downscript=no -device virtio-net-pci,netdev=net1,mac=02:00:00:00:00:01/,
    );
    expect(text).toMatch(/id=net2,ifname=lt1,script=no,downscript=no,vhost=on /);
    for (const bad of ['vfio:8:0', 'tap:lt0', 'tap:a,b:02:00:00:00:00:01', 'tap:lt0:02:00', ''])
      expect(() => parseNic(bad)).toThrow(/NIC of an L2/);
  });

  it('refuse names that would leave the directory, and memory that is no size', () => {
    expect(() => l2Files('../x')).toThrow(/name of an L2/);
    expect(() => l2Files('')).toThrow(/name of an L2/);
    expect(() => args({ memMib: 0.5 })).toThrow(/memory of an L2/);
  });
});
