/**
 * A NIC that L0 gives to a running L1, and L1's programs on it in L0: real kernels, real QEMU, real frames. The kernel
 * logs of both must stay clean.
 */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ManagedGuest, ManagedHost } from '../../src/testbed/managed.ts';
import { CleanupStack } from '../../src/core/lifecycle.ts';
import type { LocalNic } from '../../src/guest/nic/nic.ts';
import { runScript } from '../../src/lab/levels.ts';
import { FIRST_SEAT } from '../../src/lab/machine.ts';
import { useLab } from '../support/lab.ts';

const lab = useLab();
const undo = new CleanupStack();
const VMS = [
  { name: 'l1', seat: FIRST_SEAT, arenaMib: 4, more: ['nics: {networks: [lan], ports: [spare0, spare1]}'] },
];
let host: ManagedHost;
let guest: ManagedGuest;

beforeAll(async () => {
  const { l0, l1 } = lab();
  await runScript(
    l0,
    'modprobe bridge && ip link add br0 type bridge && ip address add 10.9.0.1/24 dev br0 && ip link set br0 up',
  );
  undo.add('bridge', async () => void (await runScript(l0, 'ip link del br0')));
  host = new ManagedHost(l0, ['networks:', '  lan: {bridge: br0}']);
  await host.setUp(undo, VMS);
  guest = new ManagedGuest(l1);
  await guest.setUpAgent(undo);
});
afterAll(async () => {
  await undo.run();
});

const taps = (): Promise<string> => runScript(lab().l0, 'ls /sys/class/net/br0/brif');
const pings = async (): Promise<boolean> => {
  const text = await runScript(lab().l1, 'ping -c 3 -W 2 10.9.0.1 || true', { timeoutMs: 60_000 });
  return /[1-3] packets received/.test(text);
};

it('a NIC comes while L1 runs, its frames obey rules that L1 changes, also with the next daemon after one was killed, and it goes', async () => {
  const { l1, l0 } = lab();
  await runScript(l1, 'modprobe virtio_net');
  const made = JSON.parse(
    await guest.command(['nic', 'add', 'web', '--driver', 'virtio-net', '--json']),
  ) as LocalNic;
  const ifname = made.interface ?? '';
  expect(await taps()).toMatch(/^htn0/);
  await runScript(l1, `ip address add 10.9.0.2/24 dev ${ifname} && ip link set ${ifname} up`);
  expect(await pings()).toBe(true);

  await guest.command(['enable', 'packet-counter', '--nic', 'web', '--order', '10']);
  await guest.command(['enable', 'firewall', '--nic', 'web']);
  expect(await pings()).toBe(true);
  await guest.command(['firewall', 'add', '--nic', 'web', '--at', '1', 'deny in icmp from 10.9.0.1']);
  expect(await pings()).toBe(false);

  // what it had attached acts on without it, by filters of clsact on 6.1, and is taken over by the next one, with its rules
  await host.end('KILL');
  expect(await pings()).toBe(false);
  await host.start(VMS);
  await guest.whenSettled(0, 120_000);
  expect(await pings()).toBe(false);
  await guest.command(['firewall', 'del', '--nic', 'web', '1']);
  expect(await pings()).toBe(true);
  await guest.command(['disable', 'firewall', '--nic', 'web']);
  expect(await runScript(l0, 'cat /sys/class/net/br0/brif/*/../operstate || true')).not.toContain('down');

  // what is wanted of a NIC that goes is said, and ended by force
  expect(await guest.command(['nic', 'del', 'web'])).toMatch(
    /still wanted[^]*give that up: hyperturtle disable packet-counter --nic web\n/,
  );
  expect(await guest.command(['nic', 'del', 'web', '--force'])).toMatch(
    /not wanted any more: packet-counter/,
  );
  await guest.whenSettled(0, 60_000);
  expect((await taps()).trim()).toBe('');
  expect(await runScript(l1, `ls /sys/class/net`)).not.toContain(ifname);
});
