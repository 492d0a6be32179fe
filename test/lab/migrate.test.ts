/**
 * L1 goes to another QEMU and comes back while its nested guests run, write and check their memory. No page of them changes, and
 * their faults are answered in L0 again at the other end, by nobody's hand.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CleanupStack } from '../../src/core/lifecycle.ts';
import { waitFor } from '../../src/core/wait.ts';
import { TURTLEFS_DIR } from '../../src/guest/vmm/arguments.ts';
import { runScript } from '../../src/lab/levels.ts';
import { FIRST_SEAT, SECOND_SEAT } from '../../src/lab/machine.ts';
import { guestStatus } from '../../src/testbed/acceleration.ts';
import { HOST_METRICS_PORT, ManagedGuest, ManagedHost } from '../../src/testbed/managed.ts';
import { MovingL1 } from '../../src/testbed/moving-l1.ts';
import { useLab } from '../support/lab.ts';

const lab = useLab({ l1MemoryMib: 1024, secondL1MemoryMib: 768 });
const SETTLED_MS = 120_000;
const ROUNDS = Number(process.env['HT_MIGRATIONS'] ?? 1);
const GUESTS = 2;
/** Pages that are checked and written again and again, and those that are new in each turn. */
const [SHARED, NEW, TURNS] = [4096, 64, 600];
const PAGES = SHARED + NEW * TURNS;
/** Under emulation L2s write faster than QEMU sends: it may stop them for that long. */
const MORE = ['--downtime-ms', '8000', '--guest-timeout-s', '120', '--timeout-s', '300'];
const VMS = [
  { name: 'here', seat: FIRST_SEAT, arenaMib: 16 },
  { name: 'there', seat: SECOND_SEAT, arenaMib: 16 },
];

/** What the guests found so far: steps done, pages that were not as they had left them. */
interface Found {
  steps: number;
  mismatches: number;
  running: number;
}

describe('an L1 that is moved while its nested guests run', () => {
  const undo = new CleanupStack();
  let host: ManagedHost;
  let guest: ManagedGuest;
  let moving: MovingL1;

  const log = (n: number): string => `/run/moving-${n}.log`;
  const found = async (): Promise<Found> => {
    const text = await runScript(
      moving.l1,
      `cat ${Array.from({ length: GUESTS }, (_, n) => log(n)).join(' ')} | awk -F'"mismatches":' 'NF > 1 { s++; m += $2 } END { print s + 0, m + 0 }'; ls -d /proc/[0-9]* | while read p; do readlink $p/exe; done 2>/dev/null | grep -c tiny_vmm; :`,
    );
    const [steps = 0, mismatches = 0, running = 0] = text.trim().split(/\s+/).map(Number);
    return { steps, mismatches, running };
  };
  const goingOn = async (from: Found): Promise<Found> =>
    waitFor(
      'steps of the guests',
      async () => {
        const now = await found();
        return now.steps >= from.steps + 4 ? now : undefined;
      },
      { timeoutMs: 120_000, intervalMs: 1000 },
    );

  beforeAll(async () => {
    const { l0, l1 } = lab();
    host = new ManagedHost(l0);
    guest = new ManagedGuest(l1);
    await host.setUp(undo, VMS);
    await guest.setUp(undo);
    await guest.whenSettled(0, SETTLED_MS);
    moving = await MovingL1.begin(lab(), HOST_METRICS_PORT);
    for (let n = 0; n < GUESTS; n++) {
      const ram = `${TURTLEFS_DIR}/moving${n}.ram`;
      await l1.writeFile(
        `/run/moving-${n}.sh`,
        `/payload/l2/programs/tiny_vmm ${ram} ${PAGES} $(i=0; while [ $i -lt ${TURNS} ]; do echo share:0:${SHARED}:1:1000 touch:$((${SHARED} + ${NEW} * i)):${NEW}; i=$((i + 1)); done) > ${log(n)} 2>&1 &
pid=$!
until grep -q ready ${log(n)}; do sleep 0.2; done
while kill -USR1 $pid 2>/dev/null; do sleep 0.1; done
`,
      );
      const job = await l1.spawn(['sh', `/run/moving-${n}.sh`]);
      undo.add('guest', async () => {
        await job.kill('KILL');
        await runScript(l1, `rm -f ${ram}`);
      });
    }
    await guest.whenSettled(GUESTS, SETTLED_MS);
  });
  afterAll(() => undo.run());

  it(`goes there and back ${ROUNDS} times: no page changes, and it is accelerated within seconds`, async () => {
    let before = await goingOn({ steps: 0, mismatches: 0, running: 0 });
    expect(before.running).toBe(GUESTS);
    for (let round = 0; round < 2 * ROUNDS; round++) {
      const moved = await moving.migrate(MORE);
      process.stdout.write(`  ${JSON.stringify({ round, at: moving.at, ...moved })}\n`);
      const after = await goingOn(await found());
      const status = await guestStatus(moving.l1);
      process.stdout.write(`  ${JSON.stringify({ round, ...after })}\n`);
      expect(after).toMatchObject({ mismatches: 0, running: GUESTS });
      expect(after.steps).toBeGreaterThan(before.steps);
      expect(status).toMatchObject({ arena_bound: 1, l2_count: GUESTS });
      expect(moved.acceleratedMs).not.toBeNull();
      before = after;
    }
    expect(moving.at).toBe('here');
  });
});
