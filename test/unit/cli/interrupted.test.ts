import { describe, expect, it } from 'vitest';
import { orInterrupted } from '../../../src/cli/shared/in-lab.ts';
import { HyperturtleError } from '../../../src/core/errors.ts';
import { sleep } from '../../../src/core/wait.ts';

const reason = new HyperturtleError('HT_INTERRUPTED', 'interrupted by SIGINT');

describe('work in a lab that is interrupted', () => {
  it('has its machines ended at once, whatever it would still undo in them', async () => {
    const abort = new AbortController();
    let ended = false;
    const undoing = sleep(60_000);
    const t0 = performance.now();
    setTimeout(() => abort.abort(reason), 20);
    const end = async (): Promise<void> => {
      await sleep(10);
      ended = true;
    };
    await expect(orInterrupted(undoing, abort.signal, end)).rejects.toBe(reason);
    expect(ended).toBe(true);
    expect(performance.now() - t0).toBeLessThan(4000);
  });

  it('tells of the interruption, not of what then fails for want of a machine', async () => {
    const abort = new AbortController();
    const work = sleep(1000, abort.signal).catch(() => {
      throw new HyperturtleError('HT_CHANNEL', 'L1: the machine has ended');
    });
    setTimeout(() => abort.abort(reason), 10);
    await expect(orInterrupted(work, abort.signal, () => Promise.resolve())).rejects.toBe(reason);
  });

  it('settles as it does when nobody interrupts', async () => {
    const { signal } = new AbortController();
    const end = (): Promise<void> => Promise.reject(new Error('not asked for'));
    expect(await orInterrupted(Promise.resolve(7), signal, end)).toBe(7);
    await expect(orInterrupted(Promise.reject(reason), signal, end)).rejects.toBe(reason);
  });
});
