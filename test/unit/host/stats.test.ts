/** Statistics as users see them, and the choice of the program and process that they are about. */
import net from 'node:net';
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE } from '../../../src/kernel/bpf.ts';
import { HT_HOOK_STATS, HT_STATS } from '../../../src/kernel/host.ts';
import { Attachment, programFor } from '../../../src/host/attach.ts';
import { listenersOf, parseListening, qemuBehind } from '../../../src/host/qemu.ts';
import { formatStats, hookStats } from '../../../src/host/stats.ts';

describe('statistics of a hook', () => {
  const raw = HT_STATS.decode(
    HT_STATS.encode({
      pid: 42,
      linked: 1,
      prog_id: 7,
      s: {
        ...HT_HOOK_STATS.decode(new Uint8Array(HT_HOOK_STATS.size)),
        runs: 1000,
        handled: 950,
        entries: 4000,
        reasons: Array.from({ length: 32 }, (_, i) => (i === 2 ? 40 : i === 22 ? 10 : 0)),
        counts: Array.from({ length: 64 }, (_, i) => [3500, 1, 2, 3, 4, 9_000_000, 17_400, 30_000][i] ?? 0),
      },
    }),
  );

  it('name the reasons that occurred, and only those', () => {
    expect(hookStats('npf', raw)).toMatchObject({
      pid: 42,
      linked: true,
      programId: 7,
      passed: 50,
      reasons: { NO_TABLE: 40, POOL_EMPTY: 10 },
    });
  });

  it('say how groups were filled in, why not, and the budget', () => {
    const stats = hookStats('npf', raw);
    expect(stats.fills).toEqual({
      ...{ done: 3500, budget: 1, pending: 2, failed: 3, absent: 4 },
      ...{ ns: 9_000_000, maxNs: 17_400, limitNs: 30_000 },
    });
    expect(formatStats(stats)).toContain(
      '3500 fills of up to 8 pages besides; cut short: 1 out of time, 2 as somebody waited, 3 not mapped; left out: 4 not in memory; longest 17.4 us, none begins after 30 us',
    );
    expect(formatStats({ ...stats, fills: { ...stats.fills!, limitNs: 0 } })).toContain(
      'groups are not filled in at once: fill_us of the module is 0',
    );
    expect(hookStats('exit', raw).fills).toBeUndefined();
  });

  it('say whose calls were answered, and why others were not', () => {
    const stats = hookStats('call', raw);
    expect(stats.calls).toEqual({ l1: 3500, l2: 1, channel: 2 });
    expect(stats.reasons).toEqual({ EVENT: 40, REASON_22: 10 });
    expect(formatStats(stats)).toContain(
      'answered: 3500 calls of L1, 1 of its nested guests, 2 by the channel',
    );
  });

  it('are readable, most frequent reason first', () => {
    const text = formatStats(hookStats('npf', raw));
    expect(text).toMatch(/1000 events: 950 answered in L0 \(95\.0%\).*\n.*4000 entries/);
    expect(text.indexOf('NO_TABLE')).toBeLessThan(text.indexOf('POOL_EMPTY'));
  });
});

describe('the program for a hook', () => {
  const type = BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE;
  const object = (...programs: { name: string; section: string; type: number }[]) =>
    ({ name: 'o', programs }) as unknown as Parameters<typeof programFor>[0];

  it('is the one in its section', () => {
    const o = object(
      { name: 'a', section: 'raw_tp.w/hyperturtle_exit', type },
      { name: 'b', section: 'raw_tp.w/hyperturtle_npf', type },
    );
    expect(programFor(o, 'npf').name).toBe('b');
  });

  it('is missed with the names of what there is', () => {
    expect(() => programFor(object({ name: 'a', section: 'xdp', type: 6 }), 'npf')).toThrow(
      /SEC\("raw_tp.w\/hyperturtle_npf"\) expected, found: a in xdp/,
    );
  });
});

describe('attaching', () => {
  const spec = { hook: 'npf', arenaBytes: 16 << 20, qmpTimeoutMs: 1000, unplugTimeoutMs: 1000 } as const;

  it('refuses a size that cannot be a PCI BAR before it touches anything', async () => {
    await expect(Attachment.open({ ...spec, pid: 1, arenaBytes: 3 << 20 })).rejects.toMatchObject({
      code: 'HT_USAGE',
    });
  });

  it('refuses a program that is not there', async () => {
    await expect(Attachment.open({ ...spec, pid: 1, programPath: '/no/such.bpf.o' })).rejects.toThrow(
      /no such file: give a compiled/,
    );
  });

  it('asks for the VM when none is named', async () => {
    await expect(Attachment.open(spec)).rejects.toMatchObject({ code: 'HT_USAGE' });
  });
});

describe('the process behind a socket', () => {
  it('is read from lines that listen on a path', () => {
    const text = `Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/l1/qmp.sock
0000000000000000: 00000003 00000000 00000000 0001 03 12346 /run/l1/qmp.sock
0000000000000000: 00000002 00000000 00010000 0001 01   777 @abstract
0000000000000000: 00000003 00000000 00000000 0001 03 12399
0000000000000000: 00000002 00000000 00010000 0001 01 888 relative dir/q.sock
`;
    expect(parseListening(text)).toEqual([
      { inode: '12345', bound: '/run/l1/qmp.sock' },
      { inode: '888', bound: 'relative dir/q.sock' },
    ]);
  });

  it('is found by the descriptor it holds, also through a link, and must run a VM', async () => {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'ht-sock-'));
    const server = net.createServer();
    try {
      const real = path.join(dir, 'q.sock');
      await new Promise<void>((resolve) => server.listen(real, resolve));
      symlinkSync(dir, `${dir}-link`);
      expect(listenersOf(real)).toEqual([process.pid]);
      expect(listenersOf(path.join(`${dir}-link`, 'q.sock'))).toEqual([process.pid]);
      expect(() => qemuBehind(real)).toThrow(/runs no KVM VM/);
      expect(() => qemuBehind(path.join(dir, 'other.sock'))).toThrow(/no process listens/);
    } finally {
      await new Promise((resolve) => server.close(resolve));
      rmSync(`${dir}-link`, { force: true });
      rmSync(dir, { recursive: true });
    }
  });
});
