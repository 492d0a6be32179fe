/**
 * NICs on vDPA devices. No kernel here has a management device for networks: iproute2's `vdpa`, its sysfs and QEMU are
 * played by the test, the files and descriptors are real.
 */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { openFds } from '../../../../src/bpf/fds.ts';
import { HyperturtleError } from '../../../../src/core/errors.ts';
import { waitFor } from '../../../../src/core/wait.ts';
import { parseConfig } from '../../../../src/host/config.ts';
import { VmNics } from '../../../../src/host/nics/nics.ts';

const TOOL = `#!/bin/sh
echo "$*" >>"$0.log"
[ -e "$0.fails" ] && { echo "kernel answers: Operation not supported" >&2; exit 1; }
sys=$(dirname "$0")/sys
case "$1 $2" in
'dev add')
  mkdir -p "$sys/devices/$4" "$sys/drivers/vhost_vdpa" "$sys/drivers/virtio_vdpa"
  ln -s "$sys/drivers/vhost_vdpa" "$sys/devices/$4/driver"
  mkdir "$sys/devices/$4/vhost-vdpa-0"; : >"$(dirname "$0")/dev/vhost-vdpa-0" ;;
'dev del') rm -r "$sys/devices/$3" "$(dirname "$0")/dev/vhost-vdpa-0" ;;
esac
`;

let dir: string;
let said: string[];
let plugged: Set<string>;
let version: { major: number; minor: number };
let iommu: boolean;
let fails: string | undefined;

beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), 'ht-vdpa-'));
  mkdirSync(path.join(dir, 'sys/devices'), { recursive: true });
  mkdirSync(path.join(dir, 'dev'));
  writeFileSync(path.join(dir, 'vdpa'), TOOL);
  chmodSync(path.join(dir, 'vdpa'), 0o755);
  vi.stubEnv('HYPERTURTLE_VDPA_TOOL', path.join(dir, 'vdpa'));
  vi.stubEnv('HYPERTURTLE_VDPA_SYSFS', path.join(dir, 'sys'));
  vi.stubEnv('HYPERTURTLE_VDPA_DEV', path.join(dir, 'dev'));
  said = [];
  plugged = new Set();
  version = { major: 8, minor: 0 };
  iommu = true;
  fails = undefined;
});
afterEach(() => {
  vi.unstubAllEnvs();
  expect(openFds()).toEqual([]);
  rmSync(dir, { recursive: true });
});

const execute = (command: string, args: Record<string, unknown> = {}): Promise<unknown> => {
  if (command === fails)
    return Promise.reject(
      new HyperturtleError('HT_QMP', `${command}: no`, { detail: { command, class: 'GenericError' } }),
    );
  if (command === 'query-version') return Promise.resolve({ qemu: version });
  if (command === 'qom-get') return Promise.resolve(16);
  if (command === 'qom-list')
    return Promise.resolve(
      args['path'] === '/machine/peripheral'
        ? [
            { name: 'spare0', type: 'child<pcie-root-port>' },
            ...[...plugged].map((name) => ({ name, type: 'child<virtio-net-pci>' })),
          ]
        : iommu
          ? [{ name: 'x', type: 'child<intel-iommu>' }]
          : [],
    );
  said.push(`${command} ${JSON.stringify(args)}`);
  if (command === 'device_add') plugged.add(String(args['id']));
  if (command === 'device_del') plugged.delete(String(args['id']));
  return Promise.resolve({});
};
const qmp = {
  execute,
  giveFd: (name: string) => {
    said.push(`getfd ${name}`);
    return Promise.resolve();
  },
  waitEvent: () => Promise.resolve({}),
};

function nics(): VmNics {
  return new VmNics({
    vm: 'one',
    run: dir,
    process: { pid: process.pid, startTicks: 1 },
    settings: () => ({
      networks: { fast: { vdpa: { management: 'pci/0000:65:00.2' }, mtu: 9000 } },
      ports: ['spare0'],
      max: 2,
      hooks: undefined,
    }),
    qmp: () => qmp as never,
    onGoing: (nic, reason) => void said.push(`going ${nic.id}: ${reason}`),
    onAdded: () => {},
    log: { warn: (fields) => said.push(`warn ${JSON.stringify(fields)}`), info: () => {} },
  });
}
const devices = (): string[] => readdirSync(path.join(dir, 'sys/devices'));
const tool = (): string[] =>
  existsSync(path.join(dir, 'vdpa.log'))
    ? readFileSync(path.join(dir, 'vdpa.log'), 'utf8').trim().split('\n')
    : [];
const signal = new AbortController().signal;

