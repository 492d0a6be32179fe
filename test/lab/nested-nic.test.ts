/**
 * A NIC of L0 in an L2, handed on by VFIO: its packets never pass L1, and L1's programs act on them in L0. The L2's RAM
 * is on turtlefs, all of it pinned by VFIO, and must come back. Kernel logs of L0 and L1 must stay clean.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { guestStatus, jobSays } from '../../src/testbed/acceleration.ts';
import { withL2 } from '../../src/testbed/l2-session.ts';
import type { L2Session, L2SessionSpec } from '../../src/testbed/l2-session.ts';
import { ManagedGuest, ManagedHost } from '../../src/testbed/managed.ts';
import { NET_LOAD } from '../../src/bench/net/lab.ts';
import { L2_TICK_ARGUMENTS } from '../../src/testbed/l2-spec.ts';
import { CleanupStack } from '../../src/core/lifecycle.ts';
import { waitFor } from '../../src/core/wait.ts';
import { framesOut } from '../../src/kernel/guest.ts';
import type { LocalNic } from '../../src/guest/nic/nic.ts';
import { kernelTroubles } from '../../src/lab/kernel-log.ts';
import { runScript } from '../../src/lab/levels.ts';
import { FIRST_SEAT } from '../../src/lab/machine.ts';
import { useLab } from '../support/lab.ts';

const lab = useLab();
const undo = new CleanupStack();
const L2_MIB = 96;
let guest: ManagedGuest;

beforeAll(async () => {
  const { l0, l1 } = lab();
  await runScript(
    l0,
    'modprobe bridge && ip link add br0 type bridge && ip address add 10.9.0.1/24 dev br0 && ip link set br0 up',
  );
  undo.add('bridge', async () => void (await runScript(l0, 'ip link del br0')));
  const host = new ManagedHost(l0, ['networks:', '  lan: {bridge: br0}']);
  await host.setUp(undo, [
    { name: 'l1', seat: FIRST_SEAT, arenaMib: 4, more: ['nics: {networks: [lan], ports: [spare0, spare1]}'] },
  ]);
  guest = new ManagedGuest(l1);
  await guest.setUp(undo);
  await guest.whenSettled(0, 120_000);
});
afterAll(() => undo.run());

const json = async <T>(...args: string[]): Promise<T> =>
  JSON.parse(await guest.command([...args, '--json'])) as T;

describe('an L2 with a NIC of the host', () => {
  it('talks to the host past L1, obeys what L1 has linked in L0, and gives all its pinned memory back', async () => {
    const { l0, l1 } = lab();
    const before = await guestStatus(l1);
    const made = await json<LocalNic>('nic', 'add', 'web');
    expect(made).toMatchObject({
      driver: 'vfio-pci',
      vfio: expect.stringMatching(/^\/dev\/vfio\/\d+$/) as string,
    });
    const mac = made.nic.mac;
    // L1 has the device, and no network device of it
    expect((await runScript(l1, 'ls /sys/class/net')).trim()).toBe('lo');

    const session: L2SessionSpec = {
      ...{ name: 'nic', ram: 'turtlefs', memMib: L2_MIB, machine: 'pc', port: 0, registeredBy: 'agent' },
      append: `console=ttyS0 ${L2_TICK_ARGUMENTS}`,
      nics: [{ kind: 'vfio', address: made.address! }],
    };
    await withL2(lab(), session, async ({ shell }: L2Session) => {
      const ok = (command: string): Promise<string[]> => shell.runOk(command, { timeoutMs: 60_000 });
      const pings = async (): Promise<number> => {
        const { lines } = await shell.run('ping -c 2 -W 2 10.9.0.1', { timeoutMs: 60_000 });
        return Number(/(\d) packets received/.exec(lines.join('\n'))?.[1] ?? NaN);
      };
      await ok(`l2-net ${mac} 10.9.0.2/24`);
      expect(await pings()).toBe(2);
      expect(await runScript(l0, 'cat /proc/net/arp')).toMatch(new RegExp(`10\\.9\\.0\\.2 .*${mac}`));
      // VFIO has taken every page of it
      expect(framesOut(await guestStatus(l1)) - framesOut(before)).toBeGreaterThanOrEqual(
        (L2_MIB << 20) >> 12,
      );

      await guest.command(['enable', 'packet-counter', '--nic', 'web', '--order', '10']);
      expect(await pings()).toBe(2);
      const counted = await json<{ out: { packets: number }; in: { packets: number } }>(
        'packet-counter',
        '--nic',
        'web',
      );
      expect(counted.out.packets).toBeGreaterThanOrEqual(2);
      expect(counted.in.packets).toBeGreaterThanOrEqual(2);

      await guest.command(['enable', 'firewall', '--nic', 'web', '--order', '20']);
      expect(await pings()).toBe(2);
      await guest.command(['firewall', 'add', '--nic', 'web', '--at', '1', 'deny out icmp to 10.9.0.1']);
      expect(await pings()).toBe(0);
      await guest.command(['firewall', 'del', '--nic', 'web', '1']);
      expect(await pings()).toBe(2);

      await guest.command(['enable', 'rate-limiter', '--nic', 'web', '--order', '30']);
      await guest.command(['enable', 'tcptop', '--nic', 'web', '--order', '40']);
      await guest.command('rate-limit set --nic web --out-packets 1 --out-packets-burst 2'.split(' '));
      // of datagrams that follow one another sooner, L1 has L0 drop what is more than that
      const peer = await l0.spawn([NET_LOAD, 'serve', '7000']);
      try {
        await jobSays(peer, /serving/, 'net_load in L0', 60_000, undefined);
        const [line = ''] = await ok('net_load --timeout-ms 400 rtt 10.9.0.1 7000 8');
        const { count, lost } = JSON.parse(line) as { count: number; lost: number };
        expect(count).toBeGreaterThan(0);
        expect(lost).toBeGreaterThan(0);
        const rate = await json<{ counts: { out: { droppedPackets: number } } }>(
          'rate-limit',
          'show',
          '--nic',
          'web',
        );
        expect(rate.counts.out.droppedPackets).toBeGreaterThan(0);
      } finally {
        await peer.kill('KILL');
        await peer.wait({ timeoutMs: 60_000 });
      }
      const flows = await guest.command(['tcptop', '--nic', 'web', '--count', '1', '--json']);
      expect(flows).toContain('10.9.0.2');
      // through all this L1 itself saw no packet
      expect((await runScript(l1, "sed '1,2d; /^ *lo:/d' /proc/net/dev")).trim()).toBe('');
      expect(kernelTroubles((await ok('dmesg')).join('\n'))).toEqual([]);
    });

    // only the pool's frames are left, as before
    await waitFor(
      'frames of the L2',
      async () => (framesOut(await guestStatus(l1)) <= framesOut(before) ? true : undefined),
      {
        timeoutMs: 30_000,
        intervalMs: 500,
      },
    );
    expect(await guestStatus(l1)).toMatchObject({ l2_count: 0, index_used: before.index_used });
    // with what is linked to it
    await guest.command(['nic', 'del', 'web']);
    expect((await json<{ links: { hook: string }[] }>('list')).links.map((l) => l.hook)).toEqual(['npf']);
    expect((await runScript(l0, 'ls /sys/class/net/br0/brif')).trim()).toBe('');
  });
});
