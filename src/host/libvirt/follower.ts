/**
 * The daemon's view of one libvirt: each running domain that is enabled is a VM. Events and the hook script say when to
 * look; what there is says libvirt alone. While libvirtd does not answer, all stays as it is: QEMUs run without it.
 */
import { HyperturtleError, isHyperturtleError, messageOf } from '../../core/errors.ts';
import { Backoff } from '../../core/retry.ts';
import { sleep, waitFor } from '../../core/wait.ts';
import type { VmSpec } from '../config.ts';
import type { Log } from '../log.ts';
import { readDomain, specOf } from './domain.ts';
import type { DomainFacts } from './domain.ts';
import type { Virsh } from './virsh.ts';

/** Events come in showers: a start has three. */
const GATHER_MS = 100;
/** For events that were missed: between a look and the moment at which virsh has registered itself, for one. */
const LOOK_MS = 30_000;
const EARLY_LOOKS_MS = [1000, 5000];
/** QEMU waits for it, through the hook script, which has a deadline of its own. */
const OFFER_MS = 2500;

/** The daemon, as far as this is concerned with it. */
export interface Followed {
  /**
   * Has exactly the VMs that `wanted` gives, which is called when it is their turn. The names of those that were
   * refused, with the reasons.
   */
  follow: (
    wanted: () => ReadonlyMap<string, VmSpec>,
    signal: AbortSignal,
  ) => Promise<ReadonlyMap<string, string>>;
  /** The VMs of libvirt that the daemon has. */
  current: () => ReadonlyMap<string, VmSpec>;
  /** What runs as that VM; undefined without one of libvirt's. */
  vm: (name: string) =>
    | {
        attached: boolean;
        /** Its arena is there to be opened by QEMU. */
        offered: boolean;
        problem: string | null;
        /** Takes from QEMU what keeps it from being saved. Throws when its guest does not let go. */
        release: () => Promise<void>;
      }
    | undefined;
}

export interface FollowerOptions {
  virsh: Virsh;
  owner: string;
  daemon: Followed;
  log: Log;
}

interface Domain {
  facts: DomainFacts;
  vm: string;
  /** Undefined: it cannot be served, for `problem`. */
  spec: VmSpec | undefined;
  problem: string | undefined;
}

export interface FollowedDomain {
  uuid: string;
  domain: string;
  vm: string;
  problem: string | null;
  /** ISO 8601; null: it is not released. */
  releasedUntil: string | null;
}

export interface FollowerStatus {
  uri: string;
  /** Why libvirt cannot be asked; null when it can. */
  problem: string | null;
  domains: FollowedDomain[];
}

export class LibvirtFollower {
  readonly #options: FollowerOptions;
  /** By UUID, as of the last look. */
  #active = new Map<string, Domain>();
  readonly #announced = new Map<string, { domain: Domain; atMs: number }>();
  readonly #released = new Map<string, { untilMs: number; timer: NodeJS.Timeout }>();
  readonly #stop = new AbortController();
  /** Before the first look there is nothing to conclude from. */
  #looked = false;
  #wake: (() => void) | undefined;
  #due = true;
  #problem: string | undefined = 'not asked yet';
  #running: Promise<void> | undefined;

  constructor(options: FollowerOptions) {
    this.#options = options;
  }

  start(): void {
    this.#running ??= Promise.all([this.#look(), this.#listen()]).then(() => {});
  }

