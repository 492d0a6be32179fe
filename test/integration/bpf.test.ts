/** src/bpf against the real kernel: an arena shared with a program, verifier refusals, and nothing left open. */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { isHyperturtleError } from '../../src/core/errors.ts';
import { openFds } from '../../src/bpf/fds.ts';
import { SharedArray } from '../../src/bpf/map.ts';
import { BpfObject } from '../../src/bpf/object.ts';
import { programFor } from '../../src/host/attach.ts';
import { BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE } from '../../src/kernel/bpf.ts';
import { compileBpf, compileBpfFile, findClang, whyNoBpf } from '../support/bpf.ts';

const ARENA_BYTES = 1 << 20;

const clang = findClang();
const why = whyNoBpf(clang);

const ARENA = `
struct big { __u64 w[1 << 25]; };
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY); __uint(map_flags, BPF_F_MMAPABLE); __uint(max_entries, 1);
	__type(key, __u32); __type(value, struct big);
} arena SEC(".maps");
const volatile __u64 arena_bytes = 0;
const volatile __u32 salt = 0;
`;
/** The index is bounded by the constant only: the verifier accepts it only when it knows the constant's value. */
const GOOD = `${ARENA}
SEC("raw_tp.w/npf") int npf(struct bpf_raw_tracepoint_args *args)
{
	struct ht_npf_ctx *ctx = (void *)args->args[0];
	__u32 zero = 0;
	struct big *a = bpf_map_lookup_elem(&arena, &zero);
	__u64 i = ctx->gpa;
	if (!a) return 0;
	asm volatile("" : "+r"(i));
	if (i >= arena_bytes / 8) return 0;
	ctx->template = a->w[i] + salt;
	ctx->action = HT_NPF_MAP;
	return 0;
}`;
/** No bound at all. */
const BAD = `${ARENA}
SEC("raw_tp.w/npf") int npf(struct bpf_raw_tracepoint_args *args)
{
	struct ht_npf_ctx *ctx = (void *)args->args[0];
	__u32 zero = 0;
	struct big *a = bpf_map_lookup_elem(&arena, &zero);
	if (!a) return 0;
	ctx->template = a->w[ctx->gpa] + salt + arena_bytes;
	return 0;
}`;

/** Descriptors of this process by what they are; the number of eBPF ones is what must not grow. */
const bpfFds = (): number => readdirSync('/proc/self/fd').length;

function thrownBy(f: () => unknown): unknown {
  try {
    f();
  } catch (e) {
    return e;
  }
  return undefined;
}

