/**
 * What one VM is served with from attaching to detaching: the methods of the wire, over any number of connections
 * and sessions. Changes take turns. A new boot of L1 begins with nothing: what the old one had is undone first.
 */
import os from 'node:os';
import type { Caller } from '../../bpf/calls.ts';
import { HyperturtleError, messageOf } from '../../core/errors.ts';
import { ChildAbort } from '../../core/lifecycle.ts';
import { Turns } from '../../core/turns.ts';
import { wireFailure } from '../../wire/errors.ts';
import { serve } from '../../wire/handlers.ts';
import type { CallContext, Handlers, RpcSession, ServedMethods } from '../../wire/handlers.ts';
import { negotiate } from '../../wire/hello.ts';
import { statsOfVersion1 } from '../../wire/older.ts';
import { METHODS, TOLERANT_PROTOCOL } from '../../wire/schema.ts';
import type { ArenaInfo, EndedLink, Finding, L1Report, LinkInfo, Params, Result } from '../../wire/schema.ts';
import { HOOK_TABLE } from '../hooks.ts';
import { runNsOf } from '../config.ts';
import { EventFeed } from './event-feed.ts';
import type { EventRing } from './events.ts';
import type { EndedLink as KernelEnd } from '../device.ts';
import type { Log } from '../log.ts';
import { mapDelete, mapDump, mapGet, mapSet } from './map-methods.ts';
import { PacketLinks } from '../packets/packet-links.ts';
import { VmNics } from '../nics/nics.ts';
import type { VmNicsOptions } from '../nics/nics.ts';
import { KeptPrograms } from './kept.ts';
import { nicPinsOf } from './kept-record.ts';
import type { Kept, KeptOptions } from './kept.ts';
import { VmObjects } from './objects.ts';
import type { ObjectsOptions } from './objects.ts';
import { audited } from './audit.ts';
import { Budget, callBudget } from './budget.ts';
import { Watches } from './watches.ts';

/** Map entries that one VM may have looked at, for all its requests and watches. */
const ENTRIES_PER_SECOND = 20_000;
/** Links made and ended, after a burst: each is a grace period of the kernel, and work on the daemon's thread. */
const LINKS_PER_SECOND = 100;
const LINKS_BURST = 64;
/** An L1 reports so often while somebody looks at it, and else. */
const REPORT_MS = { watched: 2000, unwatched: 10_000 } as const;
/** Somebody looks: an operator asked within that time. */
const WATCHED_MS = 10_000;
/** Bytes of objects that are decoded and hashed on the daemon's thread, and checked in that for all VMs. */
const ELF_BYTES_PER_SECOND = 2 << 20;

export interface ServiceOptions extends Omit<ObjectsOptions, 'packets' | 'kept'> {
  /** Where what acts on frames without the daemon is kept, and what that is; left out: nothing is. */
  keep?: Omit<KeptOptions, 'vm' | 'bootId' | 'call'>;
  /** By it what waits for the kernel is called: one call of this VM after the other. */
  call: Caller;
  nics: Omit<VmNicsOptions, 'vm' | 'call' | 'onGoing' | 'onAdded' | 'log'>;
  daemon: { version: string; instance: string };
  events: EventRing;
  audit: Log;
  arenaInfo: () => ArenaInfo;
  doctor: () => Finding[];
  /** Each request: for metrics. `outcome` is `ok` or the error's kind. */
  onCall: (method: string, outcome: string) => void;
}

type Some<Method extends keyof typeof METHODS> = Pick<Handlers<typeof METHODS>, Method>;