  /** VMs stay as they are. */
  async stop(): Promise<void> {
    this.#stop.abort(new HyperturtleError('HT_INTERRUPTED', 'the daemon is stopping'));
    for (const { timer } of this.#released.values()) clearTimeout(timer);
    this.#wake?.();
    await this.#running;
  }

  /** Something has changed. */
  poke = (): void => {
    this.#due = true;
    this.#wake?.();
  };

  status(): FollowerStatus {
    const domains = [...this.#active.values()].map(({ facts, vm, problem }): FollowedDomain => {
      const released = this.#released.get(facts.uuid);
      return {
        uuid: facts.uuid,
        domain: facts.domain,
        vm,
        problem: problem ?? null,
        releasedUntil: released ? new Date(released.untilMs).toISOString() : null,
      };
    });
    return { uri: this.#options.virsh.uri, problem: this.#problem ?? null, domains };
  }

  /**
   * The hook script's word: libvirt is about to start this domain. Its VM is there, and its arena can be opened, when this
   * returns, or it says why not. Null: it is not enabled.
   */
  async announce(xml: string): Promise<{ vm: string; problem: string | null } | null> {
    const domain = this.#read(xml);
    if (!domain) return null;
    if (!domain.spec) return { vm: domain.vm, problem: domain.problem ?? null };
    const { uuid } = domain.facts;
    this.#takeBack(uuid);
    this.#announced.set(uuid, { domain, atMs: Date.now() });
    const refused = (await this.#apply()).get(domain.vm);
    if (refused !== undefined) return { vm: domain.vm, problem: refused };
    const offered = (): true | undefined => this.#options.daemon.vm(domain.vm)?.offered || undefined;
    await waitFor('arena', offered, { timeoutMs: OFFER_MS, intervalMs: 10 }).catch(() => {});
    const vm = this.#options.daemon.vm(domain.vm);
    return {
      vm: domain.vm,
      problem: vm?.offered === true ? null : (vm?.problem ?? 'its arena is not there yet'),
    };
  }

  /**
   * Takes from a running domain what keeps QEMU from saving or migrating it, for so many seconds: then, or when it has
   * ended, it is served again. Throws HT_NOT_FOUND, and HT_TIMEOUT when its guest does not let go: then it is served on.
   */
  async release(name: string, seconds: number): Promise<FollowedDomain> {
    const { uuid } = this.#find(name).facts;
    await this.#options.daemon.vm(this.#find(name).vm)?.release();
    clearTimeout(this.#released.get(uuid)?.timer);
    const untilMs = Date.now() + seconds * 1000;
    this.#released.set(uuid, { untilMs, timer: setTimeout(this.poke, seconds * 1000 + 1).unref() });
    await this.#apply();
    return this.#statusOf(uuid);
  }

  /** Ends release() before its time. Throws HT_NOT_FOUND. */
  async take(name: string): Promise<FollowedDomain> {
    const { uuid } = this.#find(name).facts;
    this.#takeBack(uuid);
    await this.#apply();
    return this.#statusOf(uuid);
  }

  #takeBack(uuid: string): void {
    clearTimeout(this.#released.get(uuid)?.timer);
    this.#released.delete(uuid);
  }

  #statusOf(uuid: string): FollowedDomain {
    const found = this.status().domains.find((d) => d.uuid === uuid);
    if (found) return found;
    throw new HyperturtleError('HT_NOT_FOUND', 'the domain has ended meanwhile');
  }

  #find(name: string): Domain {
    const found = [...this.#active.values()].find(
      ({ facts, vm }) => facts.domain === name || facts.uuid === name || vm === name,
    );
    if (found) return found;
    const names = [...this.#active.values()].map((d) => d.facts.domain);
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `no domain '${name}' that runs and is enabled; there are: ${names.join(', ') || 'none'}`,
    );
  }

  /** Undefined for a domain that is not ours. Throws HT_CONFIG for what is no domain. */
  #read(xml: string): Domain | undefined {
    const facts = readDomain(xml);
    if (!facts.vm && facts.wrong === undefined) return undefined;
    const vm = facts.vm?.name ?? facts.domain;
    try {
      return { facts, vm, spec: specOf(facts, this.#options.owner).spec, problem: undefined };
    } catch (e) {
      return { facts, vm, spec: undefined, problem: messageOf(e) };
    }
  }

  async #listen(): Promise<void> {
    const { signal } = this.#stop;
    const backoff = new Backoff();
    while (!signal.aborted) {
      const since = performance.now();
      const early = EARLY_LOOKS_MS.map((ms) => setTimeout(this.poke, ms).unref());
      this.poke();
      const why = await this.#options.virsh.events(this.poke, signal);
      early.forEach(clearTimeout);
      if (signal.aborted) return;
      this.#options.log.debug({ why }, 'no events of libvirt');
      if (performance.now() - since > 1000) backoff.reset();
      await sleep(backoff.nextMs(), signal).catch(() => {});
    }
  }

  async #look(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      this.#due = false;
      try {
        await this.#lookOnce();
        this.#say(undefined);
      } catch (e) {
        if (!signal.aborted) this.#say(e);
      }
      await sleep(GATHER_MS, signal).catch(() => {});
      await this.#whenDue();
    }
  }

  async #whenDue(): Promise<void> {
    if (this.#due || this.#stop.signal.aborted) return;
    const timer = setTimeout(this.poke, LOOK_MS);
    await new Promise<void>((resolve) => (this.#wake = resolve));
    clearTimeout(timer);
    this.#wake = undefined;
  }

  #say(e: unknown): void {
    const problem = e === undefined ? undefined : messageOf(e);
    if (problem !== undefined && problem !== this.#problem) {
      if (isHyperturtleError(e))
        this.#options.log.warn({ problem }, 'libvirt cannot be asked: VMs stay as they are');
      else this.#options.log.error({ err: e }, 'following libvirt');
    }
    this.#problem = problem;
  }

  async #lookOnce(): Promise<void> {
    const { virsh } = this.#options;
    const { signal } = this.#stop;
    const begunMs = Date.now();
    const uuids = await virsh.active(signal);
    const found = new Map<string, Domain>();
    const seen = new Set<string>();
    for (const xml of await virsh.live(uuids, signal)) {
      const domain = this.#read(xml);
      seen.add(domain?.facts.uuid ?? uuidOf(xml));
      if (domain) found.set(domain.facts.uuid, domain);
    }
    // its process ends a moment before or after libvirt says so; what runs on is not taken its VM from
    let lingering = false;
    for (const [uuid, domain] of this.#active) {
      const attached = this.#options.daemon.vm(domain.vm)?.attached === true;
      // or it runs, and its XML could not be read just now
      if (seen.has(uuid) || !(attached || uuids.includes(uuid))) continue;
      found.set(uuid, domain);
      lingering = true;
    }
    this.#active = found;
    this.#looked = true;
    // libvirt lists a domain before it calls the hook: one that it does not list has failed to start
    for (const [uuid, { atMs }] of this.#announced) if (atMs < begunMs) this.#announced.delete(uuid);
    for (const [uuid, { untilMs }] of this.#released)
      if (untilMs <= Date.now() || !found.has(uuid)) this.#takeBack(uuid);
    await this.#apply();
    if (lingering) setTimeout(this.poke, 1000).unref();
  }

  /** Has the daemon serve what there is to serve. */
  async #apply(): Promise<ReadonlyMap<string, string>> {
    const refused = await this.#options.daemon.follow(() => this.#wanted(), this.#stop.signal);
    for (const domain of this.#active.values()) {
      const problem = refused.get(domain.vm);
      if (domain.spec && problem !== undefined && domain.problem === undefined) domain.problem = problem;
    }
    return refused;
  }

  #wanted(): Map<string, VmSpec> {
    const wanted = new Map(this.#looked ? [] : this.#options.daemon.current());
    const announced = [...this.#announced.values()].map((a) => a.domain);
    const names = new Map<string, Domain>();
    for (const domain of [...announced, ...this.#active.values()]) {
      const { uuid } = domain.facts;
      const first = names.get(domain.vm);
      if (first && first.facts.uuid !== uuid)
        domain.problem = `domain '${first.facts.domain}' is VM '${domain.vm}' already: enable this one again with another name`;
      if (first || !domain.spec) continue;
      names.set(domain.vm, domain);
      if (!this.#released.has(uuid)) wanted.set(domain.vm, domain.spec);
    }
    return wanted;
  }
}

const uuidOf = (xml: string): string => /<uuid>([0-9a-f-]{36})<\/uuid>/.exec(xml)?.[1] ?? '';
