import { describe, expect, it } from 'vitest';
import { BOCHS_MODEL, bochsConfig, isolinuxConfig } from '../../../src/lab/bochs-config.ts';
import { checkShape } from '../../../src/lab/lab-checks.ts';
import { l1Machine, l1Script, qemuArguments, SERIAL_SEAT } from '../../../src/lab/machine.ts';

const config = bochsConfig({
  model: 'broadwell_ult',
  biosRom: '/r/bios',
  vgaRom: '/r/vga',
  iso: '/i/disc.iso',
  baseDisk: '/d/base.img',
  payloadDisk: '/d/payload.img',
  l1ScriptDisk: '/d/l1.img',
  serialPath: '/d/l0.log',
  terminals: ['/d/a', '/d/b'],
  logPath: '/d/bochs.log',
});

describe('the configuration of Bochs', () => {
  it('has a processor with EPT, and never writes to images that labs share', () => {
    expect(config).toMatch(/^cpu: model=broadwell_ult, count=1,/m);
    for (const [at, file] of [
      ['ata0-master', 'base'],
      ['ata0-slave', 'payload'],
      ['ata1-master', 'l1'],
    ])
      expect(config).toContain(`${at}: type=disk, path="/d/${file}.img", mode=volatile\n`);
  });

  it("gives each of the disc's ports a terminal, in the order of the names that the levels know", () => {
    expect(config.match(/^com\d: .*mode=term.*/gm)).toEqual([
      'com2: enabled=1, mode=term, dev="/d/a"',
      'com3: enabled=1, mode=term, dev="/d/b"',
    ]);
    expect(isolinuxConfig('quiet', '6.1.0-56-cloud-amd64', BOCHS_MODEL)).toContain(
      'hyperturtle.ports=ttyS1:org.qemu.guest_agent.0,ttyS2:org.hyperturtle.lab.l1\n',
    );
  });

  it('names the disks by their places, as names by number are given in any order', () => {
    const text = isolinuxConfig('quiet', '6.1.0-56-cloud-amd64', BOCHS_MODEL);
    expect(text).toContain(
      'hyperturtle.base=scsi:0:0:0:0 hyperturtle.payload=scsi:0:0:1:0 hyperturtle.l1=scsi:1:0:0:0 ',
    );
    expect(text).toContain('APPEND initrd=/initrd quiet nosmp console=ttyS0,115200 ');
    const newer = '6.12.117+deb12-cloud-amd64';
    expect(isolinuxConfig('quiet', newer, BOCHS_MODEL)).toContain(' quiet clearcpuid=28 nosmp ');
    expect(isolinuxConfig('quiet', newer, 'tigerlake')).toContain(' clearcpuid=28 noxsave nosmp ');
  });
});

it('L1 behind it has the ports that are there, and its console in a file of L0', () => {
  const args = qemuArguments(l1Machine({ cpus: 1, memMib: 1024 }, 'quiet', SERIAL_SEAT)).join(' ');
  expect(args.match(/chardev pipe,id=ch\d,path=\S+/g)).toEqual([
    'chardev pipe,id=ch0,path=/dev/virtio-ports/org.hyperturtle.lab.l1',
  ]);
  expect(args).toContain('file,id=serial,path=/run/l1/console');
  expect(l1Script(l1Machine({ cpus: 1, memMib: 1024 }, 'quiet', SERIAL_SEAT), SERIAL_SEAT)).toMatch(
    /^mkdir -p \/run\/l1\n/,
  );
});

it('a shape that Bochs cannot have is refused before anything starts', () => {
  expect(() => checkShape({ cpus: 2, memMib: 1024 }, 'bochs')).toThrow(/from 1 to 1 expected/);
  expect(() => checkShape({ cpus: 1, memMib: 2048 }, 'bochs')).toThrow(/from 512 to 1536 expected/);
  expect(() => checkShape({ cpus: 1, memMib: 1024, secondMemMib: 512 }, 'bochs')).toThrow(/room for one L1/);
});
