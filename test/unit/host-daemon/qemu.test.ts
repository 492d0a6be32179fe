/** What is given to QEMU and asked of it. */
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { checkVm } from '../../../src/host/daemon/config.ts';
import {
  readRecord,
  removeRecord,
  startTicksOf,
  ticksNow,
  writeRecord,
} from '../../../src/host/daemon/process-record.ts';
import { libvirtXml, qemuArgs } from '../../../src/host/daemon/qemu-args.ts';
import { findArena, plugPort } from '../../../src/host/daemon/qemu-side.ts';
import { HyperturtleError } from '../../../src/core/errors.ts';

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
        ...{ driver: 'pcie-root-port', id: 'hyperturtle-port' },
        ...{ chassis: 250, 'pref64-reserve': 134217728 },
      },
      {
        ...{ driver: 'ivshmem-plain', id: 'hyperturtle-arena' },
        ...{ memdev: 'hyperturtle-memory', bus: 'hyperturtle-port', master: 'off' },
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

/** Answers like QEMU; records what it is asked. */
function qemu(answers: Record<string, unknown>): {
  asked: string[];
  execute: (c: string, a?: object) => Promise<unknown>;
} {
  const asked: string[] = [];
  return {
    asked,
    execute: (command, args = {}) => {
      const key = 'path' in args && command === 'qom-get' ? `qom-get ${String(args.path)}` : command;
      asked.push(key);
      const a = answers[key];
      return a instanceof Error ? Promise.reject(a) : Promise.resolve(a ?? {});
    },
  };
}

describe('the arena in QEMU', () => {
  const objects = [
    { name: 'ram', type: 'child<memory-backend-file>' },
    { name: 'mine', type: 'child<memory-backend-file>' },
    { name: 'iothread', type: 'child<iothread>' },
  ];

  it('is found by its link, and known to be from the command line', async () => {
    const q = qemu({
      'qom-list': objects,
      'qom-get /objects/ram': '/dev/shm/ram',
      'qom-get /objects/mine': '/run/hyperturtle/vms/one/arena',
    });
    expect(await findArena(q, '/run/hyperturtle/vms/one/arena')).toEqual({ id: 'mine', hotPlugged: false });
    expect(q.asked).not.toContain('qom-get /objects/iothread');
  });

  it('is found when a daemon has plugged it', async () => {
    const q = qemu({
      'qom-list': [{ name: 'hyperturtle-arena-memory', type: 'child<memory-backend-file>' }],
      'qom-get /objects/hyperturtle-arena-memory': '/dev/hyperturtle-arena3',
    });
    expect(await findArena(q, '/x')).toEqual({ id: 'hyperturtle-arena-memory', hotPlugged: true });
  });

  it('is not taken for another memory', async () => {
    const q = qemu({
      'qom-list': objects,
      'qom-get /objects/ram': '/dev/shm/a',
      'qom-get /objects/mine': '/b',
    });
    expect(await findArena(q, '/x')).toBeUndefined();
  });
});

describe('plugging the port', () => {
  const refuse = (text: string): Error => new HyperturtleError('HT_QMP', text);

  it('leaves what a daemon before has plugged', async () => {
    const q = qemu({
      'chardev-add': refuse("QEMU refused chardev-add: Chardev with id 'hyperturtle-agent' already exists"),
      device_add: refuse("QEMU refused device_add: Duplicate device ID 'hyperturtle-agent-port'"),
    });
    await plugPort(q, { socketPath: '/run/a.sock' });
    expect(q.asked).toEqual(['chardev-add', 'device_add']);
  });

  it('says why when there is no controller for it', async () => {
    const q = qemu({ device_add: refuse("QEMU refused device_add: No 'virtio-serial-bus' bus found") });
    await expect(plugPort(q, { socketPath: '/run/a.sock' })).rejects.toThrow(/virtio-serial-bus/);
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
