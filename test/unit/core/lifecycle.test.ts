/** What is undone, and what is told then. */
import { describe, expect, it } from 'vitest';
import { CleanupStack } from '../../../src/core/lifecycle.ts';
import { withStep } from '../../../src/core/progress.ts';
import type { Progress } from '../../../src/core/progress.ts';

describe('a stack of steps', () => {
  it('runs when what it belongs to fails, whose failure is told', async () => {
    const undo = new CleanupStack();
    const undone: string[] = [];
    const made = undo.onFailure(() => {
      undo.add('first', () => void undone.push('first'));
      undo.add('second', () => Promise.reject(new Error('not undone')));
      return Promise.reject(new Error('broken'));
    });
    await expect(made).rejects.toThrow(/^broken$/);
    expect(undone).toEqual(['first']);
  });

  it('stays when all went well', async () => {
    const undo = new CleanupStack();
    const undone: string[] = [];
    undo.add('first', () => void undone.push('first'));
    expect(await undo.onFailure(() => Promise.resolve(7))).toBe(7);
    expect(undone).toEqual([]);
    await undo.run();
    expect(undone).toEqual(['first']);
  });
});

describe('a step', () => {
  it('is done with a remark about its result, or has failed', async () => {
    const told: string[] = [];
    const progress: Progress = {
      note: () => {},
      step: (what) => ({
        update: (detail) => void told.push(`${what}: ${detail}`),
        done: (remark) => void told.push(`${what} done: ${remark ?? ''}`),
        fail: () => void told.push(`${what} failed`),
      }),
    };
    const measured = withStep(
      progress,
      'measure',
      (step) => {
        step.update('half');
        return Promise.resolve(3);
      },
      (n) => `${n} MiB`,
    );
    expect(await measured).toBe(3);
    await expect(withStep(progress, 'break', () => Promise.reject(new Error('no')))).rejects.toThrow('no');
    expect(told).toEqual(['measure: half', 'measure done: 3 MiB', 'break failed']);
  });
});
