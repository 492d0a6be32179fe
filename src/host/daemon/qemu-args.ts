/** What to give QEMU, or libvirt, so that a VM starts with its arena, its port and a QMP socket of the daemon's own. */
import path from 'node:path';
import { escapeMarkup } from '../../core/markup.ts';
import { PORT_NAME } from '../../wire/schema.ts';
import { ARENA_PORT } from '../arena-plug.ts';
import { arenaLinkOf } from '../vm/arena.ts';
import { nicPorts } from '../config.ts';
import type { VmSpec } from '../config.ts';

/** The root port's 64-bit window is twice the BAR: QEMU aligns it. In bytes. */
const windowBytes = (arenaMib: number): number => 2 * Math.max(16, arenaMib) * 2 ** 20;

/** A QEMU device and its properties. */
type Device = { driver: string } & Record<string, string | number>;

/** As users write it, in the order in which it stands among other devices. */
const asText = ({ driver, ...properties }: Device): string[] => [
  '-device',
  [driver, ...Object.entries(properties).map(([k, v]) => `${k}=${q(String(v))}`)].join(','),
];

/**
 * As libvirt writes its own. QEMU makes devices written otherwise first, where they take the slots that libvirt gave
 * to others.
 */
const asJson = (d: Device): string[] => ['-device', JSON.stringify(d)];

interface Parts {
  arena: boolean;
  memPath: string;
  agentSocket: string | undefined;
  arenaMib: number;
  qmp: string;
}

function partsOf(vm: string, spec: VmSpec, run: string, arena: boolean): Parts {
  return {
    arena,
    memPath: arenaLinkOf({ run, vm }),
    agentSocket: 'socket' in spec.agent ? spec.agent.socket : undefined,
    arenaMib: spec.arenaMib,
    qmp: spec.qmp,
  };
}

/** A comma in a value is written twice. */
const q = (text: string): string => text.replaceAll(',', ',,');

/** Both ways of writing it. */
export const startArgs = (
  vm: string,
  spec: VmSpec,
  run: string,
  arena?: boolean,
): { qemu: string[]; libvirt: string } => ({
  qemu: qemuArgs(vm, spec, run, arena),
  libvirt: libvirtXml(vm, spec, run, arena),
});

/** Without the arena (`arena` false) it is plugged later, into the port that is there for it. */
export function qemuArgs(vm: string, spec: VmSpec, run: string, arena = true): string[] {
  const p = partsOf(vm, spec, run, arena);
  const iommu = givesNics(spec)
    ? ['-machine', 'kernel-irqchip=split', ...asText({ driver: 'intel-iommu', intremap: 'on' })]
    : [];
  const port =
    p.agentSocket === undefined
      ? []
      : [
          ...asText({ driver: 'virtio-serial-pci', id: 'hyperturtle-serial' }),
          '-chardev',
          `socket,id=hyperturtle-agent,path=${q(p.agentSocket)},server=on,wait=off`,
          ...asText({
            driver: 'virtserialport',
            bus: 'hyperturtle-serial.0',
            chardev: 'hyperturtle-agent',
            name: PORT_NAME,
          }),
        ];
  return [
    ...iommu,
    ...memoryArgs(p),
    ...arenaDevices(p).flatMap(asText),
    ...port,
    ...qmpArgs(p),
    ...nicPortDevices(spec).flatMap(asText),
  ];
}

const memoryArgs = (p: Parts): string[] =>
  p.arena
    ? [
        '-object',
        `memory-backend-file,id=hyperturtle-memory,mem-path=${q(p.memPath)},size=${p.arenaMib}M,share=on`,
      ]
    : [];
const qmpArgs = (p: Pick<Parts, 'qmp'>): string[] => ['-qmp', `unix:${q(p.qmp)},server=on,wait=off`];

const arenaPort = (arenaMib: number): Device => ({
  driver: 'pcie-root-port',
  id: ARENA_PORT,
  chassis: 250,
  'pref64-reserve': windowBytes(arenaMib),
});

const arenaDevices = (p: Parts): Device[] => [arenaPort(p.arenaMib), ...(p.arena ? [arenaDevice] : [])];

const arenaDevice: Device = {
  driver: 'ivshmem-plain',
  id: 'hyperturtle-arena',
  memdev: 'hyperturtle-memory',
  bus: ARENA_PORT,
  // as arena-plug.ts has it
  master: 'off',
};

/** L1 hands NICs on to its guests through an IOMMU, which stands before all devices. */
const givesNics = (spec: VmSpec): boolean => spec.nics.networks.length > 0;

/** Spare root ports. Slot numbers are what L1 knows them by; these are out of the way of others'. */
const nicPortDevices = (spec: VmSpec): Device[] =>
  !givesNics(spec)
    ? []
    : nicPorts(spec).map((id, n) => ({
        driver: 'pcie-root-port',
        id,
        chassis: FIRST_NIC_CHASSIS + n,
        slot: FIRST_NIC_SLOT + n,
      }));

const FIRST_NIC_CHASSIS = 200;
const FIRST_NIC_SLOT = 64;

/**
 * For a domain that starts with or without the daemon: the QMP socket, and empty root ports that the daemon plugs into.
 * Those for NICs whose ids the user gave are the user's.
 */
export function emptyPortArgs(spec: VmSpec): string[] {
  const ports = [arenaPort(spec.arenaMib), ...nicPortDevices(spec)];
  const own = ports.filter((d) => String(d['id']).startsWith(OWN_ID));
  return [...qmpArgs(spec), ...own.flatMap(asJson)];
}

/** What our ids in QEMU begin with. */
export const OWN_ID = 'hyperturtle-';

/** To be put into <domain>, which needs the QEMU name space for what libvirt has no element for. */
export function libvirtXml(vm: string, spec: VmSpec, run: string, arena = true): string {
  const p = partsOf(vm, spec, run, arena);
  // libvirt makes the agent's port and the IOMMU itself
  const own = [
    ...memoryArgs(p),
    ...arenaDevices(p).flatMap(asJson),
    ...qmpArgs(p),
    ...nicPortDevices(spec).flatMap(asJson),
  ];
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
          `  <source mode='bind' path='${escapeMarkup(p.agentSocket)}'/>`,
          `  <target type='virtio' name='${PORT_NAME}'/>`,
          '</channel>',
        ];
  return [
    ...iommu,
    ...channel,
    "<!-- inside <domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'> -->",
    '<qemu:commandline>',
    ...own.map((a) => `  <qemu:arg value='${escapeMarkup(a)}'/>`),
    '</qemu:commandline>',
    `<!-- QEMU must be allowed to open ${escapeMarkup(path.dirname(p.memPath))} and its device: cgroup_device_acl of qemu.conf -->`,
    '',
  ].join('\n');
}
