/** What is said to QEMU when an arena is plugged and unplugged, and what is undone when QEMU refuses. */
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { plugArena, unplugArena } from '../../src/host/arena-plug.ts';
import { fakeQmp } from '../support/fake-qmp.ts';
import type { FakeAnswer, FakeQmp, QmpCall } from '../support/fake-qmp.ts';

let dir: string;
let qmpPath: string;
let qemu: FakeQmp | undefined;
beforeEach(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'ht-plug-'));
  qmpPath = path.join(dir, 'qmp.sock');
});
afterEach(async () => {
  await qemu?.close();
  qemu = undefined;
  rmSync(dir, { recursive: true });
});

const start = async (answer: (call: QmpCall) => FakeAnswer | undefined): Promise<FakeQmp> =>
  (qemu = await fakeQmp(qmpPath, answer));
const plug = (): Promise<void> =>
  plugArena({
    qmpPath,
    devicePath: '/dev/hyperturtle-arena3',
    bytes: 16 << 20,
    bus: 'arena0',
    timeoutMs: 2000,
  });
const unplug = (): Promise<void> => unplugArena({ qmpPath, timeoutMs: 150 });
const names = (q: FakeQmp): string[] => q.calls.map((c) => c.execute);
const deleted = { event: 'DEVICE_DELETED', data: { device: 'hyperturtle-arena', path: '/x' } };
const refuse = (desc: string, errorClass = 'GenericError'): FakeAnswer => ({
  error: { class: errorClass, desc },
});

describe('plugging an arena', () => {
  it('adds the device file as shared memory, then an ivshmem device on the bus', async () => {
    const q = await start(() => undefined);
    await plug();
    expect(q.calls).toEqual([
      {
        execute: 'object-add',
        arguments: {
          'qom-type': 'memory-backend-file',
          id: 'hyperturtle-arena-memory',
          'mem-path': '/dev/hyperturtle-arena3',
          size: 16777216,
          share: true,
        },
      },
      {
        execute: 'device_add',
        arguments: {
          driver: 'ivshmem-plain',
          id: 'hyperturtle-arena',
          memdev: 'hyperturtle-arena-memory',
          bus: 'arena0',
          master: 'off',
        },
      },
    ]);
  });

  it('takes the memory back when QEMU refuses the device, and says why', async () => {
    const q = await start((c) => (c.execute === 'device_add' ? refuse("Bus 'arena0' not found") : undefined));
    await expect(plug()).rejects.toThrow(/Bus 'arena0' not found/);
    expect(names(q)).toEqual(['object-add', 'device_add', 'object-del']);
  });

  it('first removes an arena that a dead process left behind', async () => {
    let stale = true;
    const q = await start((c) => {
      if (c.execute === 'object-add' && stale)
        return refuse("attempt to add duplicate property 'hyperturtle-arena-memory' to object");
      if (c.execute === 'object-del') stale = false;
      return c.execute === 'device_del' ? { events: [deleted] } : undefined;
    });
    await plug();
    expect(names(q)).toEqual(['object-add', 'device_del', 'object-del', 'object-add', 'device_add']);
  });

  it('says why when QEMU refuses the memory, and touches nothing', async () => {
    const q = await start(() => refuse("can't open backing store /dev/hyperturtle-arena3 for guest RAM"));
    await expect(plug()).rejects.toThrow(/can't open backing store/);
    expect(names(q)).toEqual(['object-add']);
  });
});

describe('unplugging an arena', () => {
  it('waits for the guest to let the device go, and for QEMU to let the memory go', async () => {
    let busy = 2;
    const q = await start((c) => {
      if (c.execute === 'device_del') return { events: [deleted] };
      return busy-- > 0
        ? refuse("object 'hyperturtle-arena-memory' is in use, can not be deleted")
        : undefined;
    });
    await unplug();
    expect(names(q)).toEqual(['device_del', 'object-del', 'object-del', 'object-del']);
  });

  it('tells when the guest does not let it go', async () => {
    await start(() => undefined);
    await expect(unplug()).rejects.toMatchObject({ code: 'HT_TIMEOUT' });
  });

  it('is not misled by another device that goes at the same time', async () => {
    await start((c) =>
      c.execute === 'device_del'
        ? { events: [{ event: 'DEVICE_DELETED', data: { device: 'nic0' } }] }
        : undefined,
    );
    await expect(unplug()).rejects.toMatchObject({ code: 'HT_TIMEOUT' });
  });

  it('has nothing to do when the VM has neither any more', async () => {
    const q = await start((c) =>
      c.execute === 'device_del'
        ? refuse("Device 'hyperturtle-arena' not found", 'DeviceNotFound')
        : refuse("object 'hyperturtle-arena-memory' not found"),
    );
    await unplug();
    expect(names(q)).toEqual(['device_del', 'object-del']);
  });
});
