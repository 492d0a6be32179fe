/** `hyperturtle bench control` for a few seconds: whether it measures at all, not what. */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { runControl } from '../../src/bench/control/run.ts';
import { controlResultSchema } from '../../src/bench/control/schema.ts';
import { controlTable } from '../../src/bench/control/summary.ts';
import { silentProgress } from '../../src/core/progress.ts';
import { compileBpfFile, findClang } from '../support/bpf.ts';
import { compiledSources } from '../support/compiled.ts';

const clang = findClang();
const why =
  process.getuid?.() !== 0
    ? 'root is needed to load programs'
    : clang === undefined
      ? 'no clang with a BPF back end: run the lab once, or set HYPERTURTLE_CLANG'
      : undefined;

describe.skipIf(why !== undefined)(
  `the benchmark of the control plane${why ? ` (skipped: ${why})` : ''}`,
  () => {
    let dir: string;
    beforeAll(() => {
      dir = mkdtempSync(path.join(os.tmpdir(), 'ht-bench-test-'));
    });
    afterAll(() => rmSync(dir, { recursive: true }));

    it('gives a result that fits its schema, and leaves nothing', async () => {
      const objectFile = path.join(dir, 'npf.bpf.o');
      writeFileSync(
        objectFile,
        compileBpfFile(clang!, path.resolve(import.meta.dirname, '../../c/bpf/npf/npf.bpf.c')),
      );
      const left = (): string[] => readdirSync(os.tmpdir()).filter((n) => n.startsWith('hyperturtle-bench-'));
      const before = left();
      const result = await runControl(
        {
          objectFile,
          roundTrips: 20,
          changes: 2,
          rounds: 1,
          phaseSeconds: 2,
          probeIntervalMs: 5,
          requestsPerSecond: 300,
          window: 8,
        },
        {
          version: '0.0.0',
          progress: silentProgress,
          processPath: path.join(compiledSources(), 'bench/control/process.js'),
        },
      );
      expect(controlResultSchema().safeParse(result).error).toBeUndefined();
      expect(result.summary.failures).toBe(0);
      for (const load of ['requests', 'garbage'])
        for (const n of result.phases.find((p) => p.load === load)!.answeredPerSecond) {
          expect(n).toBeGreaterThan(0);
          expect(n).toBeLessThan(450);
        }
      expect(controlTable(result)).toContain('load and link');
      expect(left()).toEqual(before);
    }, 120_000);
  },
);
