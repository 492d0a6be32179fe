/** How far a NIC has come, what one that is asked for gets, and what is done about NICs that an earlier daemon left. */
import { describe, expect, it } from 'vitest';
import { checkQuotas, freeId, macFor, networkFor, sameNic } from '../../../../src/host/nics/allocate.ts';
import type { NicSettings } from '../../../../src/host/nics/allocate.ts';
import { Nic } from '../../../../src/host/nics/nic.ts';
import type { NicRecord } from '../../../../src/host/nics/record.ts';
import { givenTo, planRecovery } from '../../../../src/host/nics/recover.ts';
import type { NicInfo } from '../../../../src/wire/fields.ts';

const MAC = '52:54:00:00:00:01';
const OTHER = '52:54:00:00:00:02';
const info = (id: string, more: Partial<NicInfo> = {}): NicInfo => ({
  id,
  mac: MAC,
  network: 'front',
  kind: 'tap',
  slot: 1,
  mtu: 1500,
  hooks: [],
  since: '2026-01-01T00:00:00.000Z',
  ...more,
});
const record = (id: string, complete: boolean): NicRecord => ({
  info: info(id),
  device: `dev-${id}`,
  port: 'rp0',
  ifname: `tap-${id}`,
  ifindex: 7,
  complete,
});
const settings: NicSettings = {
  networks: { front: { bridge: 'br0', vhost: true, maxPerVm: 1 }, back: { bridge: 'br1', vhost: true } },
  ports: ['rp0'],
  max: 2,
  hooks: undefined,
};
const code = (e: string): object => expect.objectContaining({ code: e }) as object;

describe('a NIC', () => {
  it('is made, plugged, and leaves once, when what is attached to it has ended', async () => {
    const nic = new Nic(record('a', false));
    expect([nic.state, nic.complete]).toEqual(['making', false]);
    nic.plugged();
    expect([nic.state, nic.complete, nic.record.complete]).toEqual(['plugged', true, true]);
    let ends = 0;
    const end = (): void => {
      // already on its way for anyone who looks now
      expect(nic.state).toBe('leaving');
      ends++;
    };
    await Promise.all([nic.leave(end), nic.leave(end)]);
    expect([nic.state, nic.complete, ends]).toEqual(['leaving', true, 1]);
  });

  it('that QEMU never said to have is unknown, and nothing is ended for it', async () => {
    const nic = new Nic(record('a', false));
    nic.lost();
    expect(nic.state).toBe('unknown');
    await nic.leave(() => expect.unreachable());
    expect(nic.state).toBe('leaving');
  });

  it('that begins to leave while it is made is not plugged afterwards', async () => {
    const nic = new Nic(record('a', false));
    await nic.leave(() => expect.unreachable());
    nic.plugged();
    expect([nic.state, nic.complete]).toEqual(['leaving', true]);
  });

  it('of an older version has the device that its name made', () => {
    expect(new Nic({ ...record('a', true), device: undefined }).device).toBe('hyperturtle-nic-a');
    expect(new Nic(record('a', true)).device).toBe('dev-a');
  });

  it('whose end fails tells everybody who waits for it', async () => {
    const nic = new Nic(record('a', true));
    const end = (): Promise<void> => Promise.reject(new Error('busy'));
    await expect(nic.leave(end)).rejects.toThrow('busy');
    await expect(nic.leave(end)).rejects.toThrow('busy');
  });
});

describe('a NIC that is asked for', () => {
  it('is in the first network unless it says which', () => {
    expect(networkFor(settings, undefined).name).toBe('front');
    expect(networkFor(settings, 'back').network).toBe(settings.networks['back']);
    expect(() => networkFor(settings, 'toString')).toThrow(code('HT_NOT_FOUND'));
    expect(() => networkFor({ ...settings, networks: {} }, undefined)).toThrow('there are: none');
  });

  it('has the first free name, or is the one that is there when it is the same', () => {
    expect(freeId([info('nic0'), info('nic2')])).toBe('nic1');
    expect(sameNic(info('a'), { mac: MAC }).id).toBe('a');
    expect(() => sameNic(info('a'), { mac: OTHER })).toThrow(code('HT_EXISTS'));
    expect(() => sameNic(info('a'), { network: 'back' })).toThrow(code('HT_EXISTS'));
  });

  it('counts against the VM and its network', () => {
    const { front, back } = settings.networks as Record<'front' | 'back', NicSettings['networks'][string]>;
    checkQuotas(settings, [], 'front', front);
    checkQuotas(settings, [info('a')], 'back', back);
    expect(() => checkQuotas(settings, [info('a')], 'front', front)).toThrow('nics in network front (1 of 1');
    const two = [info('a'), info('b', { network: 'back' })];
    expect(() => checkQuotas(settings, two, 'back', back)).toThrow('nics (2 of 2');
  });

  it('has the same address every time, one of the list where there is one, and never a twin', () => {
    const of = { vm: 'v', id: 'a', network: 'front', asked: undefined };
    expect(macFor(settings, [], of)).toBe(macFor(settings, [], of));
    expect(macFor(settings, [], { ...of, asked: OTHER })).toBe(OTHER);
    expect(() => macFor(settings, [info('b')], { ...of, asked: MAC })).toThrow(code('HT_EXISTS'));
    expect(macFor(settings, [info('b', { network: 'back' })], { ...of, asked: MAC })).toBe(MAC);
    const listed = { ...settings, macs: [MAC] };
    expect(macFor(listed, [], of)).toBe(MAC);
    expect(() => macFor(listed, [info('b')], of)).toThrow(code('HT_QUOTA'));
    expect(() => macFor(listed, [], { ...of, asked: OTHER })).toThrow(code('HT_USAGE'));
  });
});

describe('NICs of an earlier daemon', () => {
  const process = { pid: 5, startTicks: 9 };
  const kept = { ...process, bootId: 'b', nics: [record('a', true)] };

  it('are this process’s, not those of one that had its number before', () => {
    expect(givenTo(process, kept)).toBe(kept.nics);
    expect(givenTo({ ...process, startTicks: 8 }, kept)).toEqual([]);
    expect(givenTo({ ...process, pid: 6 }, kept)).toEqual([]);
    expect(givenTo(process, undefined)).toEqual([]);
  });

  it('stay when they are whole, else go, and so do devices of no NIC', () => {
    const nics = ['whole', 'unplugged', 'no-backend'].map((id) => new Nic(record(id, true)));
    const half = new Nic(record('half', false));
    const has = {
      devices: ['dev-whole', 'dev-no-backend', 'dev-half', 'dev-nobody'],
      netdevs: ['dev-alone', 'dev-unplugged'],
    };
    const plan = planRecovery([...nics, half], has, (nic) => nic.info.id !== 'no-backend');
    expect(plan.broken.map((n) => n.id)).toEqual(['unplugged', 'no-backend', 'half']);
    expect(plan.strays).toEqual(['dev-nobody', 'dev-alone']);
  });
});
