/** Nothing is plugged into a QEMU whose state is on its way in or out. */
import { expect, it } from 'vitest';
import { whenPluggable } from '../../../../src/host/vm/run-state.ts';

/** A QEMU that gives these answers one after the other, the last again and again. */
function qemu(states: readonly [run: string, migration?: string][]) {
  let at = 0;
  const asked: string[] = [];
  return {
    asked,
    execute: (command: string): Promise<unknown> => {
      asked.push(command);
      const [run, migration] = states[Math.min(at, states.length - 1)]!;
      if (command === 'query-status') return Promise.resolve({ status: run, running: run === 'running' });
      at += 1;
      return Promise.resolve(migration === undefined ? {} : { status: migration });
    },
    waitEvent: (): Promise<never> => Promise.reject(new Error('no event')),
  };
}

const { signal } = new AbortController();

it.each([
  ['it runs', [['running']]],
  ['libvirt has not let it run yet', [['prelaunch']]],
  ['a migration has ended', [['running', 'completed']]],
  ['one has failed', [['paused', 'failed']]],
] as const)('at once where %s', async (_, states) => {
  const q = qemu(states as unknown as [string][]);
  await whenPluggable(q, signal);
  expect(q.asked).toEqual(['query-status', 'query-migrate']);
});

it('after a migration that goes on', async () => {
  const q = qemu([
    ['running', 'active'],
    ['running', 'device'],
    ['running', 'cancelled'],
  ]);
  await whenPluggable(q, signal);
  expect(q.asked.filter((c) => c === 'query-migrate')).toHaveLength(3);
});

it('not before the state of another has come in', async () => {
  const asked: string[] = [];
  let left = 3;
  await whenPluggable(
    {
      execute: (command) => {
        asked.push(command);
        if (command === 'query-migrate') return Promise.resolve({ status: 'completed' });
        return Promise.resolve({ status: left-- > 0 ? 'inmigrate' : 'running' });
      },
      waitEvent: () => Promise.reject(new Error('no event')),
    },
    signal,
  );
  expect(asked).toEqual([...Array<string>(4).fill('query-status'), 'query-migrate']);
});

it('never once it is given up', async () => {
  const given = AbortSignal.abort(new Error('given up'));
  const q = qemu([['running', 'active']]);
  await expect(whenPluggable(q, given)).rejects.toThrow('given up');
});
