/**
 * All VMs of the daemon, by name, with where each comes from: the configuration, a command, or a domain of libvirt. The last
 * two are kept in the state directory, so that they are there before anybody is asked. Callers take turns.
 */
import { isDeepStrictEqual } from 'node:util';
import { HyperturtleError, messageOf } from '../../core/errors.ts';
import { socketsOf } from '../config.ts';
import type { HostConfig, VmSpec } from '../config.ts';
import type { Log } from '../log.ts';
import type { ManagedVm } from '../vm/managed-vm.ts';
import type { ReloadResult, VmReport } from './admin-schema.ts';
import { RuntimeVms } from './runtime-vms.ts';

export type Origin = VmReport['from'];

interface Entry {
  vm: ManagedVm;
  from: Origin;
}

interface Wanted {
  spec: VmSpec;
  from: Origin;
}

export interface VmTableOptions {
  stateDirectory: string;
  /** For messages. */
  configFile: string;
  /** Throws what is wrong with its keys. */
  make: (name: string, spec: VmSpec) => ManagedVm;
  /** Throws what is wrong with them. */
  checkKeys: (keys: readonly string[]) => void;
  /** A VM is there no more. */
  onGone: (name: string) => void;
  log: () => Log;
}

export class VmTable {
  readonly #options: VmTableOptions;
  readonly #vms = new Map<string, Entry>();
  readonly #kept: Readonly<Record<Exclude<Origin, 'config'>, RuntimeVms>>;

