/** What is said to QEMU when an arena or a port is plugged and unplugged, and what is undone when QEMU refuses. */
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { findArena, plugArena, unplugArena } from '../../../src/host/arena-plug.ts';
import { plugPort, unplugPort } from '../../../src/host/vm/qemu-side.ts';
import { QmpClient } from '../../../src/qmp/client.ts';
import { PORT_NAME } from '../../../src/wire/schema.ts';
import { fakeQmp } from '../../support/fake-qmp.ts';
import type { FakeQmp } from '../../support/fake-qmp.ts';
import { QemuModel, refuse } from '../../support/qemu-model.ts';

let dir: string;
let qmpPath: string;
let model: QemuModel;
let qemu: FakeQmp;
beforeEach(async () => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'ht-plug-'));
  qmpPath = path.join(dir, 'qmp.sock');
  model = new QemuModel();
  qemu = await fakeQmp(qmpPath, model.answer);
});
afterEach(async () => {
  expect(model.aborted).toBeUndefined();
  await qemu.close();
  rmSync(dir, { recursive: true });
});

const DEVICE = '/dev/hyperturtle-arena3';
const plug = (signal?: AbortSignal): Promise<void> =>
  plugArena({ qmpPath, devicePath: DEVICE, bytes: 16 << 20, bus: 'arena0', timeoutMs: 2000, signal });
const unplug = (timeoutMs = 8000): Promise<void> => unplugArena({ qmpPath, timeoutMs });
/** For a wait that is to end without success. */
const SHORT_MS = 300;
const changes = (): string[] =>
  qemu.calls.map((c) => c.execute).filter((c) => !c.startsWith('qom-') && c !== 'query-chardev');
const nothingLeft = (): void =>
  expect([model.objects.size, model.devices.size, model.chardevs.size]).toEqual([0, 0, 0]);

/** What an older version called its own. */
const old = (): void => {
  model.objects.set('hyperturtle-arena-memory', {
    type: 'memory-backend-file',
    properties: { 'mem-path': DEVICE },
  });
  model.devices.set('hyperturtle-arena', {
    type: 'ivshmem-plain',
    properties: { memdev: '/objects/hyperturtle-arena-memory' },
  });
};

