/** What is given to QEMU and asked of it. */
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { checkVm } from '../../../../src/host/config.ts';
import {
  readRecord,
  removeRecord,
  startTicksOf,
  ticksNow,
  writeRecord,
} from '../../../../src/host/vm/process-record.ts';
import { libvirtXml, qemuArgs } from '../../../../src/host/daemon/qemu-args.ts';

const RUN = '/run/hyperturtle';

describe('arguments of a VM', () => {
  const spec = checkVm('one', { qmp: '/run/one,two/qmp', agent: { socket: "/run/one/a&'b" }, arenaMib: 64 });

  it('have the arena behind a root port with a wide window, the port, and a QMP socket of the daemon', () => {
    const args = qemuArgs('one', spec, RUN);
    expect(args).toContain(
      'memory-backend-file,id=hyperturtle-memory,mem-path=/run/hyperturtle/vms/one/arena,size=64M,share=on',
    );
    expect(args).toContain('pcie-root-port,id=hyperturtle-port,chassis=250,pref64-reserve=134217728');
    expect(args).toContain(
      'ivshmem-plain,id=hyperturtle-arena,memdev=hyperturtle-memory,bus=hyperturtle-port,master=off',
    );
    expect(args).toContain(
      'virtserialport,bus=hyperturtle-serial.0,chardev=hyperturtle-agent,name=org.hyperturtle.v1',
    );
    expect(args.filter((_, i) => i % 2 === 0).every((a) => a.startsWith('-'))).toBe(true);
  });

  it('write a comma in a path twice, as QEMU wants it', () => {
    expect(qemuArgs('one', spec, RUN)).toContain('unix:/run/one,,two/qmp,server=on,wait=off');
  });

  it('are XML for libvirt, with its own channel and escaped', () => {
    const xml = libvirtXml('one', spec, RUN);
    expect(xml).toContain("<source mode='bind' path='/run/one/a&amp;&apos;b'/>");
    expect(xml).not.toContain('virtio-serial-pci');
    // as JSON: QEMU makes what is written otherwise before libvirt's own devices, in their slots
    const devices = [...xml.matchAll(/<qemu:arg value='(\{.*\})'\/>/g)].map(
      (m) => JSON.parse(m[1]!.replaceAll('&quot;', '"')) as Record<string, unknown>,
    );
    expect(devices).toEqual([
      {
        driver: 'pcie-root-port',
        id: 'hyperturtle-port',
        chassis: 250,
        'pref64-reserve': 134217728,
      },
      {
        driver: 'ivshmem-plain',
        id: 'hyperturtle-arena',
        memdev: 'hyperturtle-memory',
        bus: 'hyperturtle-port',
        master: 'off',
      },
    ]);
  });

  it('have spare ports and an IOMMU before all devices when the VM may ask for NICs, and not otherwise', () => {
    const nics = checkVm('one', {
      qmp: '/q',
      agent: { socket: '/a' },
      nics: { networks: ['lan'], ports: 2 },
    });
    const args = qemuArgs('one', nics, RUN);
    expect(args.slice(0, 4)).toEqual([
      '-machine',
      'kernel-irqchip=split',
      '-device',
      'intel-iommu,intremap=on',
    ]);
    expect(args.slice(-4)).toEqual([
      ...['-device', 'pcie-root-port,id=hyperturtle-nic0,chassis=200,slot=64'],
      ...['-device', 'pcie-root-port,id=hyperturtle-nic1,chassis=201,slot=65'],
    ]);
    const xml = libvirtXml('one', nics, RUN);
    expect(xml).toContain("<iommu model='intel'>");
    expect(xml).not.toContain('kernel-irqchip');
    expect(qemuArgs('one', spec, RUN).join(' ')).not.toMatch(/iommu|hyperturtle-nic/);
  });

  it('leave the port out when it is plugged later', () => {
    const plugged = checkVm('one', { qmp: '/q', agent: { hotplug: true } });
    expect(qemuArgs('one', plugged, RUN).join(' ')).not.toContain('virtserialport');
  });
});

describe('the record of a process', () => {
  let run: string;
  beforeEach(() => {
    run = mkdtempSync(path.join(os.tmpdir(), 'ht-record-'));
  });
  afterEach(() => {
    rmSync(run, { recursive: true });
  });

  it('is read as written, and nothing is known without one', () => {
    expect(readRecord(run, 'one')).toBeUndefined();
    const record = { pid: process.pid, startTicks: startTicksOf(process.pid) ?? 0, arenaMapId: 7 };
    writeRecord(run, 'one', record);
    expect(readRecord(run, 'one')).toEqual(record);
    removeRecord(run, 'one');
    expect(readRecord(run, 'one')).toBeUndefined();
  });

  it('knows when a process began', () => {
    const ageMs = (ticksNow() - (startTicksOf(process.pid) ?? 0)) * 10;
    expect(Math.abs(ageMs - process.uptime() * 1000)).toBeLessThan(2000);
    expect(startTicksOf(2 ** 22)).toBeUndefined();
  });
});