export class VmService {
  readonly #options: ServiceOptions;
  readonly #turns = new Turns();
  readonly #objects: VmObjects;
  readonly #kept: KeptPrograms | undefined;
  readonly #watches: Watches;
  readonly nics: VmNics;
  readonly #entries = new Budget(ENTRIES_PER_SECOND, 4096);
  readonly #elfBytes = new Budget(ELF_BYTES_PER_SECOND, 4 << 20);
  readonly #linkChanges = new Budget(LINKS_PER_SECOND, LINKS_BURST);
  readonly #calls = callBudget();
  readonly #feeds = new Map<RpcSession, EventFeed>();
  /** Version that each session speaks. */
  readonly #protocols = new WeakMap<RpcSession, number>();
  /** The module counts for this VM since then. */
  readonly #since = new Date().toISOString();
  readonly methods: ServedMethods;
  /** Boot id of the L1 that speaks; undefined before its first hello and after a reset. */
  #bootId: string | undefined;
  /** Boot id of the L1 whose programs were taken over from an earlier daemon, until it says hello. */
  #keptBootId: string | undefined;
  /** Aborted with the boot: what is being loaded for it is given up. */
  #boot = new AbortController();
  #closed = false;
  #lastHello: { agent: Params<'hello'>['agent']; at: string } | undefined;
  #report: (L1Report & { at: string }) | undefined;
  #watchedAtMs = -Infinity;
  /** The operator's looks do not use up the VM's. */
  readonly #operatorEntries = new Budget(ENTRIES_PER_SECOND, 8192);

  constructor(options: ServiceOptions) {
    this.#options = options;
    this.nics = new VmNics({
      ...options.nics,
      vm: options.vm,
      call: options.call,
      log: options.audit,
      onAdded: (nic) => options.events.add({ type: 'nic.added', nic }),
      taken: (nic) => packets.hooksOf(nic),
      onGoing: async (nic, reason) => {
        // in its turn: a link to it may just be made
        await this.#turns.take(async () => {
          for (const link of await this.#objects.links.dropNic(nic.id))
            options.events.add({ type: 'link.ended', link, reason });
        });
        options.events.add({ type: 'nic.removed', nic, reason });
      },
    });
    const { call, keep, vm } = options;
    const packets = new PacketLinks({
      call,
      nics: () => this.nics.hooked(),
      ...(keep ? { pins: nicPinsOf({ ...keep, vm }), withoutDaemon: keep.withoutDaemon } : {}),
    });
    this.#kept =
      keep && new KeptPrograms({ ...keep, vm, call, bootId: () => this.#bootId ?? this.#keptBootId });
    this.#objects = new VmObjects({
      ...options,
      packets,
      kept: this.#kept,
      withoutDaemon: keep?.withoutDaemon,
    });
    this.#watches = new Watches(this.#objects, this.#entries, () => options.settings().quotas.watches);
    this.methods = audited(serve(METHODS, this.#handlers()), {
      ...options,
      admit: (method) => {
        this.#assertOpen();
        // what a boot that is over still had in the channel must not count for the next one
        if (this.#bootId === undefined && method !== 'hello' && method !== 'ping')
          throw wireFailure('NO_HELLO', 'the VM was reset: hello is expected first');
      },
    });
  }

