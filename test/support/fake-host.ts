/**
 * The host's end of the channel without a host: a unix socket that serves the whole protocol from a model in memory.
 * `kill()` is kill -9 (all state gone, connections cut), `restart()` another daemon at the same socket.
 */
import { createHash, randomUUID } from 'node:crypto';
import { rmSync } from 'node:fs';
import net from 'node:net';
import { serve } from '../../src/wire/handlers.ts';
import type { RpcSession } from '../../src/wire/handlers.ts';
import { RpcPeer } from '../../src/wire/peer.ts';
import { wireFailure } from '../../src/wire/errors.ts';
import { METHODS } from '../../src/wire/schema.ts';
import type {
  Event,
  EventBody,
  L1Report,
  LinkInfo,
  Limits,
  NicInfo,
  ObjectInfo,
} from '../../src/wire/schema.ts';

const LIMITS: Limits = {
  objects: 16,
  programs: 64,
  links: 16,
  maps: 64,
  mapBytes: 64 << 20,
  elfBytes: 1 << 20,
  instructions: 250_000,
  watches: 16,
  nics: 4,
  requestsPerSecond: 1000,
};

interface Loaded {
  info: ObjectInfo;
  constants: string;
}

export class FakeHost {
  readonly socket: string;
  /** Every request, in order: `load npf`. */
  readonly calls: string[] = [];
  readonly objects = new Map<string, Loaded>();
  links: LinkInfo[] = [];
  /** ELF text -> refused with this rule. */
  readonly refuse = new Map<string, string>();
  readonly nics = new Map<string, NicInfo>();
  readonly reports: L1Report[] = [];
  /** Told of each request before it is done; what it throws is the answer. */
  onCall: (call: string) => void = () => {};
  /** Answers to `doctor`. */
  findings: { level: 'ok' | 'warn' | 'fail'; what: string; mend?: string }[] = [];
  readonly maps = new Map<string, string>();
  instance: string = randomUUID();
  #server: net.Server | undefined;
  #peers = new Set<RpcPeer<Record<never, never>>>();
  #sessions = new Set<RpcSession>();
  #events: Event[] = [];
  #nextLink = 1;
  #nextWatch = 1;
  readonly watches = new Map<number, { session: RpcSession; map: string }>();

  constructor(socket: string) {
    this.socket = socket;
  }

  async start(): Promise<this> {
    rmSync(this.socket, { force: true });
    const server = net.createServer((socket) => {
      const peer: RpcPeer<Record<never, never>> = new RpcPeer(socket, {
        calls: {},
        methods: this.#methods(),
        onClose: () => this.#peers.delete(peer),
      });
      this.#peers.add(peer);
    });
    this.#server = server;
    await new Promise<void>((resolve) => server.listen(this.socket, resolve));
    return this;
  }

  /** Connections are cut and nothing listens any more; what was loaded is gone as with the daemon's process. */
  async kill(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    const closed = new Promise<void>((resolve) => (server ? server.close(() => resolve()) : resolve()));
    this.cut();
    await closed;
    this.objects.clear();
    this.links = [];
    this.watches.clear();
    this.#events = [];
    this.instance = randomUUID();
  }

