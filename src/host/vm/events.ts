/** What happened to one VM: the last 1024 events, numbered from 1, and who follows them. */
import type { Event, EventBody } from '../../wire/schema.ts';

const KEPT = 1024;

export class EventRing {
  readonly #events: Event[] = [];
  readonly #followers = new Set<(e: Event) => void>();
  #next = 1;

  /** Number of the next event. */
  get next(): number {
    return this.#next;
  }

  add(body: EventBody): void {
    const event: Event = { seq: this.#next++, time: new Date().toISOString(), ...body };
    this.#events.push(event);
    if (this.#events.length > KEPT) this.#events.shift();
    for (const follower of this.#followers) follower(event);
  }

  /** Events from number `since` on, as far as they are kept, and how many of them are not. */
  from(since: number): { events: readonly Event[]; lost: number } {
    const oldest = this.#next - this.#events.length;
    return {
      events: this.#events.filter((e) => e.seq >= since),
      lost: Math.max(0, oldest - Math.max(1, since)),
    };
  }

  /** The last `count` of those kept, newest first. */
  last(count: number): Event[] {
    return this.#events.slice(-count).reverse();
  }

  /** Calls `follower` with each event from now on, until the returned function is called. */
  follow(follower: (e: Event) => void): () => void {
    this.#followers.add(follower);
    return () => this.#followers.delete(follower);
  }
}

/** The newest events of all these VMs, newest first. */
export function lastEvents(
  vms: readonly { name: string; events: EventRing }[],
  limit: number,
): { vm: string; event: Event }[] {
  return vms
    .flatMap((vm) => vm.events.last(limit).map((event) => ({ vm: vm.name, event })))
    .sort((a, b) => (a.event.time < b.event.time ? 1 : a.event.time > b.event.time ? -1 : 0))
    .slice(0, limit);
}
