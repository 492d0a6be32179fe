/** Rule run-time: programs that would keep a host busy are refused by name, and those admitted take no longer than it says. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { BpfObject } from '../../src/bpf/object.ts';
import { runProgram } from '../../src/bpf/test-run.ts';
import { waitFor } from '../../src/core/wait.ts';
import { checkObject } from '../../src/host/admission/check.ts';
import { mostNs } from '../../src/host/admission/cost/run-time.ts';
import type { Verdict } from '../../src/host/admission/verdict.ts';
import { HOOK_TABLE, packetProgramTypes } from '../../src/host/hooks.ts';
import { compileBpf, compileBpfFile, findClang, whyNoBpf } from '../support/bpf.ts';

const clang = findClang();
const why = whyNoBpf(clang);
const BPF = path.resolve(import.meta.dirname, '../../c/bpf');
const check = (elf: Uint8Array): Verdict => checkObject(elf, { policy: { cpus: 64 } });

const PRELUDE = `
#pragma clang diagnostic ignored "-Wunused"
#define MAP(n, t, k, v, e) struct { __uint(type, BPF_MAP_TYPE_##t); __uint(max_entries, e); \\
	__type(key, k); __type(value, v); } n SEC(".maps");
#define REPEAT(n, ...) _Pragma("clang loop unroll(disable)") for (__u32 i = 0; i < (n); i++) { __VA_ARGS__; asm volatile("" ::: "memory"); }
struct k512 { __u8 b[512]; };
struct v4k { __u8 b[4096]; };
struct v64k { __u8 b[65536]; };
struct v1m { __u8 b[1 << 20]; };
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(map_flags, BPF_F_MMAPABLE); __uint(max_entries, 1);
	__type(key, __u32); __type(value, struct v1m); } arena SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4 << 20); } ring SEC(".maps");
MAP(plain, ARRAY, __u32, __u64, 64)
MAP(wide, ARRAY, __u32, struct v64k, 4)
MAP(each, PERCPU_HASH, __u32, struct v4k, 16)
MAP(table, HASH, __u32, __u64, 1024)
MAP(keys, HASH, struct k512, __u64, 16)
MAP(recent, LRU_HASH, __u32, __u64, 1024)
static long (*update)(void *, const void *, const void *, __u64) = (void *)2;
static long (*del)(void *, const void *) = (void *)3;
static __u64 (*now)(void) = (void *)5;
static __u32 (*any)(void) = (void *)7;
static long (*output)(void *, void *, __u64, __u64) = (void *)130;
static void *(*reserve)(void *, __u64, __u64) = (void *)131;
static void (*discard)(void *, __u64) = (void *)133;
static long (*skb_load)(const void *, __u32, void *, __u32) = (void *)26;
static long (*xdp_load)(void *, __u32, void *, __u32) = (void *)189;
static struct k512 key;
static struct v64k value;
static __u64 word;
`;
const source = (section: string, body: string): string => `${PRELUDE}
SEC("${section}") int prog(void *ctx)
{
	__u32 zero = 0;
	__u64 sum = 0;
	__u8 *base = bpf_map_lookup_elem(&arena, &zero);
	if (!base) return 0;
	${body}
	word += sum;
	return 0;
}`;
const SAMPLE = 'raw_tp.w/hyperturtle_sample';
const NPF = 'raw_tp.w/hyperturtle_npf';

const REFUSED: readonly [what: string, section: string, body: string][] = [
  ['copies 64 KiB values', NPF, 'REPEAT(100, update(&wide, &zero, &value, 0))'],
  ['the same for XDP', 'xdp', 'REPEAT(100, update(&wide, &zero, &value, 0))'],
  ['the same for TC', 'tc/egress', 'REPEAT(100, update(&wide, &zero, &value, 0))'],
  ['looks up keys of 512 bytes', NPF, 'REPEAT(200, if (bpf_map_lookup_elem(&keys, &key)) sum++)'],
  ['updates keys of 512 bytes', 'xdp', 'REPEAT(60, update(&keys, &key, &word, 0))'],
  ['makes values of each CPU', NPF, 'REPEAT(10, update(&each, &i, &value, 0))'],
  ['evicts from an LRU', SAMPLE, 'REPEAT(20, update(&recent, &i, &word, 0))'],
  ['updates a hash', NPF, 'REPEAT(200, update(&table, &i, &word, 0))'],
  ['deletes from a hash', SAMPLE, 'REPEAT(64, del(&table, &i))'],
  ['looks up in a hash', SAMPLE, 'REPEAT(64, if (bpf_map_lookup_elem(&table, &i)) sum++)'],
  ['puts out records of 60 KiB', NPF, 'REPEAT(20, output(&ring, &value, 60000, 1))'],
  ['wakes its reader', NPF, 'REPEAT(20, output(&ring, &word, 8, 0))'],
  ['reserves megabytes', NPF, 'REPEAT(1000, void *r = reserve(&ring, 1 << 20, 0); if (r) discard(r, 1))'],
  ['reads the clock', SAMPLE, 'REPEAT(1000, sum += now())'],
  [
    'loops in loops',
    NPF,
    'REPEAT(64, for (__u32 j = 0; j < 64; j++) { sum += any(); asm volatile("" ::: "memory"); })',
  ],
  ['copies from frames', 'tc/ingress', '__u8 b[64]; REPEAT(200, sum += skb_load(ctx, 0, b, 64))'],
  ['copies from frames for XDP', 'xdp', '__u8 b[64] = {}; REPEAT(200, sum += xdp_load(ctx, 0, b, 64))'],
  ['reads all over the arena', NPF, 'REPEAT(2000, sum += *(volatile __u64 *)(base + i * 512))'],
  [
    'reads all over it at random',
    'xdp',
    'REPEAT(1000, sum += *(volatile __u64 *)(base + (any() & 0xffff8)))',
  ],
  ['writes all over it', NPF, 'REPEAT(2000, *(volatile __u64 *)(base + i * 512) = i)'],
  ['makes atomic operations', NPF, 'REPEAT(8000, __sync_fetch_and_add((__u64 *)base, 1))'],
  ['divides', SAMPLE, 'REPEAT(2000, asm volatile("%0 /= %1" : "+r"(sum) : "r"((__u64)i + 3)))'],
];

describe.skipIf(why !== undefined)(`what a run may take${why ? ` (skipped: ${why})` : ''}`, () => {
  it.each(REFUSED)('refuses one that %s', (_, section, body) => {
    const { refusals } = check(compileBpf(clang!, source(section, body)));
    expect(refusals[0]).toMatchObject({ rule: 'run-time', program: 'prog' });
    expect(refusals[0]?.message).toMatch(/a run may take [0-9.]+ us on a slow core/);
  });

  it('refuses updating or deleting the arena, even once', () => {
    for (const body of ['update(&arena, &zero, base, 0);', 'del(&arena, &zero);'])
      expect(check(compileBpf(clang!, source(NPF, body))).refusals[0]).toMatchObject({ rule: 'arena' });
  });

  it('refuses one that copies the whole arena 25,000 times', () => {
    const { ok, refusals } = check(
      compileBpf(clang!, source(NPF, 'REPEAT(25000, update(&arena, &zero, base, 0))')),
    );
    expect(ok).toBe(false);
    expect(refusals.map((r) => [r.rule, r.program])).toContainEqual(['arena', 'prog']);
    expect(refusals.map((r) => [r.rule, r.program])).toContainEqual(['run-time', 'prog']);
  });

  it('takes what the verifier walks as the bound of a loop without one', () => {
    const body = 'for (volatile __u32 n = any() & 0xff; n > 3; n /= 2) sum += any();';
    const [p] = check(compileBpf(clang!, source(NPF, body))).programs;
    expect(p?.run?.nsPerInstruction).toBeGreaterThan(1);
    expect(mostNs(p!.run!, 100_000)).toBeGreaterThan(100_000);
  });

  it.each([
    ['hash look-ups', 'xdp', 'REPEAT(40, if (bpf_map_lookup_elem(&table, &i)) sum++)'],
    ['hash updates', 'xdp', 'REPEAT(30, update(&table, &i, &word, 0))'],
    ['records', 'xdp', 'REPEAT(20, output(&ring, &word, 8, 1))'],
    ['atomic operations', 'xdp', 'REPEAT(500, __sync_fetch_and_add((__u64 *)base, 1))'],
    ['copies from frames', 'tc/ingress', '__u8 b[64]; REPEAT(40, sum += skb_load(ctx, 0, b, 64))'],
  ])('admits %s within the limit, and a run takes no longer than was said', (what, section, body) => {
    const elf = compileBpf(clang!, source(section, body));
    const { refusals, programs } = check(elf);
    expect(refusals).toEqual([]);
    using object = BpfObject.load({ name: 'run', elf, types: packetProgramTypes() });
    const { nanoseconds } = runProgram(object.programs[0]!.fd, new Uint8Array(128), 2000);
    const said = mostNs(programs[0]!.run!, object.programs[0]!.info().verifiedInstructions);
    process.stdout.write(`${what}: ${nanoseconds} ns measured, at most ${said} ns by the check\n`);
    expect(nanoseconds).toBeLessThan(said);
  });

  it('goes on after signals', async () => {
    const elf = compileBpf(clang!, source('xdp', 'REPEAT(500, __sync_fetch_and_add((__u64 *)base, 1))'));
    using object = BpfObject.load({ name: 'run', elf, types: packetProgramTypes() });
    let signals = 0;
    const counted = (): void => void signals++;
    process.on('SIGUSR2', counted);
    try {
      const { nanoseconds } = runProgram(object.programs[0]!.fd, new Uint8Array(128), 2000);
      // as many runs as take a second, with signals in their midst
      const kills = spawn('sh', [
        '-c',
        'for i in 1 2 3; do sleep 0.2; kill -USR2 "$0"; done',
        String(process.pid),
      ]);
      const repeat = Math.ceil(1e9 / nanoseconds);
      expect(runProgram(object.programs[0]!.fd, new Uint8Array(128), repeat).nanoseconds).toBeGreaterThan(0);
      await once(kills, 'close');
      await waitFor('a signal', () => signals > 0 || undefined, { timeoutMs: 5000 });
    } finally {
      process.off('SIGUSR2', counted);
    }
  });

  const version = clang && spawnSync(clang.bin, ['--version'], { env: clang.env }).stdout.toString();
  const clang14 = version?.includes('clang version 14.') === true;
  it.skipIf(!clang14)(`reckons npf as documents say${clang14 ? '' : ' (skipped: no clang 14)'}`, () => {
    const { programs } = check(compileBpfFile(clang!, path.join(BPF, 'npf/npf.bpf.c')));
    const [npf] = programs;
    const us = ((npf?.run?.ns ?? 0) / 1000).toFixed(1);
    const read = (name: string): string => readFileSync(path.resolve(BPF, '../../docs', name), 'utf8');
    expect(read('admission.md')).toContain(
      `program npf: hook npf, ${npf?.instructions} instructions, at most ${us} us a run`,
    );
    expect(read('security.md')).toContain(`the shipped \`npf\` is reckoned at ${us} us`);
  });

  it('admits all programs of the project, each with its figure', () => {
    const files = readdirSync(BPF, { recursive: true, encoding: 'utf8' }).filter((f) => f.endsWith('.bpf.c'));
    for (const file of files) {
      const { refusals, programs } = check(compileBpfFile(clang!, path.join(BPF, file)));
      expect([file, refusals]).toEqual([file, []]);
      for (const p of programs) {
        const most = HOOK_TABLE.find((h) => h.name === p.hook)?.runNs ?? 0;
        process.stdout.write(`${p.name}: at most ${p.run?.ns} ns, limit ${most} ns\n`);
        expect([p.name, p.run?.nsPerInstruction]).toEqual([p.name, 0]);
      }
    }
  }, 60_000);
});
