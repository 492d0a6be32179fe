/** The loader with real worker processes and the host's kernel: what loads, what is refused, and what it costs others. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { openFds } from '../../src/bpf/fds.ts';
import { MapAccess, possibleCpus } from '../../src/bpf/map-ops.ts';
import { SharedArray } from '../../src/bpf/map.ts';
import { isHyperturtleError } from '../../src/core/errors.ts';
import { waitFor } from '../../src/core/wait.ts';
import { checkObject } from '../../src/host/admission/check.ts';
import { Loader } from '../../src/host/loader/loader.ts';
import type { LoadRequest } from '../../src/host/loader/loader.ts';
import { BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE } from '../../src/kernel/bpf.ts';
import { compileBpf, compileBpfFile, findClang, whyNoBpf } from '../support/bpf.ts';
import { hyperupcall } from '../support/bpf-sources.ts';
import { compiledSources } from '../support/compiled.ts';

const ARENA_BYTES = 1 << 20;
const clang = findClang();
const why = whyNoBpf(clang);

const errorOf = async (p: Promise<unknown>): Promise<{ code: string; message: string; detail: object }> => {
  const e: unknown = await p.then(
    () => undefined,
    (x: unknown) => x,
  );
  if (!isHyperturtleError(e)) throw new Error('a HyperturtleError expected', { cause: e });
  return { code: e.code, message: e.message, detail: e.detail };
};

/** A loop of 16 million turns whose states all differ: the verifier walks its limit of a million instructions. */
const ENDLESS = hyperupcall(`
	__u64 sum = 0;
	for (__u32 i = 0; i < 1 << 24; i++) { sum += i ^ (sum >> 3); asm volatile("" : "+r"(sum)); }
	ctx->template = sum;`);
/** Some 900,000 instructions, which the verifier accepts and the hook does not. */
const LONG = hyperupcall(`
	__u64 sum = 0;
	for (__u32 i = 0; i < 100000; i++) { sum += i; asm volatile("" : "+r"(sum)); }
	ctx->template = sum;`);

