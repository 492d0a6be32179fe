/** A VM that was started without anything of HyperTurtle: the daemon plugs what it needs into a stock QEMU. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { QmpClient } from '../../src/qmp/client.ts';
import { PORT_NAME } from '../../src/wire/schema.ts';
import { whyNoMaps } from '../support/bpf.ts';
import { DaemonHarness } from '../support/daemon-harness.ts';
import { RealQemu, findQemu } from '../support/real-qemu.ts';

const qemu = findQemu();
const why = qemu ? whyNoMaps() : 'no QEMU: run the lab once';

describe.skipIf(why !== undefined)(`hot-plug into a stock QEMU${why ? ` (skipped: ${why})` : ''}`, () => {
  let h: DaemonHarness;
  let vm: RealQemu;
  let own: QmpClient;

  beforeEach(async () => {
    if (!qemu) return;
    h = new DaemonHarness();
    vm = await RealQemu.start(
      qemu,
      [h.at('one.qmp'), h.at('test.qmp')],
      [
        '-device',
        'pcie-root-port,id=arena0,chassis=1,pref64-reserve=32M',
        '-device',
        'virtio-serial-pci,id=serial',
      ],
    );
    own = await QmpClient.connect(h.at('test.qmp'));
  });
  afterEach(async () => {
    own.close();
    await vm.end();
    await h.close();
  });
  const devices = async (): Promise<string[]> =>
    ((await own.execute('qom-list', { path: '/machine/peripheral' })) as { name: string }[]).map(
      (d) => d.name,
    );
  const idsOf = async (path: string, prefix: string): Promise<string[]> =>
    ((await own.execute('qom-list', { path })) as { name: string }[])
      .map((d) => d.name)
      .filter((name) => new RegExp(`^${prefix}-[0-9a-f]{16}$`).test(name));
  const memories = (): Promise<string[]> => idsOf('/objects', 'hyperturtle-arena-memory');
  const property = (device: string, name: string): Promise<unknown> =>
    own.execute('qom-get', { path: `/machine/peripheral/${device}`, property: name });

  it('gives it arena and agent port, and a daemon that was killed finds both again', async () => {
    h.writeConfig({ one: { bus: 'arena0', agent: { hotplug: { bus: 'serial.0' } } } });
    await h.startDaemon();
    const ready = await h.whenVm('one', (v) => v.arena.state === 'plugged' && v.agent.connected);
    expect(ready.problem).toBeNull();
    const [arena, ...more] = await idsOf('/machine/peripheral', 'hyperturtle-arena');
    const [port = ''] = await idsOf('/machine/peripheral', 'hyperturtle-agent-port');
    expect([typeof arena, more]).toEqual(['string', []]);
    expect(await property(port, 'name')).toBe(PORT_NAME);
    const memory = `/objects/${(await memories())[0] ?? ''}`;
    // the very memory, not a copy of it
    expect(await own.execute('qom-get', { path: memory, property: 'share' })).toBe(true);
    expect(await own.execute('qom-get', { path: memory, property: 'mem-path' })).toBe(
      path.join(h.at('run'), 'vms/one/arena'),
    );

    const before = await devices();
    await h.endDaemon('SIGKILL');
    expect(vm.running).toBe(true);
    await h.startDaemon();
    await h.whenVm('one', (v) => v.arena.state === 'plugged' && v.agent.connected);
    expect(await devices()).toEqual(before);
    expect(h.log.match(/"arena plugged"/g)).toHaveLength(1);
  });

  it('says in one line what QEMU refused, plugs nothing by halves, and goes on when that is corrected', async () => {
    h.writeConfig({ one: { bus: 'nowhere', agent: { hotplug: { bus: 'serial.0' } } } });
    await h.startDaemon();
    const refused = await h.whenVm('one', (v) => /nowhere/.test(v.problem ?? ''));
    expect(refused.problem).not.toContain('\n');
    expect(await idsOf('/machine/peripheral', 'hyperturtle-arena')).toEqual([]);
    expect(await memories()).toEqual([]);
    h.writeConfig({ one: { bus: 'arena0', agent: { hotplug: { bus: 'serial.0' } } } });
    h.hangUp();
    await h.whenVm('one', (v) => v.arena.state === 'plugged' && v.agent.connected && v.problem === null);
    expect(existsSync(h.at('run/vms/one/arena'))).toBe(true);
  });
});
