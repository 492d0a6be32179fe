/** A bounded queue that serves its clients in turn: who asks a lot waits longer, nobody else does. */

export class Turns<T> {
  readonly #queues = new Map<string, T[]>();
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(client: string, item: T): void {
    const queue = this.#queues.get(client);
    if (queue) queue.push(item);
    else this.#queues.set(client, [item]);
    this.#length++;
  }

  /** The oldest item of the client whose turn it is, of those that `may` have one now. */
  next(may: (client: string) => boolean): T | undefined {
    for (const [client, queue] of this.#queues) {
      if (!may(client)) continue;
      const item = queue.shift();
      // to the end of the round
      this.#queues.delete(client);
      if (queue.length > 0) this.#queues.set(client, queue);
      if (item === undefined) continue;
      this.#length--;
      return item;
    }
    return undefined;
  }

  remove(client: string, item: T): boolean {
    const queue = this.#queues.get(client);
    const i = queue?.indexOf(item) ?? -1;
    if (!queue || i < 0) return false;
    queue.splice(i, 1);
    if (queue.length === 0) this.#queues.delete(client);
    this.#length--;
    return true;
  }
}
