/** Calls that wait for the kernel: one of a lane at a time, and no lane keeps the others from theirs. */
import { describe, expect, it } from 'vitest';
import { CallThreads } from '../../../src/bpf/calls.ts';
import type { NativeFunction } from '../../../src/bpf/calls.ts';

type Done = (error: Error | null, result: number) => void;

/** A function of koffi's whose calls last until they are ended by hand. */
class Kernel {
  readonly begun: string[] = [];
  readonly #under = new Map<string, Done>();
  readonly call = Object.assign(() => 0, {
    async: (name: string, done: Done): void => {
      this.begun.push(name);
      this.#under.set(name, done);
    },
  }) as unknown as NativeFunction<[string]>;

  get underWay(): string[] {
    return [...this.#under.keys()];
  }

  async end(name: string, error: Error | null = null): Promise<void> {
    const done = this.#under.get(name);
    this.#under.delete(name);
    done?.(error, 0);
    await turns();
  }
}

/** Promises that are kept have their say. */
const turns = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

describe('calls in threads', () => {
  it('of one lane are made one after the other, in their order, also after one that fails', async () => {
    const kernel = new Kernel();
    const call = new CallThreads(4).lane();
    const all = ['a', 'b', 'c'].map((name) => call(kernel.call, name));
    await turns();
    expect(kernel.underWay).toEqual(['a']);
    await kernel.end('a', new Error('no memory'));
    await expect(all[0]).rejects.toThrow('no memory');
    expect(kernel.underWay).toEqual(['b']);
    await kernel.end('b');
    expect(kernel.underWay).toEqual(['c']);
    await kernel.end('c');
    expect(await all[2]).toEqual({ result: 0, errno: 0 });
  });

  it('of a lane with many wait behind those of lanes with one', async () => {
    const kernel = new Kernel();
    const threads = new CallThreads(2);
    const [hostile, slow, other] = [threads.lane(), threads.lane(), threads.lane()];
    const all = ['h1', 'h2', 'h3', 'h4'].map((name) => hostile(kernel.call, name));
    all.push(slow(kernel.call, 's'), other(kernel.call, 'o'));
    await turns();
    expect(kernel.underWay).toEqual(['h1', 's']);
    await kernel.end('h1');
    expect(kernel.underWay).toEqual(['s', 'o']);
    await kernel.end('o');
    expect(kernel.underWay).toEqual(['s', 'h2']);
    for (const name of ['h2', 'h3', 'h4', 's']) await kernel.end(name);
    await Promise.all(all);
    expect(threads.running).toBe(0);
  });
});
