import { describe, expect, it } from 'vitest';
import {
  channelBases,
  SPARE_PORTS,
  l1AddressBits,
  l1Machine,
  l1Script,
  outerMachine,
  qemuArguments,
  runFiles,
  shellWord,
} from '../../../src/lab/machine.ts';
import type { MachineSpec, OuterInputs } from '../../../src/lab/machine.ts';

const outer = (changes: Partial<OuterInputs> = {}): MachineSpec =>
  outerMachine({
    accel: 'tcg',
    clock: 'real',
    l1: { cpus: 1, memMib: 2048 },
    kernel: '/c/vmlinux',
    initrd: '/c/initramfs.cpio',
    kernelArgs: 'quiet hyperturtle.level=0',
    baseImage: '/c/base.erofs',
    payloadDisk: '/r/payload.img',
    imagesDisk: '/r/images.img',
    files: runFiles('/r'),
    ramFile: { path: '/s/ram', private: true },
    incoming: false,
    l1ScriptName: 'opt/x/l1.sh',
    ...changes,
  });

/** The values that follow each occurrence of an option. */
const valuesOf = (args: readonly string[], option: string): string[] =>
  args.flatMap((a, i) => (a === option ? [args[i + 1] ?? ''] : []));
const args = (changes: Partial<OuterInputs> = {}): string[] => qemuArguments(outer(changes));
const l1 = l1Machine({ cpus: 2, memMib: 1024 }, 'quiet hyperturtle.level=1');

describe('an L1 of several NUMA nodes', () => {
  it('has its memory and CPUs divided among them, with a package for each', () => {
    const args = qemuArguments(l1Machine({ cpus: 4, memMib: 1024, nodes: 2 }, 'quiet'));
    expect(valuesOf(args, '-smp')).toEqual(['4,sockets=2']);
    expect(valuesOf(args, '-numa')).toEqual([
      'node,nodeid=0,memdev=node0,cpus=0-1',
      'node,nodeid=1,memdev=node1,cpus=2-3',
    ]);
    expect(valuesOf(args, '-object')).toEqual([
      'memory-backend-ram,id=node0,size=512M',
      'memory-backend-ram,id=node1,size=512M',
    ]);
  });

  it('is told of no nodes where it has one', () => {
    const args = qemuArguments(l1Machine({ cpus: 2, memMib: 1024 }, 'quiet'));
    expect([...valuesOf(args, '-numa'), ...valuesOf(args, '-object')]).toEqual([]);
    expect(valuesOf(args, '-smp')).toEqual(['2']);
  });
});

describe('the outer machine', () => {
  it('has one CPU when emulated, however many L1 has: more lose interrupts when nesting', () => {
    expect(valuesOf(args({ l1: { cpus: 4, memMib: 2048 } }), '-smp')).toEqual(['1']);
    expect(valuesOf(args({ accel: 'kvm', l1: { cpus: 4, memMib: 2048 } }), '-smp')).toEqual(['4']);
  });

  it('is emulated with 4-level paging and without XSAVE and all that needs it, and passes the CPU through under KVM', () => {
    expect(valuesOf(args(), '-cpu')).toEqual([
      'max,la57=off,-erms,-fsrm,-xsave,-avx,-avx2,-f16c,-fma,-vaes,-vpclmulqdq',
    ]);
    expect(valuesOf(args({ accel: 'kvm' }), '-cpu')).toEqual(['host']);
  });

  it.each([
    ['7.2.22', 'host'],
    ['10.0.8', 'host,host-phys-bits-limit=39'],
    ['11.1.0', 'host,host-phys-bits-limit=39'],
  ])('of QEMU %s gives L1 addresses in which an arena that is plugged has a place', (version, cpu) => {
    const shape = { cpus: 1, memMib: 1024, ...l1AddressBits(version) };
    expect(valuesOf(qemuArguments(l1Machine(shape, 'quiet')), '-cpu')).toEqual([cpu]);
  });

  it('counts instructions only where it is emulated and asked to, with one thread', () => {
    const emulation = (o: Partial<OuterInputs>): string[] => [
      ...valuesOf(args(o), '-accel'),
      ...valuesOf(args(o), '-icount'),
    ];
    expect(emulation({})).toEqual(['tcg,thread=multi,tb-size=512']);
    expect(emulation({ clock: 'instructions' })).toEqual([
      'tcg,thread=single,tb-size=512',
      'shift=1,sleep=on',
    ]);
    expect(emulation({ accel: 'kvm', clock: 'instructions' })).toEqual(['kvm']);
  });

  it('has a GiB more than its L1', () => {
    expect(valuesOf(args(), '-m')).toEqual(['3072M']);
  });

  it('keeps changes of memory to itself when it was restored, and in the file when it is saved', () => {
    const ram = (p: boolean): string | undefined =>
      valuesOf(args({ ramFile: { path: '/s/ram', private: p } }), '-object')[0];
    expect(ram(true)).toBe('memory-backend-file,id=ram,mem-path=/s/ram,size=3072M,share=off');
    expect(ram(false)).toBe('memory-backend-file,id=ram,mem-path=/s/ram,size=3072M,share=on');
    expect(valuesOf(args(), '-M')).toEqual(['q35,hpet=off,memory-backend=ram']);
  });

  it('opens every disk read-only, the base image first', () => {
    const disks = valuesOf(args(), '-blockdev');
    expect(disks).toHaveLength(3);
    expect(disks[0]).toContain('filename=/c/base.erofs');
    for (const d of disks) expect(d).toContain('read-only=on');
  });

  it('waits for a saved state only when asked to', () => {
    expect(args()).not.toContain('-incoming');
    expect(valuesOf(args({ incoming: true }), '-incoming')).toEqual(['defer']);
  });

  it('uses a pipe for each channel that the run directory must have', () => {
    const pipes = valuesOf(args(), '-chardev')
      .filter((c) => c.startsWith('pipe,'))
      .map((c) => /path=(.*)$/.exec(c)?.[1]);
    expect(pipes.sort()).toEqual(channelBases(runFiles('/r')).sort());
  });

  it('has the same arguments before and after a snapshot, but for where memory comes from', () => {
    const booted = args({ ramFile: { path: '/s/ram', private: false } });
    const restored = args({ incoming: true });
    expect(restored.filter((a) => !booted.includes(a))).toEqual([
      'memory-backend-file,id=ram,mem-path=/s/ram,size=3072M,share=off',
      '-incoming',
      'defer',
    ]);
  });

  it('survives commas in file names', () => {
    expect(valuesOf(args({ baseImage: '/c/a,b.erofs' }), '-blockdev')[0]).toContain('filename=/c/a,,b.erofs');
  });
});

