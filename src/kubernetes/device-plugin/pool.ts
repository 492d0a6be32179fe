/**
 * The NICs of this machine that Kubernetes gives to pods: which there are to be, which there are, and whether each can be
 * used. Their names are the same over every restart, so what kubelet has noted of a pod stays true. Keeps nothing else: who
 * has which is kubelet's to know.
 */
import { isDeepStrictEqual } from 'node:util';
import { HyperturtleError, isHyperturtleError, messageOf } from '../../core/errors.ts';
import type { LocalNic } from '../../guest/nic/nic.ts';
import type { NicInfo } from '../../wire/schema.ts';
import type { Device } from './api.ts';

/** What is asked of the host and of this machine. */
export interface NicMeans {
  list(signal: AbortSignal): Promise<{ nics: NicInfo[]; free: number }>;
  /** Gets it, if it is not there, and binds it to vfio-pci. */
  prepare(id: string, signal: AbortSignal): Promise<NicInfo>;
  /** What this machine's kernel knows of it, without the host. */
  look(nic: NicInfo): LocalNic;
}

export interface PoolSpec {
  /** Names are this and a number. */
  prefix: string;
  /** Undefined: those there are and as many more as the host gives. */
  count: number | undefined;
}

export interface PoolLog {
  info(detail: object, text: string): void;
  warn(detail: object, text: string): void;
}

export class Pool {
  readonly #spec: PoolSpec;
  readonly #means: NicMeans;
  readonly #log: PoolLog;
  /** All that the host ever listed. */
  readonly #known = new Map<string, NicInfo>();
  #answered = false;
  /** How many more the host would give. */
  #free = 0;
  /** Counts what was begun: a list that was asked for earlier does not say that a NIC has gone. */
  #clock = 0;
  readonly #preparedAt = new Map<string, number>();
  #devices: Device[] = [];
  /** Last complaint about each subject: each is logged once. */
  readonly #said = new Map<string, string>();

  constructor(spec: PoolSpec, means: NicMeans, log: PoolLog) {
    this.#spec = spec;
    this.#means = means;
    this.#log = log;
  }

  /** As of the last refresh. */
  get devices(): readonly Device[] {
    return this.#devices;
  }