  /**
   * Takes over what an earlier daemon left to act on frames, before anything is asked. What cannot be taken over is told:
   * it is held as it was, or off, and why.
   */
  async adopt(nics: readonly { id: string; ifindex: number }[]): Promise<void> {
    const { arena, audit, events } = this.#options;
    await this.#turns.take(async () => {
      const kept: Kept | undefined = await this.#kept?.restore(arena.map.info().id, nics);
      if (!kept) return;
      this.#keptBootId = kept.bootId ?? undefined;
      const off = await this.#objects.adopt(kept, nics);
      for (const { link, reason } of off) {
        audit.warn({ object: link.object, hook: link.hook, target: link.target, reason }, 'left off');
        events.add({ type: 'link.ended', link, reason });
      }
      const links = this.#objects.list().links.map((l) => l.id);
      if (links.length > 0)
        audit.info({ links, meanwhile: kept.withoutDaemon }, 'programs on NICs taken over');
    });
  }

  /** What becomes of frames without the daemon has changed. */
  async keepOtherwise(): Promise<void> {
    await this.#turns.take(() => this.#objects.links.keepOtherwise());
  }

  /** For `host vm list` and metrics. */
  status(): {
    agent: { version: string; kernel: string; at: string } | null;
    used: Result<'limits'>['used'];
    links: LinkInfo[];
    ended: EndedLink[];
    leftOff: EndedLink[];
    stats: Result<'stats'>['hooks'];
    since: string;
    l1: (L1Report & { at: string }) | null;
    nics: (Result<'nic.list'>['nics'][number] & { ifname: string })[];
  } {
    const hello = this.#lastHello;
    const { links, ended = [] } = this.#objects.list();
    return {
      links,
      ended,
      leftOff: [...this.#objects.links.leftOff],
      agent: hello ? { ...hello.agent, at: hello.at } : null,
      used: this.#used(),
      stats: this.#stats(),
      since: this.#since,
      l1: this.#report ?? null,
      nics: this.nics.devices().map(({ info, ifname }) => ({ ...info, ifname })),
    };
  }

  /** For the operator, who looks: L1 reports more often for a while. */
  watch(): void {
    this.#watchedAtMs = performance.now();
  }

  /** For each link that the kernel ends, as runs of its program take too long. Throws the signal's reason. */
  async watchEnds(signal: AbortSignal): Promise<never> {
    for (;;) for (const end of await this.#options.hooks.endedLinks(signal)) await this.#overran(end);
  }

  async #overran(end: KernelEnd): Promise<void> {
    const us = (ns: number): number => Math.round(ns / 1000);
    const reason = `the host ended it: a run took ${us(end.ns)} us, the third within a minute above ${us(end.limitNs)} us`;
    const link = await this.#turns.take(() => this.#objects.links.overran(end, reason));
    this.#options.audit.warn({ ...end, ...(link ? { object: link.object, id: link.id } : {}) }, 'link ended');
    if (link) this.#options.events.add({ type: 'link.ended', link, reason });
  }

  objects(): Result<'list'>['objects'] {
    return this.#objects.list().objects;
  }

  mapGet(params: Params<'map.get'>, signal: AbortSignal): Promise<Result<'map.get'>> {
    return mapGet(this.#objects, this.#operatorEntries, params, signal);
  }

  mapDump(params: Params<'map.dump'>, signal: AbortSignal): Promise<Result<'map.dump'>> {
    return mapDump(this.#objects, this.#operatorEntries, params, signal);
  }

  /** Empty when the kernel does not tell: that must not hide the rest. */
  #stats(): Result<'stats'>['hooks'] {
    try {
      return this.#objects.links.stats();
    } catch (e) {
      this.#options.audit.warn({ problem: messageOf(e) }, 'no statistics');
      return [];
    }
  }

  /** Room for notifications again on some connection. */
  drained(): void {
    for (const feed of this.#feeds.values()) feed.pump();
  }

  /**
   * L1 has booted again: undoes what the old boot did, then `after` (the arena may be cleared there). Also when a
   * step fails.
   */
  async reset(reason: string, after?: () => Promise<void>): Promise<void> {
    this.#bootId = undefined;
    this.#keptBootId = undefined;
    this.#report = undefined;
    await this.#clear(reason);
    await this.#turns.take(async () => {
      await after?.();
      this.#options.events.add({ type: 'vm.reset', reason });
    });
  }

  /**
   * Unlinks and unloads all; then nothing is answered any more but UNAVAILABLE. With `keep` what acts on frames stays for
   * the next daemon.
   */
  async close(reason: string, { keep = false }: { keep?: boolean } = {}): Promise<void> {
    this.#closed = true;
    this.#watches.clear();
    if (!keep) return this.#clear(reason);
    this.#boot.abort(new HyperturtleError('HT_UNAVAILABLE', `given up: ${reason}`));
    await this.#turns.take(async () => {
      try {
        for (const link of await this.#objects.release())
          this.#options.events.add({ type: 'link.ended', link, reason });
      } catch (e) {
        this.#options.audit.error({ error: messageOf(e) }, 'not all could be undone');
      }
    });
  }

  async #clear(reason: string): Promise<void> {
    this.#boot.abort(new HyperturtleError('HT_UNAVAILABLE', `given up: ${reason}`));
    this.#boot = new AbortController();
    await this.#turns.take(async () => {
      const { links, objects } = this.#objects.list();
      try {
        await this.#objects.clear();
      } catch (e) {
        // the attachment's end undoes what could not be undone one by one
        this.#options.audit.error({ error: messageOf(e) }, 'not all could be undone');
      }
      for (const link of links) this.#options.events.add({ type: 'link.ended', link, reason });
      for (const o of objects) this.#options.events.add({ type: 'object.unloaded', object: o.name });
    });
  }

  /** In its turn, and given up with the boot it belongs to. */
  async #change<T>(context: CallContext, work: (signal: AbortSignal) => T | Promise<T>): Promise<T> {
    // disposed of: a boot lives long, and AbortSignal.any leaves something in it for each request
    using boot = new ChildAbort(this.#boot.signal);
    const signal = AbortSignal.any([context.signal, boot.signal]);
    return await this.#turns.take(() => {
      this.#assertOpen();
      return work(signal);
    }, signal);
  }

  #handlers(): Handlers<typeof METHODS> {
    return {
      ...this.#sessionHandlers(),
      ...this.#reportHandlers(),
      ...this.#objectHandlers(),
      ...this.#linkHandlers(),
      ...this.#mapHandlers(),
      ...this.#nicHandlers(),
    };
  }

  #sessionHandlers(): Some<'hello' | 'ping' | 'limits' | 'events'> {
    const { events, daemon, vm } = this.#options;
    return {
      hello: async (params, { signal, session }) => {
        const protocol = negotiate(params.protocol);
        this.#protocols.set(session, protocol);
        const before = this.#bootId ?? this.#keptBootId;
        if (before !== undefined && before !== params.bootId) await this.reset('L1 has booted again');
        signal.throwIfAborted();
        this.#bootId = params.bootId;
        this.nics.boot(params.bootId);
        this.#lastHello = { agent: params.agent, at: new Date().toISOString() };
        return {
          protocol,
          daemon: { version: daemon.version, kernel: os.release(), instance: daemon.instance },
          vm,
          nonce: params.nonce,
          limits: this.#options.settings().quotas,
        };
      },
      ping: () => ({}),
      limits: () => {
        const { quotas, policy, signature } = this.#options.settings();
        const hooks = HOOK_TABLE.filter((h) => !policy.hooks || policy.hooks.includes(h.name)).map((h) => ({
          name: h.name,
          instructions: Math.min(h.verifiedInstructions, quotas.instructions),
          runNs: runNsOf(h, quotas),
          programTypes: [h.programType.name],
          mapTypes: h.mapTypes.map((m) => m.name),
          helpers: h.helpers.map((x) => x.name).filter((x) => !policy.forbiddenHelpers.includes(x)),
        }));
        return { limits: quotas, used: this.#used(), hooks, signature };
      },
      events: (params, { session }) => {
        this.#feeds.get(session)?.close();
        const { instance } = daemon;
        const from = params.epoch !== undefined && params.epoch !== instance ? 1 : params.since;
        const feed = new EventFeed(events, session, from ?? events.next);
        if (!this.#feeds.has(session))
          session.signal.addEventListener('abort', () => this.#feeds.delete(session), { once: true });
        this.#feeds.set(session, feed);
        return { next: events.next, ...(this.#isTolerant(session) ? { epoch: instance } : {}) };
      },
    };
  }

  #reportHandlers(): Some<'list' | 'stats' | 'report' | 'doctor'> {
    const objects = this.#objects;
    return {
      list: () => ({ vm: this.#options.vm, arena: this.#options.arenaInfo(), ...objects.list() }),
      stats: (_, { session }) =>
        this.#isTolerant(session)
          ? { hooks: objects.links.stats(), since: this.#since }
          : { hooks: objects.links.stats().map(statsOfVersion1) },
      report: (report) => {
        this.#report = { ...report, at: new Date().toISOString() };
        const watched = performance.now() - this.#watchedAtMs < WATCHED_MS;
        return { nextMs: watched ? REPORT_MS.watched : REPORT_MS.unwatched };
      },
      doctor: () => ({ findings: this.#options.doctor() }),
    };
  }

  #objectHandlers(): Some<'load' | 'unload' | 'replace'> {
    const { events } = this.#options;
    const objects = this.#objects;
    return {
      load: async (params, context) => {
        await this.#elfBytes.take(params.elf.length * 0.75, context.signal);
        const result = await this.#change(context, (signal) => objects.load(params, signal));
        const { name, sha256, signedBy } = result.object;
        if (!result.existed) events.add({ type: 'object.loaded', object: name, sha256, signedBy });
        return result;
      },
      unload: (params, context) =>
        this.#change(context, async () => {
          for (const link of await objects.unload(params.name, params.force ?? false))
            events.add({ type: 'link.ended', link, reason: 'its object was unloaded' });
          events.add({ type: 'object.unloaded', object: params.name });
          return {};
        }),
      replace: async (params, context) => {
        await this.#elfBytes.take(params.elf.length * 0.75, context.signal);
        const result = await this.#change(context, (signal) => objects.replace(params, signal));
        const { object, kept, created } = result;
        events.add({ type: 'object.replaced', object: object.name, sha256: object.sha256, kept, created });
        return result;
      },
    };
  }

  #linkHandlers(): Some<'link' | 'unlink' | 'call'> {
    const { events } = this.#options;
    const objects = this.#objects;
    return {
      link: async (params, context) => {
        await this.#linkChanges.take(1, context.signal);
        return await this.#change(context, async () => {
          const result = await objects.link(params);
          if (!result.existed) events.add({ type: 'link.made', link: result.link });
          return result;
        });
      },
      unlink: async (params, context) => {
        await this.#linkChanges.take(1, context.signal);
        return await this.#change(context, async () => {
          const link = await objects.links.unlink(params.id);
          events.add({ type: 'link.ended', link, reason: 'unlinked' });
          return {};
        });
      },
      call: (params, { signal }) => objects.links.call(params, this.#calls, signal),
    };
  }

  #mapHandlers(): Some<'map.get' | 'map.set' | 'map.delete' | 'map.dump' | 'map.watch' | 'map.unwatch'> {
    const objects = this.#objects;
    return {
      'map.get': (params, { signal }) => mapGet(objects, this.#entries, params, signal),
      'map.set': (params, { signal }) => mapSet(objects, this.#entries, params, signal),
      'map.delete': (params, { signal }) => mapDelete(objects, this.#entries, params, signal),
      'map.dump': (params, { signal }) => mapDump(objects, this.#entries, params, signal),
      'map.watch': (params, { session }) => ({ watch: this.#watches.add(params, session) }),
      'map.unwatch': (params, { session }) => {
        this.#watches.remove(params.watch, session);
        return {};
      },
    };
  }

  #nicHandlers(): Some<'nic.add' | 'nic.del' | 'nic.list'> {
    return {
      // not in their turn with loads: a guest may take its time
      'nic.add': (params, { signal }) => this.nics.add(params, signal),
      'nic.del': async ({ id }) => {
        const result = await this.nics.del(id);
        // what an earlier daemon had on one that is not known any more
        if (!result.existed) await this.#turns.take(() => this.#objects.links.dropNic(id));
        return result;
      },
      'nic.list': () => this.nics.list(),
    };
  }

  /** An older agent refuses answers with members that it does not know. */
  #isTolerant(session: RpcSession): boolean {
    return (this.#protocols.get(session) ?? 0) >= TOLERANT_PROTOCOL;
  }

  #used(): Result<'limits'>['used'] {
    return { ...this.#objects.used(), watches: this.#watches.size, nics: this.nics.count };
  }

  #assertOpen(): void {
    if (this.#closed)
      throw new HyperturtleError(
        'HT_UNAVAILABLE',
        'the host is not attached to this VM any more: try again later',
      );
  }
}