  /** The connection ends, the daemon lives. */
  cut(): void {
    for (const peer of this.#peers) peer.close();
    this.#peers.clear();
    this.#sessions.clear();
  }

  async restart(): Promise<void> {
    await this.kill();
    await this.start();
  }

  get sessions(): number {
    return this.#sessions.size;
  }

  event(body: EventBody): void {
    const event: Event = { seq: this.#events.length + 1, time: new Date().toISOString(), ...body };
    this.#events.push(event);
    for (const session of this.#sessions) session.notify('event', event);
  }

  changed(watch: number, key: string, value: string): void {
    this.watches.get(watch)?.session.notify('map.changed', { watch, changes: [{ key, value }], dropped: 0 });
  }

  /** What an operator of the host, or a fault, takes away. */
  drop(object: string): void {
    this.objects.delete(object);
    this.links = this.links.filter((l) => l.object !== object);
    this.event({ type: 'object.unloaded', object });
  }

  #load(name: string, elf: string, constants: string): ObjectInfo {
    const text = Buffer.from(elf, 'base64').toString();
    const rule = this.refuse.get(text);
    if (rule !== undefined) throw wireFailure('REFUSED', `'${name}' is refused: ${rule}`, { rule });
    const info: ObjectInfo = {
      name,
      sha256: createHash('sha256').update(Buffer.from(elf, 'base64')).digest('hex'),
      loadedAt: new Date().toISOString(),
      signedBy: null,
      programs: [
        {
          name: 'on_fault',
          section: 'raw_tp.w/hyperturtle_npf',
          hook: 'npf',
          type: 'raw_tracepoint_writable',
          id: 7,
          instructions: 100,
          verifiedInstructions: 1000,
          jitedBytes: 500,
        },
      ],
      maps: [
        {
          name: 'counts',
          type: 'hash',
          keyBytes: 4,
          valueBytes: 8,
          maxEntries: 16,
          bytes: 4096,
          arena: false,
        },
      ],
    };
    this.objects.set(name, { info, constants });
    return info;
  }

  #object(name: string): Loaded {
    const found = this.objects.get(name);
    if (!found) throw wireFailure('NOT_FOUND', `there is no object '${name}'`);
    return found;
  }

  #methods() {
    const note = (call: string): void => {
      this.calls.push(call);
      this.onCall(call);
    };
    return serve(METHODS, {
      hello: ({ nonce }, { session }) => {
        note('hello');
        this.#sessions.add(session);
        session.signal.addEventListener('abort', () => this.#sessions.delete(session));
        const daemon = { version: '0.0.0', kernel: 'fake', instance: this.instance };
        return { protocol: 1, daemon, vm: 'vm1', nonce, limits: LIMITS };
      },
      ping: () => ({}),
      limits: () => ({
        limits: LIMITS,
        used: {
          objects: this.objects.size,
          programs: 0,
          links: 0,
          maps: 0,
          mapBytes: 0,
          watches: 0,
          nics: 0,
        },
        hooks: [],
        signature: 'none' as const,
      }),
      load: ({ name, elf, constants }) => {
        note(`load ${name}`);
        const digest = JSON.stringify(constants ?? {});
        const known = this.objects.get(name);
        if (known) {
          const same =
            known.info.sha256 === createHash('sha256').update(Buffer.from(elf, 'base64')).digest('hex') &&
            known.constants === digest;
          if (!same) throw wireFailure('EXISTS', `there is another object '${name}'`);
          return { object: known.info, existed: true };
        }
        const object = this.#load(name, elf, digest);
        this.event({ type: 'object.loaded', object: name, sha256: object.sha256, signedBy: null });
        return { object, existed: false };
      },
      replace: ({ name, elf, constants }) => {
        note(`replace ${name}`);
        this.#object(name);
        return {
          object: this.#load(name, elf, JSON.stringify(constants ?? {})),
          kept: ['counts'],
          created: [],
        };
      },
      unload: ({ name, force }) => {
        note(`unload ${name}`);
        this.#object(name);
        if (!force && this.links.some((l) => l.object === name))
          throw wireFailure('IN_USE', `'${name}' is linked`);
        this.drop(name);
        return {};
      },
      call: ({ object, words = [] }) => {
        note(`call ${object}`);
        this.#object(object);
        return { answered: true, results: ['0x0', words[0] ?? '0x0', '0x0', '0x0'] };
      },
      link: ({ object, program, hook, target }) => {
        note(`link ${object}`);
        const [first] = this.#object(object).info.programs;
        if (target !== undefined && !this.nics.has(target))
          throw wireFailure('NOT_FOUND', `there is no NIC '${target}'; there are: none`);
        const taken = this.links.find((l) => l.hook === hook);
        if (taken && taken.object !== object) throw wireFailure('HOOK_BUSY', `${hook} has '${taken.object}'`);
        if (taken) return { link: taken, existed: true };
        const link: LinkInfo = {
          id: this.#nextLink++,
          object,
          program: program ?? first?.name ?? '',
          hook,
          target: target ?? null,
          since: new Date().toISOString(),
        };
        this.links.push(link);
        this.event({ type: 'link.made', link });
        return { link, existed: false };
      },
      unlink: ({ id }) => {
        note(`unlink ${id}`);
        const link = this.links.find((l) => l.id === id);
        if (!link) throw wireFailure('NOT_FOUND', `there is no link ${id}`);
        this.links = this.links.filter((l) => l !== link);
        this.event({ type: 'link.ended', link, reason: 'asked for' });
        return {};
      },
      list: () => ({
        vm: 'vm1',
        arena: { bytes: 16 << 20, state: 'plugged' as const, device: '/dev/hyperturtle-arena0' },
        objects: [...this.objects.values()].map((o) => o.info),
        links: this.links,
      }),
      stats: () => ({
        hooks: this.links.map((l) => ({
          hook: l.hook,
          linked: true,
          object: l.object,
          program: l.program,
          runs: 1000,
          handled: 900,
          entries: 1200,
          learned: 3,
          passed: 100,
          reasons: { POOL_EMPTY: 60, NO_TEMPLATE: 40 },
        })),
      }),
      'map.get': ({ object, key }) => {
        this.#object(object);
        return { value: this.maps.get(key) ?? null };
      },
      'map.set': ({ object, key, value, mode }) => {
        this.#object(object);
        if (mode === 'create' && this.maps.has(key)) throw wireFailure('EXISTS', 'there is such a key');
        this.maps.set(key, value);
        return {};
      },
      'map.delete': ({ object, key }) => {
        this.#object(object);
        return { existed: this.maps.delete(key) };
      },
      'map.dump': ({ object, cursor, limit }) => {
        this.#object(object);
        const all = [...this.maps].map(([key, value]) => ({ key, value }));
        const from = Number(cursor ?? 0);
        const to = from + (limit ?? 256);
        return { entries: all.slice(from, to), ...(to < all.length ? { cursor: String(to) } : {}) };
      },
      'map.watch': ({ object, map }, { session }) => {
        note(`watch ${map}`);
        this.#object(object);
        const watch = this.#nextWatch++;
        this.watches.set(watch, { session, map });
        return { watch };
      },
      'map.unwatch': ({ watch }) => {
        note('unwatch');
        this.watches.delete(watch);
        return {};
      },
      events: ({ since }, { session }) => {
        const missed = since === undefined ? [] : this.#events.filter((e) => e.seq >= since);
        setImmediate(() => missed.forEach((e) => session.notify('event', e)));
        return { next: this.#events.length + 1 };
      },
      'nic.add': ({ id = 'nic0', network = 'lan', mac = '02:00:00:00:00:01' }) => {
        note(`nic.add ${id}`);
        const there = this.nics.get(id);
        if (there) return { nic: there, existed: true };
        const nic: NicInfo = {
          id,
          mac,
          network,
          kind: 'tap',
          slot: 16 + this.nics.size,
          mtu: 1500,
          hooks: ['xdp', 'tc-ingress', 'tc-egress'],
          since: new Date().toISOString(),
        };
        this.nics.set(id, nic);
        return { nic, existed: false };
      },
      'nic.del': ({ id }) => {
        note(`nic.del ${id}`);
        for (const link of this.links.filter((l) => l.target === id))
          this.event({ type: 'link.ended', link, reason: 'its NIC was removed' });
        this.links = this.links.filter((l) => l.target !== id);
        return { existed: this.nics.delete(id) };
      },
      'nic.list': () => ({
        nics: [...this.nics.values()],
        networks: [{ name: 'lan', kind: 'tap' as const, mtu: 1500 }],
        free: 4 - this.nics.size,
      }),
      report: (report) => {
        this.reports.push(report);
        return { nextMs: 1000 };
      },
      doctor: () => ({ findings: this.findings }),
    });
  }
}
