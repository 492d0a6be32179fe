/** What is asked of QEMU to make a VM quiet, what is refused before that, and what is on disk meanwhile. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Still } from '../../../../src/host/vm/still.ts';
import type { StillVm } from '../../../../src/host/vm/still.ts';
import { fakeQmp } from '../../../support/fake-qmp.ts';
import type { FakeQmp } from '../../../support/fake-qmp.ts';
import { QemuModel } from '../../../support/qemu-model.ts';

const ID = { pid: 4711, startTicks: 12 };
const LINK = '/run/hyperturtle/vms/one/arena';
const log = { info() {}, warn() {}, error() {}, debug() {}, child: () => log } as unknown as StillVm['log'];

describe('a VM that is made quiet', () => {
  let dir: string;
  let fake: FakeQmp;
  let model: QemuModel;
  /** Ids of NICs that the host gave; those that its guest keeps. */
  let nics: string[];
  let kept: string[];
  let done: string[];
  let still: Still;
  const file = (): string => path.join(dir, 'vms/one/still.json');

  beforeEach(async () => {
    dir = mkdtempSync(path.join(os.tmpdir(), 'ht-still-'));
    model = new QemuModel();
    [nics, kept, done] = [[], [], []];
    fake = await fakeQmp(path.join(dir, 'qmp'), (call) => {
      if (!/^(qom|query)-/.test(call.execute)) done.push(`${call.execute} ${String(call.arguments['id'])}`);
      return model.answer(call);
    });
    const serving = {
      devices: () => nics.map((id) => ({ info: { id } })),
      clear: () => {
        nics = kept;
        done.push('NICs taken');
        return Promise.resolve();
      },
    };
    still = new Still({
      ...{ name: 'one', run: dir, arenaLink: LINK, log },
      spec: () => ({ qmp: path.join(dir, 'qmp'), agent: { hotplug: true } }),
      served: () => ({ process: ID, nics: serving as never }),
      endServing: () => {
        done.push('links ended');
        return Promise.resolve();
      },
    });
  });
  afterEach(async () => {
    await fake.close();
    rmSync(dir, { recursive: true });
  });
  const quiesce = (policy: 'refuse' | 'take' = 'refuse'): Promise<void> =>
    still.quiesce({ nics: policy, timeoutMs: 500 }, true);
  const hotPlugged = (): void => {
    model.objects.set('hyperturtle-arena-memory-1', {
      type: 'memory-backend-file',
      properties: { 'mem-path': LINK },
    });
    model.devices.set('hyperturtle-arena-1', {
      type: 'ivshmem-plain',
      properties: { memdev: '/objects/hyperturtle-arena-memory-1' },
    });
  };

  it('is forgotten when its process has ended unseen, but not while a command sees to it', async () => {
    await quiesce();
    await still.inHand(() => {
      expect(still.forgetEnded()).toBe(false);
      return Promise.resolve();
    });
    expect(existsSync(file())).toBe(true);
    expect(still.forgetEnded()).toBe(true); // there is no process 4711 that began at tick 12
    expect([existsSync(file()), still.record, still.forgetEnded()]).toEqual([false, undefined, false]);
  });

  it('has its links ended first, then loses its arena, and that is on disk from before the first step', async () => {
    hotPlugged();
    model.over = ({ execute }) => {
      if (execute === 'device_del')
        expect(JSON.parse(readFileSync(file(), 'utf8'))).toMatchObject({ state: 'quiescing', ...ID });
      return undefined;
    };
    await quiesce();
    expect(done).toEqual([
      'links ended',
      'device_del hyperturtle-arena-1',
      'object-del hyperturtle-arena-memory-1',
    ]);
    expect(JSON.parse(readFileSync(file(), 'utf8'))).toMatchObject({ state: 'quiesced', byCommand: true });
    expect(still.holds(ID)).toBe(true);
    still.resume();
    expect(existsSync(file())).toBe(false);
  });

  it('keeps its NICs and everything else when they are not to be taken, which names them', async () => {
    nics = ['n0', 'n1'];
    await expect(quiesce()).rejects.toMatchObject({
      code: 'HT_IN_USE',
      message: expect.stringContaining('n0, n1') as string,
    });
    expect(done).toEqual([]);
    await quiesce('take');
    expect(done.slice(0, 2)).toEqual(['NICs taken', 'links ended']);
  });

  it('is served on when its guest keeps a NIC', async () => {
    [nics, kept] = [['n0', 'n1'], ['n1']];
    await expect(quiesce('take')).rejects.toThrow(/: n1: its guest did not let them go/);
    expect(done).toEqual(['NICs taken']);
    expect(existsSync(file())).toBe(false);
  });

  it('loses an arena of its command line too, and keeps memory that is not ours', async () => {
    const backend = (file: string) => ({ type: 'memory-backend-file', properties: { 'mem-path': file } });
    model.objects.set('hyperturtle-memory', backend(LINK)).set('ram', backend('/dev/shm/ram'));
    const device = { type: 'ivshmem-plain', properties: { memdev: '/objects/hyperturtle-memory' } };
    model.devices.set('hyperturtle-arena', device);
    model.devices.set('other', { type: 'ivshmem-plain', properties: { memdev: '/objects/ram' } });
    await quiesce();
    expect([...model.objects.keys(), ...model.devices.keys()]).toEqual(['ram', 'other']);
  });

  it('is served again, with nothing on disk, when the guest does not let the arena go', async () => {
    hotPlugged();
    model.letsGo = false;
    await expect(quiesce()).rejects.toMatchObject({ code: 'HT_TIMEOUT' });
    expect(existsSync(file())).toBe(false);
    expect(still.record).toBeUndefined();
  });

  it('is forgotten when another process has its name', async () => {
    await quiesce();
    expect(still.holds({ ...ID, startTicks: 13 })).toBe(false);
    expect(existsSync(file())).toBe(false);
  });
});
