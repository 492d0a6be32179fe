/**
 * All ways from one L2 to L0 side by side, so that blocks of packets over them can take turns within a second: a NIC of
 * L0's for each program, each on a bridge of its own, and two taps of L1's on a bridge with L1's own NIC.
 */
import type { CleanupStack } from '../../core/lifecycle.ts';
import type { LocalNic } from '../../guest/nic/nic.ts';
import type { L2Nic } from '../../testbed/l2-spec.ts';
import type { Lab } from '../../lab/lab.ts';
import { runScript } from '../../lab/levels.ts';
import { FIRST_SEAT } from '../../lab/machine.ts';
import { jobSays } from '../../testbed/acceleration.ts';
import { ManagedGuest, ManagedHost } from '../../testbed/managed.ts';
import type { NetVariant } from './schema.ts';

export const NET_PORT = 7000;
export const NET_LOAD = '/payload/l2/programs/net_load';
const TOUCHED_MIB = 16;
const SETTLED_MS = 180_000;
const POLICY = '/run/bench-policy.json';
/** Above all that is possible here: both buckets are looked at, nothing is dropped. */
const MUCH = ['--out-bytes', '10G', '--out-packets', '10M', '--in-bytes', '10G', '--in-packets', '10M'];
const TAPS = [
  { variant: 'nested', ifname: 'lt0', mac: '02:00:00:00:01:00', vhost: false },
  { variant: 'nested-vhost', ifname: 'lt1', mac: '02:00:00:00:01:01', vhost: true },
] as const;
const DIRECT = ['direct', 'pass', 'firewall', 'rate-limiter', 'tcptop'] as const;

/** `here`: L2's end. */
export interface NetWay {
  variant: NetVariant;
  mac: string;
  here: string;
  peer: string;
}

export interface NetLab {
  ways: NetWay[];
  nics: L2Nic[];
  /** For L1 once L2's QEMU runs, which makes the taps. */
  l1SetUp: string;
  /** One line for L2's shell. */
  l2SetUp: string;
}

/** The last rules are the ones that match. */
export function benchPolicy(rules: number): { default: 'deny'; rules: string[] } {
  const filler = Array.from(
    { length: Math.max(0, rules - 2) },
    (_, i) =>
      `deny both ${i % 2 === 0 ? 'tcp' : 'udp'} from 172.16.${i}.0/24 to 198.51.${i}.0/24 port ${i + 1}-${i + 9}`,
  );
  return {
    default: 'deny',
    rules: [...filler, 'allow both udp from any to any', 'allow both tcp from any to any'],
  };
}

/** Network 0 is L1's own, with one subnet for each tap; then there is one for each NIC. */
const NETWORKS = Array.from({ length: DIRECT.length + 1 }, (_, n) => `net${n}`);
const address = (n: number, end: 1 | 2): string => `10.9.${n}.${end}`;

interface SetUp {
  lab: Lab;
  undo: CleanupStack;
  signal: AbortSignal | undefined;
}

export async function setUpNetLab(
  lab: Lab,
  o: { rules: number; undo: CleanupStack; signal?: AbortSignal | undefined },
): Promise<NetLab> {
  const s: SetUp = { lab, undo: o.undo, signal: o.signal };
  await makeNetworks(s);
  await startPeer(s);
  const guest = await startDaemonAndAgent(s);
  await bridgeOwnNic(s, guest);
  const ways: NetWay[] = TAPS.map((t, i) => ({
    variant: t.variant,
    mac: t.mac,
    here: address(100 + i, 2),
    peer: address(100 + i, 1),
  }));
  const nics: L2Nic[] = TAPS.map(({ ifname, mac, vhost }) => ({ kind: 'tap', ifname, mac, vhost }));
  await lab.l1.writeFile(POLICY, JSON.stringify(benchPolicy(o.rules)), { signal: o.signal });
  for (const [i, variant] of DIRECT.entries()) {
    const made = await addNic(s, guest, variant, i + 1, 'vfio-pci');
    ways.push({ variant, mac: made.nic.mac, here: address(i + 1, 2), peer: address(i + 1, 1) });
    nics.push({ kind: 'vfio', address: made.address ?? '' });
    await enableOn(guest, variant, o.signal);
  }
  return { ways, nics, l1SetUp: l1SetUp(), l2SetUp: l2SetUp(ways) };
}