test('a NIC is made on the management device, handed to QEMU, and taken away once QEMU has let it go', async () => {
  const all = nics();
  const { nic } = await all.add({ id: 'web', mac: '02:00:00:00:00:07' }, signal);
  expect(nic).toMatchObject({ kind: 'vdpa', network: 'fast', mtu: 9000, slot: 16, hooks: [] });
  expect(all.hooked()).toEqual([]);
  const [name = ''] = devices();
  expect(tool()).toEqual([`dev add name ${name} mgmtdev pci/0000:65:00.2 mac 02:00:00:00:00:07 mtu 9000`]);
  expect(said).toEqual([
    'getfd hyperturtle-nic-fd',
    expect.stringMatching(
      /^netdev_add \{"type":"vhost-vdpa","id":"hyperturtle-nic-web-[0-9a-f]{16}-net","vhostfd":"hyperturtle-nic-fd"\}$/,
    ),
    expect.stringMatching(/^device_add .*"mac":"02:00:00:00:00:07".*"host_mtu":9000.*"iommu_platform":true/),
  ]);
  expect((await all.list()).networks).toEqual([{ name: 'fast', kind: 'vdpa', mtu: 9000 }]);
  await all.del('web');
  expect(said.at(-1)).toMatch(/^netdev_del/);
  expect(tool().at(-1)).toBe(`dev del ${name}`);
  expect(devices()).toEqual([]);
});

test.each(['netdev_add', 'device_add'])('nothing is left when QEMU refuses %s', async (command) => {
  fails = command;
  const all = nics();
  await expect(all.add({ id: 'web' }, signal)).rejects.toMatchObject({ code: 'HT_KERNEL' });
  expect(devices()).toEqual([]);
  expect(all.devices()).toEqual([]);
  if (command === 'device_add') expect(said.at(-2)).toMatch(/^netdev_del/);
  expect(said.at(-1)).toMatch(/^closefd/);
});

test("the tool's refusal, a kernel without vDPA and a QEMU that cannot are told, before anything is done", async () => {
  writeFileSync(path.join(dir, 'vdpa.fails'), '');
  await expect(nics().add({}, signal)).rejects.toThrow(/vdpa dev add: .*Operation not supported/s);
  rmSync(path.join(dir, 'sys'), { recursive: true });
  await expect(nics().add({}, signal)).rejects.toMatchObject({
    code: 'HT_NOT_FOUND',
    message: expect.stringContaining("'modprobe vdpa vhost_vdpa'") as string,
  });
  version = { major: 7, minor: 2 };
  await expect(nics().add({}, signal)).rejects.toThrow('QEMU 7.2 cannot have a vDPA device beside an IOMMU');
  iommu = false;
  await expect(nics().add({}, signal)).rejects.toThrow('has no vDPA');
  expect(said).toEqual([]);
});

test('a device that another driver took is given to vhost_vdpa, or goes', async () => {
  const text = TOOL.replace('ln -s "$sys/drivers/vhost_vdpa"', 'ln -s "$sys/drivers/virtio_vdpa"');
  writeFileSync(path.join(dir, 'vdpa'), text);
  // this sysfs is of plain files: nothing rebinds
  await expect(nics().add({ id: 'web' }, signal)).rejects.toThrow(
    'has driver virtio_vdpa, vhost_vdpa expected',
  );
  expect(readFileSync(path.join(dir, 'sys/drivers_probe'), 'utf8')).toMatch(/^ht-/);
  expect(devices()).toEqual([]);
});

test('what a killed daemon left is taken up or away, and all goes with the VM', async () => {
  const first = nics();
  await first.add({ id: 'web' }, signal);
  const [name = ''] = devices();
  mkdirSync(path.join(dir, 'sys/devices', `${name.slice(0, -3)}stray`));
  const second = nics();
  await second.recover();
  expect(second.devices().map((n) => n.info.id)).toEqual(['web']);
  expect(devices()).toEqual([name]);
  plugged.clear(); // QEMU does not have it any more
  const third = nics();
  await third.recover();
  expect(third.devices()).toEqual([]);
  expect(devices()).toEqual([]);
  await third.add({ id: 'web' }, signal);
  third.ended();
  await waitFor('no device', () => devices().length === 0 || undefined, { timeoutMs: 5000, intervalMs: 10 });
});

test('the configuration says either a bridge or a management device', () => {
  const of = (network: string): unknown =>
    parseConfig(`networks:\n  n: ${network}\n`, 'host.yaml').networks['n'];
  expect(of('{vdpa: {management: vduse}}')).toEqual({ vdpa: { management: 'vduse' } });
  expect(of('{bridge: br0}')).toEqual({ bridge: 'br0', vhost: true });
  expect(() => of('{bridge: br0, vdpa: {management: vduse}}')).toThrow('either bridge: NAME or vdpa:');
  expect(() => of('{vdpa: {management: --help}}')).toThrow('host.yaml:2');
});
