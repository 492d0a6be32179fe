import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';

describe('the loader', () => {
  afterEach(() => {
    vi.unstubAllEnvs();
  });

  it('gives an object longer on a kernel that is slow for a known reason', async () => {
    vi.stubEnv('HYPERTURTLE_PATIENCE', '6');
    vi.resetModules();
    const { Loader } = await import('../../../../src/host/loader/loader.ts');
    const dir = mkdtempSync(path.join(os.tmpdir(), 'ht-loader-'));
    const workerPath = path.join(dir, 'worker.mjs');
    writeFileSync(workerPath, 'setInterval(() => {}, 1000);\n'); // it never answers
    const loader = new Loader({ workerPath });
    try {
      await expect(
        loader.load({ vm: 'v', name: 'slow', elf: new Uint8Array(), timeoutMs: 50 }),
      ).rejects.toMatchObject({ code: 'HT_TIMEOUT', message: "loading object 'slow': not within 0.3 s" });
    } finally {
      await loader.close();
      rmSync(dir, { recursive: true });
    }
  });
});
