/**
 * Memory that is plugged into a running L2 and taken out again, by stock QEMU and a stock Linux: DIMMs, whose slots come and
 * go, and virtio-mem, whose one slot has its pages taken away. HT_PLUG_CHANGES says how many changes (8, in a soak 60).
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { Acceleration, whenLargePoolFull } from '../../src/testbed/acceleration.ts';
import { withL2 } from '../../src/testbed/l2-session.ts';
import { VIRTIO_MEM_ID, l2Files } from '../../src/testbed/l2-spec.ts';
import { ARENA_MIB } from '../../src/cli/bench/command.ts';
import { run } from '../../src/lab/levels.ts';
import { allFramesBack } from '../support/cgroup.ts';
import { TEST_KERNEL, useLab } from '../support/lab.ts';
import { walkNestedTables } from '../support/nested-tables.ts';
import { soakCount } from '../support/scale.ts';

const CHANGES = soakCount(process.env['HT_PLUG_CHANGES'], 8, 60);
const NAME = 'plugged';
const PLUG_MIB = 128;
const CHANGE_MS = 120_000;
const FRAMES = 24;
/** In L2: Linux gives a process movable memory first, and all that is plugged is. After each run it asks whether to go on. */
const WORK =
  'while pattern own 32 --rounds 2; do echo again; read -r answer; [ "$answer" = stop ] && exit 0; done; exit 1';

const lab = useLab({ kernel: TEST_KERNEL });

const changesSchema = z.object({
  /** Changes that Linux made, and those that it did not make within their time. */
  done: z.number(),
  late: z.array(z.string()),
  /** Guest addresses below which and from which on nothing is plugged. */
  from: z.number(),
  to: z.number(),
});

interface Run {
  mismatches: number;
  zeroed: number;
}

const SPEC = {
  ...({ name: NAME, ram: 'turtlefs' } as const),
  ...{ memMib: 192, plugMib: PLUG_MIB, machine: 'pc', port: 0 },
  append: 'memhp_default_state=online_movable',
} as const;

describe.each([
  { largeFrames: 0, what: '4 KiB pages' },
  { largeFrames: FRAMES, what: '2 MiB pages' },
])('memory of $what that is plugged into an L2 at work and taken out again', ({ largeFrames }) => {
  let acceleration: Acceleration;
  beforeAll(async () => {
    acceleration = await Acceleration.on(lab(), { arenaMib: ARENA_MIB, largeFrames });
    if (largeFrames > 0) await whenLargePoolFull(lab().l1, largeFrames);
  });
  afterAll(() => acceleration?.off());

  it(`changes ${CHANGES} times: no page of L2 is another, no entry of its table stays, all frames come back`, async () => {
    await withL2(lab(), SPEC, async ({ shell, status }) => {
      await shell.runOk('insmod /modules/virtio_mem.ko', { timeoutMs: 60_000 });
      const before = await status();
      await lab().l1.writeFile('/run/plug.mjs', PLUG);
      const plug = ['node', '/run/plug.mjs', l2Files(NAME).monitorSocket, String(CHANGES)];
      let over = false;
      const changing = run(lab().l1, plug, { timeoutMs: CHANGES * CHANGE_MS }).finally(() => (over = true));
      const onLine = (line: string): string | undefined => {
        if (line !== 'again') return undefined;
        return over ? 'stop' : 'go on';
      };
      const [said, work] = await Promise.all([changing, shell.runOk(WORK, { timeoutMs: CHANGE_MS, onLine })]);
      const changes = changesSchema.parse(JSON.parse(said));
      const runs = work.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as Run);
      const after = await status();
      const tables = await walkNestedTables(lab(), { number: after.number, ...changes });
      process.stdout.write(`  ${JSON.stringify({ changes, runs: runs.length, tables, after })}\n`);
      expect(changes.late).toEqual([]);
      expect(changes.done).toBeGreaterThanOrEqual(CHANGES);
      expect(runs.length).toBeGreaterThan(0);
      for (const r of runs) expect(r).toMatchObject({ mismatches: 0, zeroed: 0 });
      expect(tables).toMatchObject({ within: [], wrong: [] });
      expect(tables.leaves).toBeGreaterThan(0);
      expect(after).toMatchObject({ state: 1, dead: 0 });
      expect(after.slot_changes).toBeGreaterThan(before.slot_changes);
      // programs gave memory meanwhile, more than 32 MiB could take: what was plugged too
      expect(after.frames_taken - before.frames_taken).toBeGreaterThan((32 << 20) / 4096);
    });
    await allFramesBack(lab().l1);
  });
});

/** In L1: changes what is plugged, in turn by a virtio-mem device and by a DIMM; all of it is out at the end. */
const PLUG = `
import { QmpClient } from '/payload/app/dist/src/qmp/client.js';
const [monitor, changes] = process.argv.slice(2);
const MIB = 1 << 20;
const pause = (ms) => new Promise((f) => setTimeout(f, ms));
const qmp = await QmpClient.connect(monitor, { timeoutMs: 30000 });
const late = [];
let done = 0, from = Infinity, to = 0;
const devices = async () => (await qmp.execute('query-memory-devices')).map((d) => d.data);
async function until(what, ask, again = async () => {}) {
  const end = performance.now() + ${CHANGE_MS - 20_000};
  for (let n = 0; performance.now() < end; n++) {
    if (await ask()) return void done++;
    if (n % 25 === 24) await again();
    await pause(200);
  }
  late.push(what + ': ' + JSON.stringify(await devices()));
}
async function size(mib) {
  await qmp.execute('qom-set', { path: '/machine/peripheral/${VIRTIO_MEM_ID}', property: 'requested-size', value: mib * MIB });
  await until('size ' + mib, async () => (await devices()).find((d) => d.id === '${VIRTIO_MEM_ID}').size === mib * MIB);
}
async function dimm() {
  const backend = { 'qom-type': 'memory-backend-file', id: 'dimm', size: ${PLUG_MIB} * MIB, share: true, align: 2 * MIB, 'mem-path': '/run/hyperturtle/ram' };
  await qmp.execute('object-add', backend);
  await qmp.execute('device_add', { driver: 'pc-dimm', id: 'dimm0', memdev: 'dimm' });
  await pause(3000);
  const there = (await devices()).find((d) => d.id === 'dimm0');
  to = Math.max(to, there.addr + there.size);
  const out = () => qmp.execute('device_del', { id: 'dimm0' }).catch(() => {});
  await out();
  await until('dimm', async () => !(await devices()).some((d) => d.id === 'dimm0'), out);
  await qmp.execute('object-del', { id: 'dimm' });
}
const vmem = (await devices()).find((d) => d.id === '${VIRTIO_MEM_ID}');
from = vmem.memaddr;
to = from + ${PLUG_MIB} * MIB;
for (let i = 0; done + late.length < Number(changes); i++) {
  if (i % 3 === 2) await dimm();
  else { await size([128, 64, 32, 96][i % 4]); await size([0, 16][i % 2]); }
}
qmp.close();
console.log(JSON.stringify({ done, late, from, to }));
`;
