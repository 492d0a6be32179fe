/** Map operations, ring buffers, pins and the passing of descriptors, on the host's kernel. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { fdChannel, receiveFds, sendFds } from '../../src/bpf/fd-passing.ts';
import { openFds } from '../../src/bpf/fds.ts';
import type { OwnedFd } from '../../src/bpf/fds.ts';
import { MapAccess, mapInfo, possibleCpus } from '../../src/bpf/map-ops.ts';
import { SharedArray } from '../../src/bpf/map.ts';
import { BpfObject } from '../../src/bpf/object.ts';
import { ensureBpffs, mapById, openPinned, pin, programById, unpin } from '../../src/bpf/pins.ts';
import { RingReader } from '../../src/bpf/ring.ts';
import { whenReadable } from '../../src/bpf/poll.ts';
import { isHyperturtleError } from '../../src/core/errors.ts';
import { compileBpf, findClang, whyNoBpf } from '../support/bpf.ts';
import { runTc } from '../support/bpf-run.ts';

const SOURCE = `
static long (*bpf_ringbuf_output)(void *ring, void *data, __u64 size, __u64 flags) = (void *)130;
struct pair { __u32 a; __u64 b; };
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, __u32); __type(value, struct pair); } h SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 3); __type(key, __u32); __type(value, __u32); } a SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 2); __type(key, __u32); __type(value, __u32); } p SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } r SEC(".maps");
int counter = 0;
SEC("tc") int out(struct __sk_buff *skb)
{
	__u32 one = 1;
	__u32 *v = bpf_map_lookup_elem(&p, &one);
	if (v) *v += 5;
	v = bpf_map_lookup_elem(&a, &one);
	if (v) *v += 1;
	bpf_map_lookup_elem(&h, &one);
	counter++;
	return bpf_ringbuf_output(&r, &counter, 4, 0) ? 1 : 0;
}`;

const clang = findClang();
const why = whyNoBpf(clang);

const u32 = (n: number): Uint8Array => Uint8Array.of(n & 255, (n >> 8) & 255, 0, 0);
const codeOf = (f: () => unknown): string | undefined => {
  try {
    f();
  } catch (e) {
    if (isHyperturtleError(e)) return e.code;
    throw e;
  }
  return undefined;
};

describe.skipIf(why !== undefined)(`maps of others${why ? ` (skipped: ${why})` : ''}`, () => {
  let object: BpfObject;
  const files: OwnedFd[] = [];
  const open = (name: string): OwnedFd => {
    const borrowed = { fd: object.mapFd(name), what: name } as OwnedFd;
    const file = mapById(mapInfo(borrowed).id);
    files.push(file);
    return file;
  };
  beforeAll(() => {
    object = BpfObject.load({ name: 'maps', elf: compileBpf(clang!, SOURCE) });
  });
  afterEach(() => {
    for (const f of files.splice(0)) f.close();
    expect(openFds()).toEqual([]);
  });
  afterAll(() => object.close());

  it('are read, written, deleted and walked by key', () => {
    const h = new MapAccess(open('h'));
    expect(h.info).toMatchObject({
      typeName: 'hash',
      keyBytes: 4,
      valueBytes: 16,
      maxEntries: 4,
      perCpu: false,
    });
    expect(h.get(u32(7))).toBeUndefined();
    expect(h.nextKey()).toBeUndefined();
    const value = new Uint8Array(16).fill(3);
    h.set(u32(7), value);
    expect(h.get(u32(7))).toEqual([value]);
    expect(codeOf(() => h.set(u32(7), value, 'create'))).toBe('HT_EXISTS');
    expect(codeOf(() => h.set(u32(8), value, 'exist'))).toBe('HT_NOT_FOUND');
    expect(codeOf(() => h.set(u32(7), new Uint8Array(15)))).toBe('HT_USAGE');
    expect(codeOf(() => h.get(new Uint8Array(5)))).toBe('HT_USAGE');
    for (const k of [1, 2, 3]) h.set(u32(k), value, 'create');
    expect(codeOf(() => h.set(u32(9), value))).toBe('HT_NO_SPACE');
    const first = h.page(3);
    const second = h.page(3, first.next);
    expect(second.next).toBeUndefined();
    const keys = [...first.entries, ...second.entries].map((e) => e.key[0] ?? 0);
    expect(keys.sort()).toEqual([1, 2, 3, 7]);
    expect(h.delete(u32(7))).toBe(true);
    expect(h.delete(u32(7))).toBe(false);
  });

  it('of arrays keep their entries', () => {
    const a = new MapAccess(open('a'));
    expect(a.get(u32(3))).toBeUndefined();
    expect(codeOf(() => a.set(u32(3), u32(1)))).toBe('HT_NO_SPACE');
    expect(codeOf(() => a.delete(u32(0)))).toBe('HT_USAGE');
    a.set(u32(2), u32(9));
    expect(a.page(10).entries.map((e) => e.values[0]?.[0])).toEqual([0, 0, 9]);
  });

  it('of per-CPU maps give a value for each CPU', () => {
    const p = new MapAccess(open('p'));
    p.set(u32(1), u32(6));
    const all = p.get(u32(1));
    expect(all).toHaveLength(possibleCpus());
    expect(all?.every((v) => v.length === 4 && v[0] === 6)).toBe(true);
    expect(runTc(object.program('out').fd)).toBe(0);
    const sum = p.get(u32(1))?.reduce((n, v) => n + (v[0] ?? 0), 0);
    expect(sum).toBe(6 * possibleCpus() + 5);
    new RingReader(open('r')).close();
  });

  it('of ring buffers give their records in order, wake a waiter, and go round', async () => {
    const file = open('r');
    const ring = new RingReader(file);
    try {
      ring.read(1000);
      const abort = AbortSignal.timeout(10_000);
      const readable = whenReadable(file, abort);
      runTc(object.program('out').fd);
      await readable;
      const [first] = ring.read(10);
      const start = first?.[0] ?? 0;
      expect(first).toHaveLength(4);
      const seen: number[] = [];
      // 4096 bytes hold 256 records of 16: three rounds
      for (let i = 0; i < 6; i++) {
        for (let k = 0; k < 128; k++) expect(runTc(object.program('out').fd)).toBe(0);
        for (const r of ring.read(1000)) seen.push((r[0] ?? 0) | ((r[1] ?? 0) << 8));
      }
      expect(seen).toEqual(Array.from({ length: 768 }, (_, i) => start + 1 + i));
      for (let k = 0; k < 300; k++) runTc(object.program('out').fd); // more than it holds
      expect(ring.read(10)).toHaveLength(10);
      expect(ring.read(1000).length).toBe(245);
    } finally {
      ring.close();
    }
    expect(codeOf(() => new RingReader(open('a')))).toBe('HT_USAGE');
    expect(codeOf(() => new MapAccess(file).get(new Uint8Array()))).toBe('HT_USAGE');
  });

  it('are found again by number and by pin', () => {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'hyperturtle-bpffs-'));
    try {
      expect(ensureBpffs(dir)).toBe(true);
      expect(ensureBpffs(dir)).toBe(false);
      const at = path.join(dir, 'arena');
      const arena = SharedArray.create('arena', 4096);
      const { id } = arena.info();
      pin(arena.file, at);
      expect(codeOf(() => pin(arena.file, at))).toBe('HT_EXISTS');
      arena.close();
      const again = openPinned(at);
      expect(mapInfo(again).id).toBe(id);
      again.close();
      unpin(at);
      unpin(at);
      expect(codeOf(() => openPinned(at))).toBe('HT_NOT_FOUND');
      expect(codeOf(() => programById(0x7fff_fff0))).toBe('HT_NOT_FOUND');
      const program = programById(object.program('out').info().id);
      expect(program.what).toMatch(/program number/);
      program.close();
    } finally {
      spawnSync('umount', [dir]);
      rmSync(dir, { recursive: true });
    }
  });

  it('travel over a channel as descriptors', () => {
    const [here, there] = fdChannel('test channel');
    const arena = SharedArray.create('arena', 4096);
    const before = readdirSync('/proc/self/fd').length;
    try {
      sendFds(here, [arena.file.fd, arena.file.fd]);
      const [a, b] = receiveFds(there, 2, (i) => `copy ${i}`);
      expect(mapInfo(a!).id).toBe(arena.info().id);
      expect(mapInfo(b!).id).toBe(arena.info().id);
      a!.close();
      b!.close();
      expect(() => receiveFds(there, 1, String)).toThrow(/EAGAIN/);
      sendFds(here, [arena.file.fd, arena.file.fd]);
      expect(() => receiveFds(there, 1, String)).toThrow(
        /1 descriptors expected, 2 came|1 descriptors expected, 1 came/,
      );
      expect(readdirSync('/proc/self/fd')).toHaveLength(before);
    } finally {
      here.close();
      there.close();
      arena.close();
    }
  });
});