describe('plugging an arena', () => {
  it('adds the device file as shared memory, then an ivshmem device on the bus', async () => {
    await plug();
    const [memory, device] = qemu.calls.filter((c) => /add$/.test(c.execute));
    expect(memory?.arguments).toMatchObject({
      'qom-type': 'memory-backend-file',
      id: expect.stringMatching(/^hyperturtle-arena-memory-[0-9a-f]{16}$/) as string,
      'mem-path': DEVICE,
      size: 16777216,
      share: true,
    });
    expect(device?.arguments).toMatchObject({
      driver: 'ivshmem-plain',
      id: expect.stringMatching(/^hyperturtle-arena-[0-9a-f]{16}$/) as string,
      memdev: memory?.arguments['id'],
      bus: 'arena0',
      master: 'off',
    });
  });

  it('never uses an id of a QEMU again', async () => {
    for (let n = 0; n < 3; n++) await plug();
    await unplug();
    nothingLeft();
    const ids = qemu.calls.filter((c) => /add$/.test(c.execute)).map((c) => c.arguments['id']);
    expect(new Set(ids).size).toBe(6);
  });

  it('takes the memory back when QEMU refuses the device, and says why', async () => {
    model.over = (c) => (c.execute === 'device_add' ? refuse("Bus 'arena0' not found") : undefined);
    await expect(plug()).rejects.toThrow(/Bus 'arena0' not found/);
    expect(changes()).toEqual(['object-add', 'device_add', 'object-del']);
    nothingLeft();
  });

  it('takes the device back that QEMU made while nobody waited for it any more', async () => {
    const stop = new AbortController();
    model.over = (c) => {
      if (c.execute === 'device_add') stop.abort(new Error('stopped'));
      return undefined;
    };
    await expect(plug(stop.signal)).rejects.toThrow('stopped');
    nothingLeft();
  });

  it.each(['with its device', 'without its device'])(
    'first removes an arena that a dead process of an older version left behind, %s',
    async (how) => {
      old();
      if (how === 'without its device') model.devices.clear();
      await plug();
      expect(changes().slice(-3)).toEqual(['object-del', 'object-add', 'device_add']);
      expect(model.objects.has('hyperturtle-arena-memory')).toBe(false);
    },
  );

  it('says why when QEMU refuses the memory, and leaves nothing', async () => {
    model.over = (c) => (c.execute === 'object-add' ? refuse("can't open backing store") : undefined);
    await expect(plug()).rejects.toThrow(/can't open backing store/);
    nothingLeft();
  });

  it('leaves alone what the command line has', async () => {
    model.objects.set('hyperturtle-memory', {
      type: 'memory-backend-file',
      properties: { 'mem-path': '/x' },
    });
    model.devices.set('hyperturtle-arena', {
      type: 'ivshmem-plain',
      properties: { memdev: '/objects/hyperturtle-memory' },
    });
    await plug();
    await unplug();
    expect([...model.devices.keys()]).toEqual(['hyperturtle-arena']);
    expect([...model.objects.keys()]).toEqual(['hyperturtle-memory']);
  });
});

describe('unplugging an arena', () => {
  it('waits for the guest to let the device go, and for QEMU to let the memory go', async () => {
    old();
    model.busy = 2;
    await unplug();
    expect(changes()).toEqual(['device_del', 'object-del', 'object-del', 'object-del']);
  });

  it('tells when the guest does not let it go', async () => {
    old();
    model.letsGo = false;
    await expect(unplug(SHORT_MS)).rejects.toMatchObject({ code: 'HT_TIMEOUT' });
  });

  it('is not misled by another device that goes at the same time', async () => {
    old();
    model.over = (c) =>
      c.execute === 'device_del'
        ? { events: [{ event: 'DEVICE_DELETED', data: { device: 'nic0' } }] }
        : undefined;
    await expect(unplug(SHORT_MS)).rejects.toMatchObject({ code: 'HT_TIMEOUT' });
  });

  it.each(['Device x is already in the process of unplug', 'Hot-unplug failed: guest is busy'])(
    'waits when a process that died has just asked for it: %s',
    async (refusal) => {
      old();
      let refusals = 1;
      model.over = (c) => {
        if (c.execute !== 'device_del' || refusals-- <= 0) return undefined;
        setTimeout(() => {
          model.devices.clear();
          qemu.emit('DEVICE_DELETED', { device: 'hyperturtle-arena' });
        }, 30);
        return refuse(refusal);
      };
      await unplug();
      nothingLeft();
    },
  );

  it('has nothing to do when the VM has neither any more', async () => {
    await unplug();
    expect(changes()).toEqual([]);
  });
});

describe('the arena in QEMU', () => {
  const find = async (link: string): ReturnType<typeof findArena> => {
    using client = await QmpClient.connect(qmpPath);
    return await findArena(client, link);
  };
  const memory = (id: string, file: string): unknown =>
    model.objects.set(id, { type: 'memory-backend-file', properties: { 'mem-path': file } });

  it('is found by its link, and known to be from the command line', async () => {
    memory('ram', '/dev/shm/ram');
    memory('mine', '/run/hyperturtle/vms/one/arena');
    expect(await find('/run/hyperturtle/vms/one/arena')).toEqual({ memory: 'mine', hotPlugged: false });
  });

  it('is found when a daemon has plugged it, and not for what is left of an earlier one', async () => {
    await plug();
    memory('hyperturtle-arena-memory-0123', DEVICE);
    expect(await find('/x')).toEqual({
      memory: [...model.objects.keys()][0],
      device: [...model.devices.keys()][0],
      hotPlugged: true,
    });
  });

  it('is not taken for another memory', async () => {
    memory('ram', '/dev/shm/a');
    memory('mine', '/b');
    expect(await find('/x')).toBeUndefined();
  });
});

describe('plugging the port', () => {
  const withClient = async (work: (qmp: QmpClient) => Promise<void>): Promise<void> => {
    using client = await QmpClient.connect(qmpPath);
    await work(client);
  };
  const plugIt = (): Promise<void> => withClient((q) => plugPort(q, { socketPath: '/run/a.sock' }));

  it('leaves what a daemon before has plugged', async () => {
    await plugIt();
    await plugIt();
    expect(changes()).toEqual(['chardev-add', 'device_add']);
    expect([...model.devices.values()][0]?.properties).toMatchObject({ name: PORT_NAME });
    await withClient(unplugPort);
    nothingLeft();
  });

  it('first removes what a daemon that died left half made', async () => {
    model.chardevs.set('hyperturtle-agent', 'disconnected:unix:/run/a.sock,server=on');
    model.chardevs.set('another', '');
    await plugIt();
    expect(changes()).toEqual(['chardev-remove', 'chardev-add', 'device_add']);
    expect(model.chardevs.has('another')).toBe(true);
  });

  it('says why when there is no controller for it, and leaves no socket', async () => {
    model.over = (c) => (c.execute === 'device_add' ? refuse("No 'virtio-serial-bus' bus found") : undefined);
    await expect(plugIt()).rejects.toThrow(/virtio-serial-bus/);
    nothingLeft();
  });
});
