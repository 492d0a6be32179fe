/** One session's subscription to its VM's events: goes on where it stopped when its peer did not read. */
import type { RpcSession } from '../../wire/handlers.ts';
import type { EventRing } from './events.ts';

export class EventFeed {
  readonly #ring: EventRing;
  readonly #session: RpcSession;
  readonly #unfollow: () => void;
  #next: number;

  /** Begins with event number `since`, in the next turn: after the answer to who asked. */
  constructor(ring: EventRing, session: RpcSession, since: number) {
    this.#ring = ring;
    this.#session = session;
    this.#next = since;
    this.#unfollow = ring.follow(() => this.pump());
    session.signal.addEventListener('abort', () => this.close(), { once: true });
    setImmediate(() => this.pump());
  }

  /** Sends what there is, until the session takes no more. To be called when there is room again. */
  pump(): void {
    if (this.#session.signal.aborted) return;
    const { events, lost } = this.#ring.from(this.#next);
    if (lost > 0) {
      if (!this.#session.notify('events.lost', { count: lost })) return;
      this.#next += lost;
    }
    for (const event of events) {
      if (!this.#session.notify('event', event)) return;
      this.#next = event.seq + 1;
    }
  }

  close(): void {
    this.#unfollow();
  }
}
