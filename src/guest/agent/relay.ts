/**
 * Notifications of the host, passed on to the local sessions that asked for them. Events get numbers of the agent's
 * own, which go on when the daemon is restarted and its numbers begin again; a watch of a map gets a number of the
 * agent's own and is asked for again in the host's next session, so local users notice neither.
 */
import { randomUUID } from 'node:crypto';
import { messageOf } from '../../core/errors.ts';
import type { RpcSession } from '../../wire/handlers.ts';
import type { Event, NotificationParams, Params, Result } from '../../wire/schema.ts';
import type { HostCalls } from './reconcile.ts';

const KEPT_EVENTS = 1024;

/** The last events, numbered from 1, and who follows them. */
export class EventRelay {
  /** Epoch of the numbers: with another one they have begun at 1 again. */
  readonly epoch = randomUUID();
  readonly #events: Event[] = [];
  readonly #followers = new Map<RpcSession, { lost: number }>();
  #next = 1;
  /** Where to go on in the host's own numbers, and whose they are. */
  #host: { instance: string; next: number } | undefined;

  /** Has the host tell its events: those since the last session when it is the same daemon, else all it kept. */
  async subscribe(host: HostCalls, instance: string, signal: AbortSignal): Promise<void> {
    const since = this.#host?.instance === instance ? this.#host.next : 1;
    this.#host = { instance, next: since };
    await host.request('events', { since }, { signal });
  }

  add(event: Event): void {
    if (this.#host) this.#host.next = event.seq + 1;
    const own = { ...event, seq: this.#next++ };
    this.#events.push(own);
    if (this.#events.length > KEPT_EVENTS) this.#events.shift();
    for (const [session, follower] of this.#followers) tell(session, follower, own);
  }

  lost(count: number): void {
    for (const follower of this.#followers.values()) follower.lost += count;
  }

  /**
   * Answers `events`: what was kept since that number comes after the answer, then what happens. A number of another epoch
   * says nothing here: then all that is kept.
   */
  follow(session: RpcSession, after: number | undefined, epoch?: string): Result<'events'> {
    const since = epoch !== undefined && epoch !== this.epoch ? 1 : after;
    const next = this.#next;
    const oldest = this.#next - this.#events.length;
    const follower = { lost: since === undefined ? 0 : Math.max(0, oldest - Math.max(1, since)) };
    const missed = since === undefined ? [] : this.#events.filter((e) => e.seq >= since);
    if (!this.#followers.has(session))
      session.signal.addEventListener('abort', () => this.#followers.delete(session), { once: true });
    this.#followers.delete(session);
    setImmediate(() => {
      if (session.signal.aborted) return;
      // what came meanwhile is in neither list
      for (const e of [...missed, ...this.#events.filter((e) => e.seq >= next)]) tell(session, follower, e);
      this.#followers.set(session, follower);
    });
    return { next, epoch: this.epoch };
  }
}

/** A session that does not read loses events, and is told how many. */
function tell(session: RpcSession, follower: { lost: number }, event: Event): void {
  if (follower.lost > 0 && session.notify('events.lost', { count: follower.lost })) follower.lost = 0;
  if (follower.lost > 0 || !session.notify('event', event)) follower.lost++;
}

interface Watch {
  session: RpcSession;
  params: Params<'map.watch'>;
  /** The host's number of it; undefined while the host does not know of it. */
  remote: number | undefined;
  dropped: number;
}

type Changed = NotificationParams<'map.changed'>;

/** Changes that come before the answer which says whose they are. */
const EARLY_KEPT = 256;

export class WatchRelay {
  readonly #watches = new Map<number, Watch>();
  #early: Changed[] = [];
  #nextId = 1;

  /** Answers `map.watch`. The watch ends with the session. Throws what the host answers. */
  async watch(
    session: RpcSession,
    params: Params<'map.watch'>,
    host: HostCalls,
    signal: AbortSignal,
  ): Promise<Result<'map.watch'>> {
    const { watch: remote } = await host.request('map.watch', params, { signal });
    const id = this.#nextId++;
    const watch: Watch = { session, params, remote, dropped: 0 };
    const end = (): void => {
      if (this.#watches.delete(id)) void this.#unwatch(watch, host).catch(() => {}); // over with the host's session
    };
    if (session.signal.aborted) {
      await this.#unwatch(watch, host);
      return { watch: id };
    }
    this.#watches.set(id, watch);
    session.signal.addEventListener('abort', end, { once: true });
    // after the answer, which tells the number
    setImmediate(() => this.#tellEarly());
    return { watch: id };
  }

  /** Answers `map.unwatch`; undefined when this session has no such watch. */
  async unwatch(
    session: RpcSession,
    id: number,
    host: HostCalls,
  ): Promise<Result<'map.unwatch'> | undefined> {
    const watch = this.#watches.get(id);
    if (watch?.session !== session) return undefined;
    this.#watches.delete(id);
    await this.#unwatch(watch, host);
    return {};
  }

  changed(changed: Changed): void {
    for (const [id, watch] of this.#watches)
      if (watch.remote === changed.watch) return this.#tell(id, watch, changed);
    this.#early.push(changed);
    if (this.#early.length > EARLY_KEPT) this.#early.shift();
  }

  /** The host has forgotten all: its numbers mean nothing any more. */
  sessionEnded(): void {
    this.#early = [];
    for (const watch of this.#watches.values()) watch.remote = undefined;
  }

  /** Asks for the watches that the host does not know, in a new session or when their map is there again. */
  async renew(host: HostCalls, signal: AbortSignal, log: (message: string) => void): Promise<void> {
    for (const watch of [...this.#watches.values()])
      if (watch.remote === undefined)
        try {
          watch.remote = (await host.request('map.watch', watch.params, { signal })).watch;
        } catch (e) {
          signal.throwIfAborted();
          log(`watch of map ${watch.params.map} of ${watch.params.object}: ${messageOf(e)}`);
        }
    this.#tellEarly();
  }

  #tellEarly(): void {
    for (const changed of this.#early.splice(0))
      for (const [id, watch] of this.#watches)
        if (watch.remote === changed.watch) this.#tell(id, watch, changed);
  }

  #tell(id: number, watch: Watch, changed: Changed): void {
    const dropped = watch.dropped + changed.dropped;
    const told = watch.session.notify('map.changed', { ...changed, watch: id, dropped });
    watch.dropped = told ? 0 : dropped + changed.changes.length;
  }

  async #unwatch(watch: Watch, host: HostCalls): Promise<void> {
    if (watch.remote !== undefined) await host.request('map.unwatch', { watch: watch.remote });
  }
}