/** A bridge of L0 for each network. */
async function makeNetworks({ lab, signal }: SetUp): Promise<void> {
  const addresses = (n: number): string[] =>
    n === 0 ? TAPS.map((_, i) => address(100 + i, 1)) : [address(n, 1)];
  await runScript(
    lab.l0,
    [
      'set -e; modprobe -a bridge vhost_net; echo 3600000 > /proc/sys/net/ipv4/neigh/default/base_reachable_time_ms',
      ...NETWORKS.flatMap((_, n) => [
        `ip link add hb${n} type bridge mcast_snooping 0; echo 1 > /proc/sys/net/ipv6/conf/hb${n}/disable_ipv6`,
        ...addresses(n).map((a) => `ip address add ${a}/24 dev hb${n}`),
        `ip link set hb${n} up`,
      ]),
    ].join('\n'),
    { signal },
  );
}

async function startPeer({ lab, undo, signal }: SetUp): Promise<void> {
  const peer = await lab.l0.spawn([NET_LOAD, 'serve', String(NET_PORT)], { signal });
  undo.add('peer', async () => {
    await peer.kill('KILL');
    await peer.wait({ timeoutMs: 60_000 });
  });
  await jobSays(peer, /"serving"/, 'net_load in L0', 60_000, signal);
}

async function startDaemonAndAgent({ lab, undo, signal }: SetUp): Promise<ManagedGuest> {
  const networks = NETWORKS.map((name, n) => `  ${name}: {bridge: hb${n}}`);
  const host = new ManagedHost(lab.l0, ['networks:', ...networks]);
  const ports = NETWORKS.map((_, n) => `spare${n}`);
  const more = [
    `nics: {networks: [${NETWORKS.join(', ')}], ports: [${ports.join(', ')}]}`,
    `quotas: {nics: ${NETWORKS.length}}`,
  ];
  await host.setUp(undo, [{ name: 'l1', seat: FIRST_SEAT, arenaMib: 4, more }], signal);
  const guest = new ManagedGuest(lab.l1);
  await guest.setUpAgent(undo, signal);
  await guest.whenSettled(0, SETTLED_MS, signal);
  return guest;
}

async function addNic(
  { signal }: SetUp,
  guest: ManagedGuest,
  id: string,
  network: number,
  driver: 'virtio-net' | 'vfio-pci',
): Promise<LocalNic> {
  const args = ['nic', 'add', id, '--network', NETWORKS[network] ?? '', '--driver', driver, '--json'];
  return JSON.parse(await guest.command(args, signal)) as LocalNic;
}

/** L1's own NIC becomes a port of a bridge, for the taps. */
async function bridgeOwnNic(s: SetUp, guest: ManagedGuest): Promise<void> {
  const { l1 } = s.lab;
  const { signal } = s;
  await runScript(l1, 'modprobe -a virtio_net bridge vhost_net', { signal });
  const own = await addNic(s, guest, 'own', 0, 'virtio-net');
  await runScript(
    l1,
    [
      'set -e; ip link add lb0 type bridge mcast_snooping 0; echo 1 > /proc/sys/net/ipv6/conf/lb0/disable_ipv6',
      `ip link set ${own.interface ?? ''} master lb0; ip link set ${own.interface ?? ''} up; ip link set lb0 up`,
    ].join('\n'),
    { signal },
  );
}

/** The program that a way is named after, on the NIC of the same name. */
async function enableOn(
  guest: ManagedGuest,
  variant: (typeof DIRECT)[number],
  signal: AbortSignal | undefined,
): Promise<void> {
  if (variant === 'direct') return;
  const policy = variant === 'firewall' ? ['--policy', POLICY] : [];
  await guest.command(['enable', variant, '--nic', variant, ...policy], signal);
  if (variant === 'rate-limiter')
    await guest.command(['rate-limit', 'set', '--nic', variant, ...MUCH], signal);
}

function l1SetUp(): string {
  return TAPS.map(({ ifname: t }) => `ip link set ${t} master lb0 && ip link set ${t} up`).join(' && ');
}

function l2SetUp(ways: readonly NetWay[]): string {
  return [
    // each NIC answers for its own address alone; nobody is asked again while packets are measured
    'cd /proc/sys/net/ipv4; echo 1 > conf/all/arp_ignore; echo 2 > conf/all/arp_announce',
    'echo 3600000 > neigh/default/base_reachable_time_ms',
    // memory for packets that was touched before: first touches are not what is measured
    `busybox dd if=/dev/zero of=/tmp/fill bs=1024k count=${TOUCHED_MIB} 2>/dev/null; busybox rm /tmp/fill`,
    `l2-net ${ways.map((w) => `${w.mac} ${w.here}/24`).join(' ')}`,
  ].join('; ');
}
