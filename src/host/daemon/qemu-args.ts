/** What to give QEMU, or libvirt, so that a VM starts with its arena, its port and a QMP socket of the daemon's own. */
import path from 'node:path';
import { PORT_NAME } from '../../wire/schema.ts';
import { arenaLinkOf } from './arena.ts';
import { nicPorts } from './config.ts';
import type { VmSpec } from './config.ts';

/** The root port's 64-bit window is twice the BAR: QEMU aligns it. */
const windowMib = (arenaMib: number): number => 2 * Math.max(16, arenaMib);

interface Parts {
  memPath: string;
  agentSocket: string | undefined;
  arenaMib: number;
  qmp: string;
}

function partsOf(vm: string, spec: VmSpec, run: string): Parts {
  return {
    memPath: arenaLinkOf({ run, vm }),
    agentSocket: 'socket' in spec.agent ? spec.agent.socket : undefined,
    arenaMib: spec.arenaMib,
    qmp: spec.qmp,
  };
}

/** A comma in a value is written twice. */
const q = (text: string): string => text.replaceAll(',', ',,');

export function qemuArgs(vm: string, spec: VmSpec, run: string): string[] {
  const p = partsOf(vm, spec, run);
  const port = 'hyperturtle-port';
  const args = [
    '-object',
    `memory-backend-file,id=hyperturtle-memory,mem-path=${q(p.memPath)},size=${p.arenaMib}M,share=on`,
    '-device',
    `pcie-root-port,id=${port},chassis=250,pref64-reserve=${windowMib(p.arenaMib)}M`,
    '-device',
    `ivshmem-plain,id=hyperturtle-arena,memdev=hyperturtle-memory,bus=${port}`,
  ];
  if (p.agentSocket !== undefined)
    args.push(
      '-device',
      'virtio-serial-pci,id=hyperturtle-serial',
      '-chardev',
      `socket,id=hyperturtle-agent,path=${q(p.agentSocket)},server=on,wait=off`,
      '-device',
      `virtserialport,bus=hyperturtle-serial.0,chardev=hyperturtle-agent,name=${PORT_NAME}`,
    );
  args.push('-qmp', `unix:${q(p.qmp)},server=on,wait=off`);
  return [...iommuArgs(spec), ...args, ...nicPortArgs(spec)];
}

const givesNics = (spec: VmSpec): boolean => spec.nics.networks.length > 0;

/** Before all devices: L1 hands NICs on to its guests through this IOMMU. */
function iommuArgs(spec: VmSpec): string[] {
  if (!givesNics(spec)) return [];
  return ['-machine', 'kernel-irqchip=split', '-device', 'intel-iommu,intremap=on'];
}

/** Spare root ports. Slot numbers are what L1 knows them by; these are out of the way of others'. */
function nicPortArgs(spec: VmSpec): string[] {
  if (!givesNics(spec)) return [];
  return nicPorts(spec).flatMap((id, n) => [
    '-device',
    `pcie-root-port,id=${id},chassis=${FIRST_NIC_CHASSIS + n},slot=${FIRST_NIC_SLOT + n}`,
  ]);
}

const FIRST_NIC_CHASSIS = 200;
const FIRST_NIC_SLOT = 64;

const x = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;').replaceAll("'", '&apos;');

/** To be put into <domain>, which needs the QEMU name space for what libvirt has no element for. */
export function libvirtXml(vm: string, spec: VmSpec, run: string): string {
  const p = partsOf(vm, spec, run);
  const args = qemuArgs(vm, spec, run);
  const own = withoutLibvirts(args, p.agentSocket !== undefined);
  const iommu = givesNics(spec)
    ? [
        '<!-- inside <features> -->',
        "<ioapic driver='qemu'/>",
        '<!-- inside <devices> -->',
        "<iommu model='intel'><driver intremap='on'/></iommu>",
      ]
    : [];
  const channel =
    p.agentSocket === undefined
      ? []
      : [
          '<!-- inside <devices> -->',
          "<channel type='unix'>",
          `  <source mode='bind' path='${x(p.agentSocket)}'/>`,
          `  <target type='virtio' name='${PORT_NAME}'/>`,
          '</channel>',
        ];
  return [
    ...iommu,
    ...channel,
    "<!-- inside <domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'> -->",
    '<qemu:commandline>',
    ...own.map((a) => `  <qemu:arg value='${x(a)}'/>`),
    '</qemu:commandline>',
    `<!-- QEMU must be allowed to open ${x(path.dirname(p.memPath))} and its device: cgroup_device_acl of qemu.conf -->`,
    '',
  ].join('\n');
}

/** libvirt makes the agent's port and the IOMMU itself. */
const LIBVIRTS_OWN =
  /^(virtio-serial-pci|virtserialport|socket,id=hyperturtle-agent|intel-iommu|kernel-irqchip)/;

function withoutLibvirts(args: readonly string[], agentPort: boolean): string[] {
  const out: string[] = [];
  for (let i = 0; i < args.length; i += 2) {
    const value = args[i + 1] ?? '';
    const libvirts = agentPort ? LIBVIRTS_OWN.test(value) : /^(intel-iommu|kernel-irqchip)/.test(value);
    if (!libvirts) out.push(args[i] ?? '', value);
  }
  return out;
}
