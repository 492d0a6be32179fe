/** Taps are made by calls that may wait for the lock of all network devices, off the daemon's thread. */
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CallThreads, here } from '../../src/bpf/calls.ts';
import type { Caller } from '../../src/bpf/calls.ts';
import { openFds } from '../../src/bpf/fds.ts';
import { makeTap } from '../../src/host/nics/tap.ts';
import { whyNoNetwork } from '../support/network.ts';

const why = whyNoNetwork();
/** TUNSETIFF, SIOCSIFMTU, SIOCBRADDIF and SIOCSIFFLAGS take RTNL (drivers/net/tun.c, net/core/dev_ioctl.c). */
const WITH_RTNL = [0x400454ca, 0x8922, 0x89a2, 0x8914];

describe.skipIf(why !== undefined)(`taps${why ? ` (skipped: ${why})` : ''}`, () => {
  const bridge = `htt${process.pid}`;
  beforeEach(() => {
    execFileSync('ip', ['link', 'add', bridge, 'type', 'bridge']);
  });
  afterEach(() => {
    execFileSync('ip', ['link', 'del', bridge]);
    expect(openFds()).toEqual([]);
  });
  const ports = (): string[] => readdirSync(`/sys/class/net/${bridge}/brif`);

  it('are made by the caller, each step that takes the lock of all network devices', async () => {
    const asked: unknown[] = [];
    const call: Caller = (f, ...args) => {
      asked.push(args[1]);
      return here(f, ...args);
    };
    const tap = await makeTap(call, { bridge });
    try {
      expect(ports()).toEqual([tap.ifname]);
      expect(asked).toEqual(expect.arrayContaining(WITH_RTNL));
    } finally {
      tap.file.close();
    }
  });

  it('are made in threads, and leave nothing when a step fails', async () => {
    const call = new CallThreads().lane();
    const tap = await makeTap(call, { bridge, mtu: 1400 });
    expect([ports(), tap.mtu]).toEqual([[tap.ifname], 1400]);
    tap.file.close();
    const before = readdirSync('/sys/class/net').length;
    await expect(makeTap(call, { bridge: 'lo' })).rejects.toMatchObject({ code: 'HT_CONFIG' });
    await expect(makeTap(call, { bridge: 'ht-none' })).rejects.toMatchObject({ code: 'HT_NOT_FOUND' });
    expect(readdirSync('/sys/class/net').length).toBeLessThanOrEqual(before);
  });
});