describe.skipIf(why !== undefined)(`the loader${why ? ` (skipped: ${why})` : ''}`, () => {
  let loader: Loader;
  let arena: SharedArray;
  let npf: Buffer;
  beforeAll(async () => {
    loader = new Loader({ workerPath: path.join(compiledSources(), 'host/loader/worker.js') });
    arena = SharedArray.create('arena', ARENA_BYTES);
    npf = compileBpfFile(clang!, path.resolve(import.meta.dirname, '../../c/bpf/npf/npf.bpf.c'));
    await waitFor('a warm worker', () => (loader.status().pids.length > 0 ? true : undefined), {
      timeoutMs: 5000,
    });
  });
  afterEach(() => {
    expect(openFds().filter((f) => !/arena|worker|pidfd/.test(f))).toEqual([]);
  });
  afterAll(async () => {
    const { pids } = loader.status();
    await loader.close();
    arena.close();
    expect(openFds()).toEqual([]);
    expect(pids.filter((p) => existsSync(`/proc/${p}`))).toEqual([]);
  });
  const npfRequest = (more: Partial<LoadRequest> = {}): LoadRequest => ({
    vm: 'a',
    name: 'npf',
    elf: npf,
    constants: { arena_bytes: ARENA_BYTES },
    reuse: { arena: arena.file },
    ...more,
  });

  it('gives programs and maps that outlive their worker', async () => {
    expect(checkObject(npf, { policy: { cpus: possibleCpus() } })).toMatchObject({ ok: true, refusals: [] });
    const object = await loader.load(npfRequest());
    try {
      expect(object.programs).toHaveLength(1);
      expect(object.programs[0]).toMatchObject({
        name: 'npf',
        section: 'raw_tp.w/hyperturtle_npf',
        hook: 'npf',
        info: { type: BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE },
      });
      expect(object.maps.map((m) => [m.name, m.reused])).toEqual([
        ['arena', true],
        ['.rodata', false],
      ]);
      expect(object.maps[0]?.info.id).toBe(arena.info().id);
      expect(object.maps.every((m) => m.bytes > 0)).toBe(true);
    } finally {
      object.close();
      object.close();
    }
  });

  it("hands back the verifier's words", async () => {
    const e = await errorOf(loader.load(npfRequest({ constants: { arena_bytes: ARENA_BYTES * 2 } })));
    expect(e.code).toBe('HT_VERIFIER_REJECTED');
    expect((e.detail as { log: string }).log).toMatch(/invalid access to map value/);
    expect((e.detail as { log: string }).log.length).toBeLessThanOrEqual(16 << 10);
  });

  it("refuses what is longer than the hook's budget, and what the verifier gives up on", async () => {
    const long = await errorOf(loader.load({ vm: 'a', name: 'long', elf: compileBpf(clang!, LONG) }));
    expect(long).toMatchObject({
      code: 'HT_REFUSED',
      detail: { rule: 'verified-instructions', program: 'npf' },
    });
    const endless = await errorOf(
      loader.load({ vm: 'a', name: 'endless', elf: compileBpf(clang!, ENDLESS) }),
    );
    expect(endless.code).toBe('HT_VERIFIER_REJECTED');
  });

  it('kills a worker at the deadline, and others load meanwhile', async () => {
    const elf = compileBpf(clang!, ENDLESS);
    const { killed } = loader.status();
    const slow = errorOf(loader.load({ vm: 'hostile', name: 'endless', elf, timeoutMs: 150 }));
    const waiting = errorOf(loader.load({ vm: 'hostile', name: 'endless2', elf, timeoutMs: 150 }));
    const object = await loader.load(npfRequest());
    object.close();
    expect((await slow).code).toBe('HT_TIMEOUT');
    expect((await waiting).code).toBe('HT_TIMEOUT');
    expect(loader.status().killed).toBeGreaterThan(killed);
    expect(loader.status()).toMatchObject({ busy: 0, waiting: 0 });
  });

  it('gives up for its caller', async () => {
    const abort = new AbortController();
    const load = loader.load({
      vm: 'a',
      name: 'endless',
      elf: compileBpf(clang!, ENDLESS),
      signal: abort.signal,
    });
    const settled = load.catch((e: unknown) => e);
    await waitFor('a busy worker', () => (loader.status().busy > 0 ? true : undefined), {
      timeoutMs: 5000,
      intervalMs: 1,
    });
    abort.abort();
    expect(await settled).toMatchObject({ name: 'AbortError' });
  });

  it('answers when a worker is killed, or never begins', async () => {
    const load = errorOf(loader.load({ vm: 'a', name: 'endless', elf: compileBpf(clang!, ENDLESS) }));
    await waitFor('a busy worker', () => (loader.status().busy > 0 ? true : undefined), {
      timeoutMs: 5000,
      intervalMs: 1,
    });
    process.kill(loader.status().busyPids[0]!, 'SIGKILL');
    expect(await load).toMatchObject({
      code: 'HT_CRASHED',
      message: expect.stringMatching(/SIGKILL/) as string,
    });

    const broken = new Loader({ workerPath: '/nonexistent/worker.js' });
    const e = await errorOf(broken.load(npfRequest()));
    expect(e.code).toBe('HT_CRASHED');
    expect(e.message).toMatch(/Cannot find module/);
    await broken.close();
  });

  it('runs workers without rights that they do not need', async () => {
    await loader.load(npfRequest()).then((o) => o.close());
    const warm = loader.status().pids.at(-1) ?? 0; // the one that was started last
    await waitFor(
      'limits',
      () => {
        const status = readFileSync(`/proc/${warm}/status`, 'utf8');
        return /NoNewPrivs:\t1/.test(status) ? true : undefined;
      },
      { timeoutMs: 5000 },
    );
    const status = readFileSync(`/proc/${warm}/status`, 'utf8');
    const bits = BigInt(`0x${/CapEff:\s*([0-9a-f]+)/.exec(status)?.[1]}`);
    expect(bits & ~((1n << 12n) | (1n << 38n) | (1n << 39n))).toBe(0n);
    expect(readFileSync(`/proc/${warm}/environ`, 'utf8')).not.toMatch(/PATH=|HOME=/);
  });

  it('lets several wait in turn, refuses more than its queue holds, and leaves nothing', async () => {
    const small = new Loader({
      workerPath: path.join(compiledSources(), 'host/loader/worker.js'),
      queue: 4,
      workers: 1,
    });
    const fds = openFds().length;
    const order: string[] = [];
    const one = (vm: string): Promise<string> =>
      small.load(npfRequest({ vm })).then(
        (o) => {
          o.close();
          order.push(vm);
          return 'loaded';
        },
        (e: unknown) => (isHyperturtleError(e) ? e.code : String(e)),
      );
    const results = await Promise.all(['a', 'a', 'a', 'b', 'c', 'a', 'b'].map(one));
    expect(results).toEqual(['loaded', 'loaded', 'loaded', 'loaded', 'loaded', 'HT_BUSY', 'HT_BUSY']);
    expect(order).toEqual(['a', 'a', 'b', 'c', 'a']);
    expect(openFds().length).toBeLessThanOrEqual(fds + 4);
    const { pids } = small.status();
    await small.close();
    expect(pids.filter((p) => existsSync(`/proc/${p}`))).toEqual([]);
  });

  it('sets and reads what a program and user space share', async () => {
    const source = hyperupcall('__u32 *v = bpf_map_lookup_elem(&counts, &zero); if (v) ctx->template = *v;', {
      before:
        'struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 4); __type(key, __u32); __type(value, __u32); } counts SEC(".maps");',
    });
    const object = await loader.load({ vm: 'a', name: 'x', elf: compileBpf(clang!, source) });
    const counts = object.maps.find((m) => m.name === 'counts');
    const map = new MapAccess(counts!.file);
    map.set(new Uint8Array(4), Uint8Array.of(1, 2, 3, 4));
    expect(map.get(new Uint8Array(4))).toHaveLength(possibleCpus());
    // a new version takes the map over
    const next = await loader.load({
      vm: 'a',
      name: 'x',
      elf: compileBpf(clang!, `${source}\n/* 2 */`),
      reuse: { counts: counts!.file },
    });
    object.close();
    const kept = next.maps.find((m) => m.name === 'counts');
    expect(kept).toMatchObject({ reused: true, info: { id: map.info.id } });
    expect(new MapAccess(kept!.file).get(new Uint8Array(4))?.[0]).toEqual(Uint8Array.of(1, 2, 3, 4));
    next.close();
  });
});