describe('L1', () => {
  it('has its control channel as a socket in L0, and a control socket of QEMU that the daemon may keep', () => {
    const chardevs = valuesOf(qemuArguments(l1), '-chardev').filter((c) => c.startsWith('socket,'));
    expect(chardevs).toEqual(['socket,id=ch6,path=/run/l1/agent.sock,server=on,wait=off']);
    expect(valuesOf(qemuArguments(l1), '-device')).toContain(
      'virtserialport,bus=channels.0,nr=7,chardev=ch6,name=org.hyperturtle.v1',
    );
    expect(valuesOf(qemuArguments(l1), '-qmp')).toEqual([
      'unix:/run/l1/qmp.sock,server=on,wait=off',
      'unix:/run/l1/hyperturtle-qmp.sock,server=on,wait=off',
    ]);
  });

  it('finds behind each of its ports one that the outer machine has', () => {
    const ofOuter = outer()
      .channels.filter((c) => c.kind === 'port')
      .map((c) => `/dev/virtio-ports/${c.name}`);
    for (const c of l1.channels) if (c.backend.kind === 'pipe') expect(ofOuter).toContain(c.backend.path);
    expect(ofOuter).toContain(l1.serialPath);
  });

  it('gives no port two uses', () => {
    const paths = l1.channels.map((c) => c.backend.path);
    expect(new Set(paths).size).toBe(paths.length);
  });

  it('reads the payload past the page cache of L0, where a restored machine gets another payload', () => {
    const disks = valuesOf(qemuArguments(l1), '-blockdev');
    expect(disks[0]).not.toContain('cache.direct');
    expect(disks[1]).toContain('driver=host_device');
    expect(disks[1]).toContain('cache.direct=on');
  });

  it('has a root port with a 64-bit window for the arena, and spare ones', () => {
    const ports = valuesOf(qemuArguments(l1), '-device').filter((d) => d.startsWith('pcie-root-port'));
    expect(ports[0]).toBe('pcie-root-port,id=arena0,chassis=1,slot=1,pref64-reserve=1024M');
    expect(ports.map((p) => /id=(\w+)/.exec(p)?.[1])).toEqual([
      'arena0',
      ...Array.from({ length: SPARE_PORTS }, (_, i) => `spare${i}`),
    ]);
  });

  it('has an IOMMU in front of all other devices, which the outer machine has not', () => {
    expect(valuesOf(qemuArguments(l1), '-M')).toEqual(['q35,hpet=off,kernel-irqchip=split']);
    expect(valuesOf(qemuArguments(l1), '-device')[0]).toBe('intel-iommu,intremap=on');
    expect(args().join(' ')).not.toMatch(/iommu|irqchip/);
  });

  it('is started by a script whose words a shell reads back as they were', () => {
    const script = l1Script(l1);
    expect(script).toContain("'console=ttyS0 quiet hyperturtle.level=1'");
    expect(script).toContain(' </dev/null >/run/l1/qemu.log 2>&1\necho "status $?" >/run/l1/ended\n');
  });
});

describe('shellWord', () => {
  it('leaves plain words alone and quotes the others', () => {
    expect(shellWord('a-b=c,d/e.f')).toBe('a-b=c,d/e.f');
    expect(shellWord("it's $HOME")).toBe("'it'\\''s $HOME'");
    expect(shellWord('')).toBe("''");
  });
});
