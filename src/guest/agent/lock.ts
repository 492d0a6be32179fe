/** One at a time: what changes the host's state or the desired state must see both at rest. */
export class Lock {
  #last: Promise<unknown> = Promise.resolve();

  /** Runs `work` when all that came before has ended. Throws the signal's reason when that comes while it waits. */
  async run<T>(work: () => Promise<T>, signal: AbortSignal): Promise<T> {
    const before = this.#last;
    let done = (): void => {};
    this.#last = new Promise<void>((resolve) => (done = resolve));
    try {
      await before;
      signal.throwIfAborted();
      return await work();
    } finally {
      done();
    }
  }
}