  /**
   * Asks the host which there are, and looks at all. True when the devices are others than before. Without an answer of the
   * host, what this machine itself knows counts: a NIC works on while the agent or the daemon is replaced. Throws only while
   * the host has never answered.
   */
  async refresh(signal: AbortSignal): Promise<boolean> {
    try {
      await this.#compare(signal);
      this.#answered = true;
      this.#say('host', undefined);
    } catch (e) {
      if (signal.aborted || !this.#answered) throw e;
      this.#say('host', `the host cannot be asked: ${messageOf(e)}`);
    }
    const before = this.#devices;
    this.#devices = [...this.#known.values()]
      .map((nic) => this.#device(nic))
      .sort((a, b) => naturally(a.ID, b.ID));
    return !isDeepStrictEqual(before, this.#devices);
  }

  /** Gets what lacks, and binds what is not bound: a minute for each that does not come. Throws the signal's reason alone. */
  async repair(signal: AbortSignal): Promise<void> {
    for (const id of this.#wanted()) {
      const nic = this.#known.get(id);
      const there = nic !== undefined && nic.slot !== NO_SLOT;
      if (there ? this.#means.look(nic).vfio !== null : this.#free === 0) continue;
      if (!there) this.#free--;
      try {
        await this.#prepare(id, signal);
        this.#say(`getting ${id}`, undefined);
      } catch (e) {
        if (signal.aborted) throw e;
        this.#say(`getting ${id}`, `NIC '${id}' cannot be got: ${messageOf(e)}`);
      }
    }
  }

  /** A NIC that may be given to a pod. Throws HT_NOT_FOUND, and HT_UNAVAILABLE with the reason. */
  usable(id: string): LocalNic {
    return this.#checked(id, (local) => this.#whyNot(local));
  }

  /** A NIC that a pod has, bound again where that is needed. Throws as usable does, and what binding it throws. */
  async ready(id: string, signal: AbortSignal): Promise<LocalNic> {
    const working = (): LocalNic => this.#checked(id, broken);
    try {
      return working();
    } catch (e) {
      if (!isHyperturtleError(e, 'HT_UNAVAILABLE')) throw e;
    }
    await this.#prepare(id, signal);
    return working();
  }

  #checked(id: string, whyNot: (local: LocalNic) => string | undefined): LocalNic {
    const nic = this.#known.get(id);
    if (!nic) throw new HyperturtleError('HT_NOT_FOUND', `there is no NIC '${id}'`);
    const local = this.#means.look(nic);
    const why = whyNot(local);
    if (why !== undefined) throw new HyperturtleError('HT_UNAVAILABLE', `NIC '${id}': ${why}`);
    return local;
  }

  async #prepare(id: string, signal: AbortSignal): Promise<void> {
    const nic = await this.#means.prepare(id, signal);
    this.#known.set(id, nic);
    this.#preparedAt.set(id, ++this.#clock);
  }

  async #compare(signal: AbortSignal): Promise<void> {
    const began = ++this.#clock;
    const { nics, free } = await this.#means.list(signal);
    this.#free = free;
    const own = nics.filter((n) => this.#numberOf(n.id) !== undefined);
    for (const nic of own) this.#known.set(nic.id, nic);
    // its slot is somebody else's as soon as the host says that the NIC has gone
    for (const [id, nic] of this.#known)
      if (!own.some((n) => n.id === id) && (this.#preparedAt.get(id) ?? 0) < began)
        this.#known.set(id, { ...nic, slot: NO_SLOT });
  }

  #wanted(): string[] {
    const { count, prefix } = this.#spec;
    if (count !== undefined) return Array.from({ length: count }, (_, n) => `${prefix}${n}`);
    const ids = new Set(this.#known.keys());
    for (let n = 0, more = this.#free; more > 0; n++)
      if (!ids.has(`${prefix}${n}`)) {
        ids.add(`${prefix}${n}`);
        more--;
      }
    return [...ids];
  }

  #device(nic: NicInfo): Device {
    const local = this.#means.look(nic);
    const why = this.#whyNot(local);
    this.#say(nic.id, why === undefined ? undefined : `NIC '${nic.id}' is given to no pod: ${why}`);
    return {
      ID: nic.id,
      health: why === undefined ? 'Healthy' : 'Unhealthy',
      topology: local.numaNode === null ? null : { nodes: [{ ID: local.numaNode }] },
    };
  }

  #whyNot(local: LocalNic): string | undefined {
    const { count } = this.#spec;
    const { id } = local.nic;
    return count !== undefined && (this.#numberOf(id) ?? 0) >= count
      ? `it is not among the ${count} that are wanted: 'hyperturtle nic del ${id}' gives it back`
      : broken(local);
  }

  #numberOf(id: string): number | undefined {
    if (!id.startsWith(this.#spec.prefix)) return undefined;
    const text = id.slice(this.#spec.prefix.length);
    return /^(0|[1-9]\d{0,5})$/.test(text) ? Number(text) : undefined;
  }

  #say(subject: string, text: string | undefined): void {
    const before = this.#said.get(subject);
    if (text === before) return;
    if (text === undefined) {
      this.#said.delete(subject);
      this.#log.info({}, `${subject}: fine again`);
    } else {
      this.#said.set(subject, text);
      this.#log.warn({}, text);
    }
  }
}

/** Slot of a NIC that the host has no more: no port of this machine has this number. */
const NO_SLOT = -1;

function broken({ nic, address, driver, vfio }: LocalNic): string | undefined {
  if (nic.slot === NO_SLOT) return 'the host does not have it any more';
  if (address === null) return 'its device is not there';
  if (vfio === null) return `driver vfio-pci and an IOMMU group expected, driver ${driver ?? 'none'} found`;
  return undefined;
}

/** `nic-9` before `nic-10`. */
export const naturally = (a: string, b: string): number =>
  a.length - b.length || (a < b ? -1 : a > b ? 1 : 0);
