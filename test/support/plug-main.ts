/**
 * What a daemon does to a QEMU, for as long as it lives: `node plug-main.js QMP DIRECTORY BRIDGE PID`. It takes up what an
 * earlier one left, then plugs and unplugs arena, port and NICs by turns, until it is killed. Waits for a line on its
 * input: `go` begins, `end` takes all away and ends. BRIDGE `-`: no NICs.
 */
import { createInterface } from 'node:readline';
import path from 'node:path';
import { findArena, plugArenaOver, unplugArenaOver } from '../../src/host/arena-plug.ts';
import { plugPort, unplugPort } from '../../src/host/vm/qemu-side.ts';
import { VmNics } from '../../src/host/nics/nics.ts';
import { QmpClient } from '../../src/qmp/client.ts';

const [qmpPath = '', dir = '', bridge = '-', pid = '0'] = process.argv.slice(2);
const never = new AbortController().signal;
const link = path.join(dir, 'arena');
const UNPLUG_MS = 20_000;

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
process.stdout.write('ready\n');
const order = await lines.next();

const qmp = await QmpClient.connect(qmpPath, { timeoutMs: 20_000 });
const nics = new VmNics({
  vm: 'one',
  run: dir,
  process: { pid: Number(pid), startTicks: 1 },
  settings: () => ({
    networks: bridge === '-' ? {} : { lan: { bridge, vhost: false } },
    ports: ['p0', 'p1'],
    max: 2,
    hooks: undefined,
  }),
  qmp: () => qmp,
  onAdded: () => {},
  onGoing: () => {},
  log: { info: () => {}, warn: (fields) => process.stderr.write(`${JSON.stringify(fields)}\n`) },
  unplugMs: UNPLUG_MS,
});
nics.boot('0d9c3a52-6e0b-4f0e-8d0f-4d1f6a2b7c33');

const plug = (): Promise<void> =>
  plugArenaOver(qmp, { devicePath: link, bytes: 1 << 20, bus: 'arena0', timeoutMs: UNPLUG_MS });
const port = { socketPath: path.join(dir, 'agent.sock'), bus: 'serial.0' };

if (order.value === 'end') {
  await nics.recover();
  await nics.clear('the end');
  await unplugPort(qmp);
  await unplugArenaOver(qmp, UNPLUG_MS);
} else {
  // as ManagedVm.#settle does, and what its turns of NICs do meanwhile
  const found = await findArena(qmp, link);
  await Promise.all([
    nics.recover(),
    (async () => {
      await plugPort(qmp, port);
      // at times what is there is not the map that is offered now
      if (!found || Math.random() < 0.5) await plug();
    })(),
  ]);
  for (let n = 0; ; n++) {
    await Promise.all([bridge === '-' ? undefined : turnOfNics(n), turnOfArena(n)]);
    process.stdout.write(`turn ${n}\n`);
  }
}
qmp.close();
process.exit(0);

async function turnOfNics(n: number): Promise<void> {
  // an earlier one may have left as many as there can be
  if (nics.count === 2) await nics.del(nics.devices()[0]?.info.id ?? '');
  const { nic } = await nics.add({ id: `n${n % 2}` }, never);
  await nics.add({}, never).catch(() => {});
  await nics.del(nic.id);
}

async function turnOfArena(n: number): Promise<void> {
  if (n % 3 === 2) {
    await unplugPort(qmp);
    await plugPort(qmp, port);
  }
  if (n % 2) await unplugArenaOver(qmp, UNPLUG_MS);
  await plug();
}