  /** Throws HT_CONFIG for a file of the state directory that is not ours. */
  constructor(options: VmTableOptions) {
    this.#options = options;
    const { stateDirectory } = options;
    this.#kept = {
      runtime: new RuntimeVms(stateDirectory, 'vms.json'),
      libvirt: new RuntimeVms(stateDirectory, 'libvirt-vms.json'),
    };
  }

  all(): Entry[] {
    return [...this.#vms.values()];
  }

  /** Undefined where there is none, or one of another origin. */
  followed(name: string): ManagedVm | undefined {
    const found = this.#vms.get(name);
    return found?.from === 'libvirt' ? found.vm : undefined;
  }

  /** VMs of libvirt as they are written down. */
  allFollowed(): ReadonlyMap<string, VmSpec> {
    return this.#kept.libvirt.all();
  }

  /** Throws HT_NOT_FOUND. */
  entry(name: string): Entry {
    const found = this.#vms.get(name);
    if (found) return found;
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `there is no VM '${name}'; there are: ${[...this.#vms.keys()].join(', ') || 'none'}`,
    );
  }

  count(): { attached: number; all: number } {
    const phases = this.all().map(({ vm }) => vm.status().phase);
    return { attached: phases.filter((p) => p === 'attached').length, all: phases.length };
  }

  /** Makes all VMs that are wanted, and begins nothing: all are checked before. */
  fill(config: HostConfig): ReadonlyMap<string, Wanted> {
    const wanted = this.#wanted(config);
    for (const [name, { spec, from }] of wanted)
      this.#vms.set(name, { vm: this.#options.make(name, spec), from });
    return wanted;
  }

  start(): void {
    for (const { vm } of this.#vms.values()) vm.start();
  }

  /** Ends serving; what running VMs have stays for the next daemon. What went wrong is given. */
  async stop(): Promise<unknown[]> {
    const all = this.all().map(({ vm }) => vm.stop({ remove: false }));
    const failed = (await Promise.allSettled(all)).filter((r) => r.status === 'rejected');
    this.#vms.clear();
    return failed.map((f) => f.reason as unknown);
  }

  /** The file's VMs, and those of commands and of libvirt whose name and sockets nobody before them uses. */
  #wanted(config: HostConfig): Map<string, Wanted> {
    const wanted = new Map<string, Wanted>();
    const sockets = new Set<string>();
    const use = (name: string, spec: VmSpec, from: Origin): void => {
      wanted.set(name, { spec, from });
      for (const [, socket] of socketsOf(name, spec)) sockets.add(socket);
    };
    for (const [name, spec] of Object.entries(config.vms)) use(name, spec, 'config');
    for (const from of ['runtime', 'libvirt'] as const) {
      if (from === 'libvirt' && config.libvirt === undefined) continue;
      for (const [name, spec] of this.#kept[from].all()) {
        const taken = socketsOf(name, spec).find(([, socket]) => sockets.has(socket))?.[1];
        if (wanted.has(name) || taken !== undefined)
          this.#options
            .log()
            .warn({ vm: name, from, taken }, 'VM is left out: another has its name or socket');
        else use(name, spec, from);
      }
    }
    return wanted;
  }

  /** Applies what differs. Throws what is wrong with keys; then nothing has changed. */
  async reload(config: HostConfig): Promise<Omit<ReloadResult, 'needRestart'>> {
    const wanted = this.#wanted(config);
    const result = {
      added: [] as string[],
      removed: [] as string[],
      restarted: [] as string[],
      updated: [] as string[],
      unchanged: [] as string[],
    };
    // keys are read and everything is made before anything changes
    const made = new Map<string, ManagedVm>();
    for (const [name, { spec }] of wanted) {
      const now = this.#vms.get(name);
      if (!now || !sameMachine(now.vm.spec, spec)) made.set(name, this.#options.make(name, spec));
      else if (!isDeepStrictEqual(now.vm.spec, spec)) this.#options.checkKeys(spec.keys);
    }
    for (const [name, { vm }] of this.#vms) {
      if (wanted.has(name) && !made.has(name)) continue;
      const gone = !wanted.has(name);
      await vm.stop({ remove: gone });
      this.#vms.delete(name);
      if (gone) {
        this.#options.onGone(name);
        result.removed.push(name);
      } else result.restarted.push(name);
    }
    for (const [name, { spec, from }] of wanted) {
      const fresh = made.get(name);
      const now = this.#vms.get(name);
      if (fresh) {
        this.#vms.set(name, { vm: fresh, from });
        fresh.start();
        if (!result.restarted.includes(name)) result.added.push(name);
      } else if (now) {
        now.from = from;
        if (isDeepStrictEqual(now.vm.spec, spec)) result.unchanged.push(name);
        else {
          now.vm.update(spec);
          result.updated.push(name);
        }
      }
    }
    if (config.libvirt === undefined) this.#kept.libvirt.replace(new Map());
    return result;
  }

  /** By command. Throws HT_EXISTS, HT_IN_USE for a socket of another VM, and what is wrong with its keys. */
  add(name: string, spec: VmSpec): void {
    if (this.#vms.has(name)) throw new HyperturtleError('HT_EXISTS', `there is a VM '${name}' already`);
    this.#checkSockets(name, spec);
    const vm = this.#options.make(name, spec);
    this.#kept.runtime.add(name, spec);
    this.#vms.set(name, { vm, from: 'runtime' });
    vm.start();
    this.#options.log().info({ vm: name }, 'VM added');
  }

  /** By command. Throws HT_NOT_FOUND, HT_USAGE for a VM that no command has added. */
  async remove(name: string): Promise<void> {
    const { from } = this.entry(name);
    if (from === 'config')
      throw new HyperturtleError(
        'HT_USAGE',
        `VM '${name}' is in ${this.#options.configFile}: take it out there and reload`,
      );
    if (from === 'libvirt')
      throw new HyperturtleError(
        'HT_USAGE',
        `VM '${name}' is a domain of libvirt: 'hyperturtle host libvirt disable' it, or 'release' it for a while`,
      );
    this.#kept.runtime.remove(name);
    await this.#drop(name);
  }

  /**
   * Has exactly these VMs of libvirt. One that is refused does not keep others from it: the reasons are given. Throws
   * when the state directory cannot be written; then nothing has changed.
   */
  async follow(wanted: ReadonlyMap<string, VmSpec>): Promise<ReadonlyMap<string, string>> {
    const refused = new Map<string, string>();
    // before anything begins: after a kill they are there again, and are taken away by the next look at libvirt
    this.#kept.libvirt.replace(wanted);
    for (const [name, { from }] of [...this.#vms])
      if (from === 'libvirt' && !wanted.has(name)) await this.#drop(name);
    for (const [name, spec] of wanted)
      try {
        await this.#followOne(name, spec);
      } catch (e) {
        refused.set(name, messageOf(e));
      }
    return refused;
  }

  async #followOne(name: string, spec: VmSpec): Promise<void> {
    const now = this.#vms.get(name);
    if (now && now.from !== 'libvirt')
      throw new HyperturtleError(
        'HT_EXISTS',
        `there is a VM '${name}' already: give the domain another name`,
      );
    if (now && isDeepStrictEqual(now.vm.spec, spec)) return;
    this.#checkSockets(name, spec);
    if (now && sameMachine(now.vm.spec, spec)) return now.vm.update(spec);
    const vm = this.#options.make(name, spec);
    await now?.vm.stop({ remove: false });
    this.#vms.set(name, { vm, from: 'libvirt' });
    vm.start();
    this.#options.log().info({ vm: name }, 'VM of libvirt added');
  }

  async #drop(name: string): Promise<void> {
    await this.entry(name).vm.stop({ remove: true });
    this.#vms.delete(name);
    this.#options.onGone(name);
    this.#options.log().info({ vm: name }, 'VM removed');
  }

  #checkSockets(name: string, spec: VmSpec): void {
    const mine = new Set(socketsOf(name, spec).map(([, socket]) => socket));
    for (const { vm } of this.#vms.values()) {
      if (vm.name === name) continue;
      for (const [, socket] of socketsOf(vm.name, vm.spec))
        if (mine.has(socket))
          throw new HyperturtleError(
            'HT_IN_USE',
            `${socket} belongs to VM '${vm.name}': give another socket`,
          );
    }
  }
}

/** Whether what a VM is made of is the same; the rest can change while it runs. */
function sameMachine(a: VmSpec, b: VmSpec): boolean {
  const parts = (s: VmSpec): unknown => [s.qmp, s.agent, s.arenaMib, s.bus, s.owner];
  return isDeepStrictEqual(parts(a), parts(b));
}
