/** A snapshot of booted machines that is damaged. */
import { statSync, truncateSync } from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import { silentProgress } from '../../src/core/progress.ts';
import { labUp } from '../../src/lab/lab.ts';
import { run } from '../../src/lab/levels.ts';
import { l1AddressBits } from '../../src/lab/machine.ts';
import { prepareArtifacts } from '../../src/lab/prepare.ts';
import { dropSnapshotOf, ensureSnapshot, snapshotKey } from '../../src/lab/snapshot.ts';
import { cacheRoot } from '../../src/lab/xdg.ts';
import { TEST_KERNEL } from '../support/lab.ts';

it('a snapshot that cannot be restored is made again, and the reason is told', async () => {
  // a size that no other test uses, so that nobody else's snapshot is damaged
  const artifacts = await prepareArtifacts({ kernel: TEST_KERNEL });
  const l1 = { cpus: 1, memMib: 640, ...l1AddressBits(artifacts.l0QemuVersion) };
  const spec = { artifacts, accel: 'tcg' as const, clock: 'real' as const, l1 };
  const notes: string[] = [];
  const progress = { ...silentProgress, note: (line: string) => void notes.push(line) };
  const up = () => labUp({ kernel: TEST_KERNEL, l1MemoryMib: l1.memMib, progress });
  try {
    await (await up()).down();
    const state = path.join(cacheRoot(), 'snapshots', `lab-${snapshotKey(spec)}`, 'state');
    const size = statSync(state).size;
    truncateSync(state, size >> 1);
    await using healed = await up();
    expect(await run(healed.l1, ['hostname'])).toBe('l1\n');
    expect(notes.join()).toMatch(/the snapshot cannot be restored \(.+\): booting afresh/);
    const { state: now } = await ensureSnapshot(spec, { cache: cacheRoot(), dir: '/nowhere', progress });
    expect(statSync(now).size).toBeGreaterThan(size >> 1);
  } finally {
    await dropSnapshotOf(spec, cacheRoot());
  }
});
