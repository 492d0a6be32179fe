/**
 * Plays the hardware of an L1 and the driver of its one NIC: `node nic-hardware-main.js BRIDGE QEMU_PID SYSFS_ROOT
 * ADMIN_SOCKET SLOT PORT_HOST PORT_GUEST`. The last two are the ends of its virtio port. When QEMU has been handed a tap on BRIDGE, a second tap with the NIC's MAC is its network device in L1, with a
 * PCI device behind root port SLOT in SYSFS_ROOT; frames go between the two as virtio-net and its driver would carry
 * them. It goes when QEMU lets the first one go.
 */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import {
  constants,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { OwnedFd } from '../../src/bpf/fds.ts';
import { ioctl, pidfdGetfd, pidfdOpen } from '../../src/bpf/sys.ts';
import { errnoCode } from '../../src/core/errors.ts';
import { ADMIN_METHODS } from '../../src/host/daemon/admin-schema.ts';
import { RpcPeer } from '../../src/wire/peer.ts';
import { PortRelay } from './port-relay.ts';

const [bridge = '', qemu = '', root = '', adminSocket = '', slot = '', ...portEnds] = process.argv.slice(2);
const devices = path.join(root, 'sys/bus/pci/devices');
const [PORT, DEVICE] = ['0000:00:01.0', '0000:01:00.0'];
const L1_NAME = `htl${process.pid % 1_000_000}`;
const IFREQ_BYTES = 40;
const TUNSETIFF = { name: 'TUNSETIFF', code: 0x400454ca, size: IFREQ_BYTES };
const TUNGETVNETHDRSZ = { name: 'TUNGETVNETHDRSZ', code: 0x800454d7, size: 4 };
const TUNSETVNETHDRSZ = { name: 'TUNSETVNETHDRSZ', code: 0x400454d8, size: 4 };
const TAP_NO_PI_VNET_HDR = 0x2 | 0x1000 | 0x4000;
const FRAME_MAX = 70_000;

interface Nic {
  /** Its number in QEMU. */
  fd: number;
  ifname: string;
  host: OwnedFd;
  l1: OwnedFd;
}

/** The descriptor of QEMU that is the tap, while it has one. */
function qemuFd(ifname: string): number | undefined {
  const dir = `/proc/${qemu}/fdinfo`;
  const found = readdirSync(dir).find((n) => {
    try {
      return readFileSync(path.join(dir, n), 'latin1').includes(`iff:\t${ifname}\n`);
    } catch {
      return false; // closed meanwhile
    }
  });
  return found === undefined ? undefined : Number(found);
}

async function macOfNic(): Promise<string> {
  const socket = net.connect(adminSocket);
  await once(socket, 'connect');
  const peer = new RpcPeer(socket, { calls: ADMIN_METHODS, session: 'connection' });
  try {
    const { vms } = await peer.request('admin.vm.list', {}, { timeoutMs: 10_000 });
    return vms[0]?.nics[0]?.mac ?? '';
  } finally {
    peer.close();
  }
}

function put(address: string, files: Record<string, string | Buffer>): string {
  const dir = path.join(devices, address);
  mkdirSync(dir, { recursive: true });
  for (const [name, content] of Object.entries(files)) writeFileSync(path.join(dir, name), content);
  return dir;
}

async function plug(ifname: string, fd: number): Promise<Nic | undefined> {
  const mac = await macOfNic();
  if (mac === '') return undefined; // the daemon is not done with it
  const host = pidfdGetfd(pidfdOpen(Number(qemu)), fd, ifname);
  // as QEMU has opened its own: a read that finds nothing must not wait
  const l1 = new OwnedFd(openSync('/dev/net/tun', constants.O_RDWR | constants.O_NONBLOCK), L1_NAME);
  const request = Buffer.alloc(IFREQ_BYTES);
  request.write(L1_NAME, 'latin1');
  request.writeUInt16LE(TAP_NO_PI_VNET_HDR, 16);
  ioctl(l1, TUNSETIFF, request);
  const headerBytes = Buffer.alloc(4);
  ioctl(host, TUNGETVNETHDRSZ, headerBytes);
  ioctl(l1, TUNSETVNETHDRSZ, headerBytes);
  execFileSync('ip', ['link', 'set', L1_NAME, 'address', mac]);
  const dir = put(DEVICE, { class: '0x020000\n', config: Buffer.alloc(256), driver_override: '' });
  mkdirSync(path.join(dir, `virtio0/net/${L1_NAME}`), { recursive: true });
  mkdirSync(path.join(root, 'sys/bus/pci/drivers/virtio-pci'), { recursive: true });
  symlinkSync(path.join(root, 'sys/bus/pci/drivers/virtio-pci'), path.join(dir, 'driver'));
  return { fd, ifname, host, l1 };
}

function unplug(nic: Nic): void {
  nic.host.close();
  nic.l1.close();
  rmSync(path.join(devices, DEVICE), { recursive: true });
}

/** All that waits at one end, to the other. */
function carry(from: OwnedFd, to: OwnedFd): void {
  const frame = Buffer.alloc(FRAME_MAX);
  for (;;)
    try {
      writeSync(to.fd, frame, 0, readSync(from.fd, frame));
    } catch (e) {
      const errno = errnoCode(e);
      if (errno === 'EAGAIN' || errno === 'EIO') return; // nothing there; the device is down
      throw e;
    }
}

const port = Buffer.alloc(256);
port[0x19] = 1;
port[0x34] = 0x40;
port[0x40] = 0x10;
port.writeUInt16LE(0x0142, 0x42);
port.writeUInt32LE((Number(slot) << 19) >>> 0, 0x54);
put(PORT, { class: '0x060400\n', config: port });
await PortRelay.listen(portEnds[0] ?? '', portEnds[1] ?? '');
let nic: Nic | undefined;
process.stdout.write('ready\n');
for (;;) {
  await new Promise((resolve) => setTimeout(resolve, nic ? 1 : 20));
  if (nic) {
    if (qemuFd(nic.ifname) !== nic.fd) {
      unplug(nic);
      nic = undefined;
      continue;
    }
    carry(nic.host, nic.l1);
    carry(nic.l1, nic.host);
    continue;
  }
  const ifname = readdirSync(`/sys/class/net/${bridge}/brif`)[0];
  const fd = ifname === undefined ? undefined : qemuFd(ifname);
  if (ifname !== undefined && fd !== undefined) nic = await plug(ifname, fd);
}
