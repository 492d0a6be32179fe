/**
 * An agent for the CNI plugin's tests: `node cni-agent-main.js SOCKET SYSFS_ROOT NAMESPACE`. nic.add makes a veth pair: one end
 * plays the network device of the NIC, with a PCI device and its root port in SYSFS_ROOT; the other end is a port of a
 * bridge with the gateway's address in NAMESPACE, which it makes. Two NICs at most.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { HyperturtleError } from '../../src/core/errors.ts';
import { RpcPeer } from '../../src/wire/peer.ts';
import { METHODS } from '../../src/wire/schema.ts';
import type { NicInfo } from '../../src/wire/schema.ts';

const [socketPath = '', root = '', namespace = ''] = process.argv.slice(2);
const devices = path.join(root, 'sys/bus/pci/devices');
const nics = new Map<string, { info: NicInfo; n: number }>();
const ip = (...args: string[]): void => void execFileSync('ip', args, { stdio: 'ignore' });

function put(address: string, files: Record<string, string | Buffer>): string {
  const dir = path.join(devices, address);
  mkdirSync(dir, { recursive: true });
  for (const [name, content] of Object.entries(files)) writeFileSync(path.join(dir, name), content);
  return dir;
}

function add(id: string): NicInfo {
  const n = [0, 1].find((i) => ![...nics.values()].some((x) => x.n === i));
  if (n === undefined) throw new HyperturtleError('HT_QUOTA', 'quota exceeded: nics (2 of 2 used)');
  const mac = `02:00:00:00:01:0${n}`;
  const peer = ['peer', 'name', `htpeer${n}`, 'netns', namespace];
  ip('link', 'add', `htnic${n}`, 'address', mac, 'type', 'veth', ...peer);
  ip('-n', namespace, 'link', 'set', `htpeer${n}`, 'master', 'lan', 'up');
  const port = Buffer.alloc(256);
  port[0x19] = n + 1;
  port[0x34] = 0x40;
  port[0x40] = 0x10;
  port.writeUInt16LE(0x0142, 0x42);
  port.writeUInt32LE((64 + n) << 19, 0x54);
  put(`0000:00:0${n + 1}.0`, { class: '0x060400\n', config: port });
  const dir = put(`0000:0${n + 1}:00.0`, {
    class: '0x020000\n',
    config: Buffer.alloc(256),
    driver_override: '',
  });
  mkdirSync(path.join(dir, `virtio${n}/net/htnic${n}`), { recursive: true });
  mkdirSync(path.join(root, 'sys/bus/pci/drivers/virtio-pci'), { recursive: true });
  symlinkSync(path.join(root, 'sys/bus/pci/drivers/virtio-pci'), path.join(dir, 'driver'));
  const info: NicInfo = {
    id,
    mac,
    network: 'lan',
    kind: 'tap',
    slot: 64 + n,
    mtu: 1500,
    hooks: [],
    since: new Date().toISOString(),
  };
  nics.set(id, { info, n });
  return info;
}

function del(id: string): boolean {
  const nic = nics.get(id);
  if (!nic) return false;
  nics.delete(id);
  try {
    ip('-n', namespace, 'link', 'del', `htpeer${nic.n}`);
  } catch {
    // a pair goes with the namespace that has one end; a NIC does not, but comes back to L1's own
  }
  for (const address of [`0000:00:0${nic.n + 1}.0`, `0000:0${nic.n + 1}:00.0`])
    rmSync(path.join(devices, address), { recursive: true });
  return true;
}

const networks = [{ name: 'lan', kind: 'tap' as const, mtu: 1500 }];
/* eslint-disable @typescript-eslint/no-explicit-any -- the three methods that the plugin calls */
const call = (spec: { params: any; result: any }, answer: (params: any) => unknown) => ({
  spec,
  call: (params: unknown) => Promise.resolve().then(() => answer(params)),
});
const methods = {
  'nic.add': call(METHODS['nic.add'], ({ id }) => {
    const there = nics.get(String(id));
    return there ? { nic: there.info, existed: true } : { nic: add(String(id)), existed: false };
  }),
  'nic.del': call(METHODS['nic.del'], ({ id }) => ({ existed: del(String(id)) })),
  'nic.list': call(METHODS['nic.list'], () => ({
    nics: [...nics.values()].map((n) => n.info),
    networks,
    free: 2 - nics.size,
  })),
  unload: call(METHODS['unload'], ({ name }) => {
    throw new HyperturtleError('HT_NOT_FOUND', `no object '${String(name)}' is loaded`);
  }),
};
const server = net.createServer((socket) => {
  void new RpcPeer(socket, { calls: {}, methods, session: 'connection' });
});
mkdirSync(devices, { recursive: true });
ip('netns', 'add', namespace);
ip('-n', namespace, 'link', 'add', 'lan', 'type', 'bridge');
ip('-n', namespace, 'address', 'add', '192.0.2.1/24', 'dev', 'lan');
ip('-n', namespace, 'link', 'set', 'lan', 'up');
server.listen(socketPath, () => process.stdout.write('ready\n'));
process.on('SIGTERM', () => {
  for (const id of [...nics.keys()]) del(id);
  ip('netns', 'del', namespace);
  process.exit(0);
});