describe.skipIf(why !== undefined)(`eBPF objects${why ? ` (skipped: ${why})` : ''}`, () => {
  let good: Buffer;
  let bad: Buffer;
  beforeAll(() => {
    good = compileBpf(clang!, GOOD);
    bad = compileBpf(clang!, BAD);
  });
  afterEach(() => {
    expect(openFds()).toEqual([]);
  });

  const load = (elf: Uint8Array, arena: SharedArray): BpfObject =>
    BpfObject.load({
      name: 'npf',
      elf,
      reuse: { arena: arena.file },
      constants: { arena_bytes: ARENA_BYTES, salt: 5 },
    });

  it('load as writable raw tracepoint programs that use the given arena', () => {
    const arena = SharedArray.create('arena', ARENA_BYTES);
    const object = load(good, arena);
    try {
      const program = object.program('npf');
      expect(program.type).toBe(BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE);
      expect(program.section).toBe('raw_tp.w/npf');
      const info = program.info();
      expect(info.id).toBeGreaterThan(0);
      expect(info.name).toBe('npf');
      expect(info.type).toBe(BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE);
      expect(info.verifiedInstructions).toBeGreaterThan(5);
      expect(arena.info()).toMatchObject({ value_size: ARENA_BYTES, max_entries: 1, name: 'arena' });
      expect(object.mapFd('arena')).not.toBe(arena.file.fd);
    } finally {
      object.close();
      arena.close();
    }
  });

  it('share memory: what one mapping writes, another mapping and the system call read', () => {
    const arena = SharedArray.create('arena', ARENA_BYTES);
    const a = arena.map();
    const b = arena.map();
    try {
      a.store(4096, 0xdead_beef_0000_0001n);
      expect(b.load(4096)).toBe(0xdead_beef_0000_0001n);
      expect(b.compareExchange(4096, 1n, 2n)).toBe(0xdead_beef_0000_0001n);
      expect(b.compareExchange(4096, 0xdead_beef_0000_0001n, 7n)).toBe(0xdead_beef_0000_0001n);
      const value = arena.lookup();
      expect(value.length).toBe(ARENA_BYTES);
      expect(value[4096]).toBe(7);
      value[8] = 9;
      arena.update(value);
      expect(a.load(8)).toBe(9n);
      b.write(ARENA_BYTES - 2, Uint8Array.of(1, 2));
      expect(a.read(ARENA_BYTES - 2, 2)).toEqual(Uint8Array.of(1, 2));
    } finally {
      a.close();
      b.close();
      arena.close();
    }
  });

  it('never let shared memory be touched outside its bounds or after it was unmapped', () => {
    const arena = SharedArray.create('arena', 4096);
    const m = arena.map();
    arena.close();
    m.store(0, 3n); // the mapping outlives the descriptor
    expect(m.load(0)).toBe(3n);
    expect(() => m.load(4096)).toThrow(/outside/);
    expect(() => m.load(-8)).toThrow(/outside/);
    expect(() => m.store(4, 1n)).toThrow(/multiple of 8/);
    expect(() => m.read(4090, 8)).toThrow(/outside/);
    m.close();
    m.close();
    expect(() => m.load(0)).toThrow(/after it was closed/);
  });

  it("are refused with the verifier's own words, in a log beside a message of one line", () => {
    const arena = SharedArray.create('arena', ARENA_BYTES);
    try {
      const e = thrownBy(() => load(bad, arena));
      expect(isHyperturtleError(e, 'HT_VERIFIER_REJECTED') && e.detail['log']).toMatch(
        /unbounded (min value|memory access)/,
      );
      expect((e as Error).message).toMatch(/^[^\n]*verifier refused a program \(\w+\)$/);
    } finally {
      arena.close();
    }
  });

  it('are verified with their constants: a wrong size of the arena is refused', () => {
    const arena = SharedArray.create('arena', ARENA_BYTES);
    try {
      const constants = { arena_bytes: ARENA_BYTES + 8, salt: 0 };
      const e = thrownBy(() =>
        BpfObject.load({ name: 'npf', elf: good, reuse: { arena: arena.file }, constants }),
      );
      expect(isHyperturtleError(e, 'HT_VERIFIER_REJECTED') && e.detail['log']).toMatch(
        /invalid access to map value/,
      );
    } finally {
      arena.close();
    }
  });

  it('are refused when a constant or a map is not there, naming it', () => {
    expect(() => BpfObject.load({ name: 'x', elf: good, constants: { arena_size: 1 } })).toThrow(
      /no constant 'arena_size'/,
    );
    expect(() => BpfObject.load({ name: 'x', elf: good, constants: { salt: 1n << 32n } })).toThrow(
      /does not fit/,
    );
    const arena = SharedArray.create('arena', 4096);
    expect(() => BpfObject.load({ name: 'x', elf: good, reuse: { area: arena.file } })).toThrow(
      /no map 'area'; it has: arena/,
    );
    arena.close();
  });

  it.each([1, 16, 256])('are verified for the npf hook with an arena of %i MiB', (mib) => {
    const elf = compileBpfFile(clang!, path.resolve(import.meta.dirname, '../../c/bpf/npf/npf.bpf.c'));
    const arena = SharedArray.create('arena', mib << 20);
    const object = BpfObject.load({
      name: 'npf',
      elf,
      reuse: { arena: arena.file },
      constants: { arena_bytes: mib << 20 },
    });
    try {
      // a quarter of the verifier's limit of a million: other kernels walk other paths
      expect(programFor(object, 'npf').info().verifiedInstructions).toBeLessThan(250_000);
    } finally {
      object.close();
      arena.close();
    }
  });

  it('cannot be used after they were closed', () => {
    const arena = SharedArray.create('arena', ARENA_BYTES);
    const object = load(good, arena);
    const program = object.program('npf');
    object.close();
    object.close();
    arena.close();
    expect(() => program.fd).toThrow(/after it was closed/);
    expect(() => object.mapFd('arena')).toThrow(/after it was closed/);
    expect(() => arena.lookup()).toThrow(/after it was closed/);
  });

  it('leave no descriptor behind, loaded or refused', () => {
    const cycle = (): void => {
      const arena = SharedArray.create('arena', ARENA_BYTES);
      const m = arena.map();
      load(good, arena).close();
      expect(() => load(bad, arena)).toThrow();
      m.close();
      arena.close();
    };
    cycle();
    const before = bpfFds();
    for (let i = 0; i < 20; i++) cycle();
    expect(bpfFds()).toBe(before);
  });
});
