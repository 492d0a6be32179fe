/**
 * Objects of a hostile tenant against admission, loader and the host's kernel: each is refused by a typed error or
 * loads cleanly, no worker crashes, and nothing is left afterwards.
 */
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openFds } from '../../src/bpf/fds.ts';
import { possibleCpus } from '../../src/bpf/map-ops.ts';
import { SharedArray } from '../../src/bpf/map.ts';
import { isHyperturtleError } from '../../src/core/errors.ts';
import { checkObject } from '../../src/host/admission/check.ts';
import { refusalError } from '../../src/host/admission/verdict.ts';
import { Loader } from '../../src/host/loader/loader.ts';
import { BAD_OBJECTS, GOOD_OBJECT } from '../support/bad-objects.ts';
import { compileBpf, compileBpfFile, findClang, whyNoBpf } from '../support/bpf.ts';
import { compiledSources } from '../support/compiled.ts';
import { mutate } from '../support/mutate.ts';

const MUTATIONS = 300;
const SEED = Number(process.env['HT_SEED'] ?? 20261122);
const ARENA_BYTES = 1 << 20;
const clang = findClang();
const why = whyNoBpf(clang);
const TYPED = /^HT_(REFUSED|QUOTA|VERIFIER_REJECTED|BPF|NOT_FOUND|TIMEOUT)$/;

describe.skipIf(why !== undefined)(`hostile objects${why ? ` (skipped: ${why})` : ''}`, () => {
  let loader: Loader;
  let arena: SharedArray;
  let cpus: number;
  beforeAll(() => {
    cpus = possibleCpus();
    arena = SharedArray.create('arena', ARENA_BYTES);
    loader = new Loader({ workerPath: path.join(compiledSources(), 'host/loader/worker.js') });
  });
  afterAll(async () => {
    const { pids } = loader.status();
    await loader.close();
    arena.close();
    expect(pids.filter((p) => existsSync(`/proc/${p}`))).toEqual([]);
    expect(openFds()).toEqual([]);
  });

  /** As the daemon does it: `loaded`, the rule that refused, or the error's code. */
  async function admit(elf: Uint8Array): Promise<{ outcome: string; code: string; message: string }> {
    try {
      const verdict = checkObject(elf, { policy: { cpus } });
      if (!verdict.ok) throw refusalError('x', verdict.refusals);
      const constants = verdict.constants.includes('arena_bytes') ? { arena_bytes: ARENA_BYTES } : {};
      const reuse = verdict.maps.some((m) => m.arena) ? { arena: arena.file } : {};
      const object = await loader.load({ vm: 'a', name: 'x', elf, constants, reuse, timeoutMs: 20_000 });
      try {
        for (const m of object.maps) {
          const estimate = verdict.maps.find((x) => x.name === m.name);
          expect(estimate, `map ${m.name}`).toBeDefined();
          if (!m.reused) expect([m.name, estimate!.bytes >= m.bytes]).toEqual([m.name, true]);
        }
      } finally {
        object.close();
      }
      return { outcome: 'loaded', code: '', message: '' };
    } catch (e) {
      if (!isHyperturtleError(e)) throw e;
      const rule = e.detail['rule'];
      expect(e.message, 'no addresses of the kernel').not.toMatch(/0xffff[89a-e][0-9a-f]{11}/);
      return { outcome: typeof rule === 'string' ? rule : e.code, code: e.code, message: e.message };
    }
  }

  it('admits what is allowed, and estimates its maps close to what the kernel takes', async () => {
    const elf = compileBpf(clang!, GOOD_OBJECT);
    const verdict = checkObject(elf, { policy: { cpus } });
    expect(verdict.refusals).toEqual([]);
    expect(verdict.maps.map((m) => m.name).sort()).toEqual([
      '.bss',
      '.rodata',
      'arena',
      'each',
      'notes',
      'recent',
      'table',
    ]);
    const object = await loader.load({ vm: 'a', name: 'good', elf, reuse: { arena: arena.file } });
    const sizes = object.maps
      .filter((m) => !m.reused)
      .map((m) => ({
        name: m.name,
        kernel: m.bytes,
        estimate: verdict.maps.find((x) => x.name === m.name)?.bytes ?? 0,
      }));
    object.close();
    for (const s of sizes) {
      expect(s.estimate, JSON.stringify(s)).toBeGreaterThanOrEqual(s.kernel);
      expect(s.estimate, JSON.stringify(s)).toBeLessThanOrEqual(2 * s.kernel + (64 << 10));
    }
  });

  it.each(BAD_OBJECTS)('refuses $what by $expect', async ({ source, expect: expected }) => {
    const result = await admit(compileBpf(clang!, source));
    expect(result.outcome, result.message).toBe(expected);
  });

  it(`refuses or loads ${MUTATIONS} damaged objects (seed ${SEED}), with memory and descriptors flat`, async () => {
    const good = new Uint8Array(compileBpf(clang!, GOOD_OBJECT));
    const npf = new Uint8Array(
      compileBpfFile(clang!, path.resolve(import.meta.dirname, '../../c/bpf/npf/npf.bpf.c')),
    );
    const outcomes = new Map<string, number>();
    const run = async (from: number, to: number): Promise<void> => {
      for (let i = from; i < to; i++) {
        const elf = mutate(i % 2 === 0 ? good : npf, SEED + i);
        const { outcome, code, message } = await admit(elf);
        if (outcome !== 'loaded') expect(code, `seed ${SEED + i}: ${message}`).toMatch(TYPED);
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
      }
    };
    await run(0, 20);
    await settled();
    const before = { fds: readdirSync('/proc/self/fd').length, rss: process.memoryUsage.rss() };
    await run(20, MUTATIONS);
    await settled();
    process.stdout.write(`outcomes: ${JSON.stringify(Object.fromEntries(outcomes))}\n`);
    expect(loader.status().crashed).toBe(0);
    expect(readdirSync('/proc/self/fd').length).toBeLessThanOrEqual(before.fds);
    expect(process.memoryUsage.rss() - before.rss).toBeLessThan(64 << 20);
  }, 600_000);

  /** Only the warm worker is left of those that served. */
  async function settled(): Promise<void> {
    const { waitFor } = await import('../../src/core/wait.ts');
    await waitFor('workers to end', () => (loader.status().pids.length <= 1 ? true : undefined), {
      timeoutMs: 10_000,
    });
  }
});
