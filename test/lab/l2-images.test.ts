/**
 * Root file systems of nested guests: each is built alike twice, and is a service that answers. `npm test` has bash
 * and redis in run.test.ts; this is part of `npm run test:soak`, with nginx. HT_TEST_IMAGES=all takes all,
 * HT_TEST_IMAGES=node,java some.
 */
import { createHash } from 'node:crypto';
import { readFileSync, rmSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CLI } from '../../src/testbed/acceleration.ts';
import { ManagedAcceleration } from '../../src/testbed/managed.ts';
import { L2_IMAGE_NAMES } from '../../src/lab/l2-image-specs.ts';
import { prepareArtifacts } from '../../src/lab/prepare.ts';
import { run, runScript } from '../../src/lab/levels.ts';
import { TEST_KERNEL, useLab } from '../support/lab.ts';

const asked = process.env['HT_TEST_IMAGES'] ?? 'nginx';
const IMAGES = asked === 'all' ? L2_IMAGE_NAMES : asked.split(',');
const ANSWER_MS = 600_000;

const lab = useLab({ images: IMAGES, ...(asked === 'all' ? { l1MemoryMib: 4096 } : {}) });
let acceleration: ManagedAcceleration;
beforeAll(async () => {
  acceleration = await ManagedAcceleration.on(lab(), { arenaMib: 16 });
});
afterAll(() => acceleration.off());

describe.each(IMAGES)('%s', (name) => {
  test('is the same byte for byte when it is built again', async () => {
    const artifacts = await prepareArtifacts({ kernel: TEST_KERNEL });
    const hash = (file: string): string => createHash('sha256').update(readFileSync(file)).digest('hex');
    const first = await artifacts.buildImage(name);
    const before = hash(first.path);
    rmSync(first.path);
    const second = await artifacts.buildImage(name);
    expect([second.key, hash(second.path)]).toEqual([first.key, before]);
  });

  test('starts as a nested guest, opens its port and answers', async () => {
    const { l1 } = lab();
    const events = `/tmp/${name}.events`;
    await runScript(l1, `: >${events}`);
    const job = await l1.spawn([CLI, 'run', name, '--service', '--events', events]);
    try {
      // of busybox, which wakes up when it is there
      const until = `until grep -q answered ${events} || ! kill -0 ${job.pid}; do sleep 0.2; done; cat ${events}`;
      const said = await run(l1, ['sh', '-c', until], { timeoutMs: ANSWER_MS });
      expect(said, await job.output()).toMatch(/"up"[^]*"open"[^]*"answered"/);
    } finally {
      await job.kill('TERM');
      expect(await job.wait({ timeoutMs: 60_000 })).toBe(130);
    }
  });
});
