/**
 * The NICs that one VM was given while it runs. What the VM has is what QEMU says; the record in the run directory tells
 * which network device is behind it. Changes take turns; each is undone in reverse when a step fails.
 */
import type { Caller } from '../../bpf/calls.ts';
import { here } from '../../bpf/calls.ts';
import { HyperturtleError, messageOf } from '../../core/errors.ts';
import { Turns } from '../../core/turns.ts';
import type { NicInfo, Params, Result } from '../../wire/schema.ts';
import type { PacketHook } from '../hooks.ts';
import type { HookedNic } from '../packets/packet-links.ts';
import { isRefusal } from '../qemu-devices.ts';
import { checkQuotas, freeId, macFor, networkFor, sameNic } from './allocate.ts';
import type { NicSettings } from './allocate.ts';
import {
  backendThere,
  cleanBackend,
  kindOf,
  makeBackend,
  networkMtu,
  removeBackend,
  removeStrays,
} from './backend.ts';
import type { Backend } from './backend.ts';
import { Nic } from './nic.ts';
import {
  closeStrayFds,
  hasIommu,
  isOccupied,
  newDeviceIdOf,
  pluggedNics,
  plugNic,
  portsOf,
  qemuVersion,
  refused,
  unplugNic,
} from './plug.ts';
import type { NicQmp } from './plug.ts';
import { readNics, writeNics } from './record.ts';
import type { NicRecord } from './record.ts';
import { givenTo, planRecovery } from './recover.ts';

/** For the guest to let a NIC go. */
const UNPLUG_MS = 30_000;
/** Before it a vhost-vdpa device behind an IOMMU is given no mappings (hw/virtio/vhost-vdpa.c, 7.2). */
const VDPA_IOMMU_QEMU = 8;
const NEW_BOOT = 'L1 has booted again';

export interface VmNicsOptions {
  vm: string;
  /** By it what waits for the kernel is called; left out, on this thread. */
  call?: Caller;
  run: string;
  process: { pid: number; startTicks: number };
  settings: () => NicSettings;
  /** Throws HT_UNAVAILABLE while there is no connection. */
  qmp: () => NicQmp;
  /** Just before a NIC goes, or when it has gone: whatever is attached to its network device ends now. */
  onGoing: (nic: NicInfo, reason: string) => void | Promise<void>;
  onAdded: (nic: NicInfo) => void;
  /** Hooks of a NIC on which what an earlier daemon attached has been taken over. */
  taken?: (nic: string) => readonly PacketHook[];
  log: { warn(fields: object, message: string): void; info(fields: object, message: string): void };
  /** For the guest to let a NIC go; default 30 s. */
  unplugMs?: number;
}

/** What the VM was started with that NICs need, as its QEMU says. */
export interface NicMachine {
  ports: number;
  iommu: boolean;
}

export class VmNics {
  readonly #options: VmNicsOptions;
  readonly #turns = new Turns();
  #nics: readonly Nic[] = [];
  /** Boot id of the L1 that has the NICs; null before a first hello. */
  #bootId: string | null = null;
  #machine: NicMachine | undefined;
  /** QEMU has been asked which it has. */
  #recovered = false;

  constructor(options: VmNicsOptions) {
    this.#options = options;
  }

  get count(): number {
    return this.#nics.length;
  }

  /** Undefined while QEMU has not been asked, or when the VM has no networks. */
  get machine(): NicMachine | undefined {
    return this.#machine;
  }

  /** For links: those that are there. */
  hooked(): HookedNic[] {
    return this.#nics
      .filter((n) => n.state === 'plugged' && n.info.kind === 'tap')
      .map(({ info, record: { ifindex } }) => ({ id: info.id, ifindex, hooks: info.hooks }));
  }

  /** For metrics and people in L0. */
  devices(): readonly Readonly<NicRecord>[] {
    return this.#nics.map((n) => n.record);
  }

  /** Throws HT_NOT_FOUND, HT_EXISTS, HT_QUOTA, HT_USAGE, HT_UNAVAILABLE, HT_QMP; then nothing of it is left. */
  add(params: Params<'nic.add'>, signal: AbortSignal): Promise<Result<'nic.add'>> {
    return this.#turns.take(() => this.#add(params, signal), signal);
  }

  /**
   * Throws HT_TIMEOUT when the guest does not let it go: it is then still listed, and can be asked for again. Throws
   * HT_UNAVAILABLE while it is not known whether it is there.
   */
  del(id: string): Promise<Result<'nic.del'>> {
    const { run, vm, process } = this.#options;
    return this.#turns.take(async () => {
      const nic = this.#find(id);
      if (!nic && !this.#recovered && givenTo(process, readNics(run, vm)).some((n) => n.info.id === id))
        throw new HyperturtleError(
          'HT_UNAVAILABLE',
          `NIC '${id}': an earlier daemon gave it, and QEMU has not said yet whether it is there: try again later`,
        );
      if (!nic) return { existed: false };
      await this.#remove(nic, 'removed by command');
      return { existed: true };
    });
  }

  async list(): Promise<Result<'nic.list'>> {
    const { networks, max } = this.#options.settings();
    const free = Math.max(0, Math.min(max - this.#nics.length, (await this.#freePorts()).length));
    return {
      nics: this.#nics.filter((n) => n.complete).map((n) => n.info),
      networks: Object.entries(networks).map(([name, n]) => ({
        name,
        kind: kindOf(n),
        mtu: networkMtu(n),
      })),
      free,
    };
  }

  /**
   * Whenever QEMU can be asked: takes up what an earlier daemon gave, and takes away what is not whole, whether of an
   * earlier daemon or of an earlier connection. Never throws.
   */
  recover(): Promise<void> {
    return this.#turns.take(async () => {
      const { run, vm, log } = this.#options;
      try {
        const record = this.#nics.length > 0 ? undefined : readNics(run, vm);
        this.#bootId ??= record?.bootId ?? null;
        const earlier = givenTo(this.#options.process, record);
        await this.#takeUp(earlier);
        await this.#clearAway();
        this.#recovered = true;
        await removeStrays(vm, this.devices()).catch(this.#warn('of nobody'));
        this.#write();
        if (earlier.length > 0) log.info({ nics: this.#nics.map((n) => n.id) }, 'NICs found again');
        if (record && record.bootId !== this.#bootId) void this.clear(NEW_BOOT);
        this.#machine = await this.#askMachine();
      } catch (e) {
        log.warn({ problem: messageOf(e) }, 'NICs of an earlier daemon');
      }
    });
  }

  async #takeUp(earlier: readonly NicRecord[]): Promise<void> {
    const { call = here, taken } = this.#options;
    for (const nic of earlier) await cleanBackend(call, nic, taken?.(nic.info.id) ?? []);
    // all of them at once: whatever goes wrong with one, the record keeps the others
    this.#nics = [...this.#nics, ...earlier.map((record) => new Nic(record))];
  }

  async #clearAway(): Promise<void> {
    const { qmp } = this.#options;
    await closeStrayFds(qmp());
    const { broken, strays } = planRecovery(this.#nics, await pluggedNics(qmp()), backendThere);
    for (const nic of broken) await this.#tryRemove(nic, 'it was not whole');
    for (const device of strays) await this.#unplug(device).catch(this.#warn(device));
  }

  async #askMachine(): Promise<NicMachine | undefined> {
    const { qmp, settings } = this.#options;
    const { networks, ports } = settings();
    if (Object.keys(networks).length === 0) return undefined;
    return { ports: (await portsOf(qmp(), ports)).length, iommu: await hasIommu(qmp()) };
  }

  /**
   * QEMU says that a device has gone: late, after it was asked for, or because L1 has switched its slot off. Never
   * throws.
   */
  async released(device: unknown): Promise<void> {
    const nic = this.#nics.find((n) => n.device === device);
    if (!nic) return;
    await this.#turns.take(async () => {
      // not when a turn that went on meanwhile has removed it, or put another of this name in its place
      if (this.#nics.includes(nic)) await this.#tryRemove(nic, 'the VM has let it go');
    });
  }

  /** Which boot of L1 speaks: what an earlier one had goes. */
  boot(bootId: string): void {
    const before = this.#bootId;
    this.#bootId = bootId;
    if (before !== null && before !== bootId) void this.clear(NEW_BOOT);
  }

  /** The VM's NICs go, when its kernel lets them. Never throws. */
  clear(reason: string): Promise<void> {
    for (const nic of this.#nics) void this.#end(nic, reason);
    return this.#turns.take(async () => {
      for (const nic of [...this.#nics]) await this.#tryRemove(nic, reason);
    });
  }

  /** The process has ended, and with it the network devices. */
  ended(): void {
    const gone = this.#nics;
    for (const nic of gone) void this.#end(nic, 'the VM has ended');
    this.#nics = [];
    this.#writeLater();
    for (const nic of gone) void removeBackend(nic.record).catch(this.#warn(nic.id));
  }

  async #add(params: Params<'nic.add'>, signal: AbortSignal): Promise<Result<'nic.add'>> {
    const { vm } = this.#options;
    const settings = this.#options.settings();
    const { name, network } = networkFor(settings, params.network);
    const id = params.id ?? freeId(this.#infos());
    const there = this.#find(id);
    if (there?.state === 'plugged') return { nic: sameNic(there.info, params), existed: true };
    // an earlier one of this name, which should have gone
    if (there) await this.#remove(there, 'replaced');
    checkQuotas(settings, this.#infos(), name, network);
    const mac = macFor(settings, this.#infos(), { vm, id, network: name, asked: params.mac });
    const ports = await this.#freePorts();
    if (kindOf(network) === 'vdpa') await this.#refuseOldQemu();
    const behind = await makeBackend(this.#options.call ?? here, network, { vm, nic: id, mac });
    let kept = false;
    try {
      for (const port of ports) {
        const info: NicInfo = {
          id,
          mac,
          network: name,
          kind: behind.kind,
          slot: port.slot,
          mtu: behind.mtu,
          hooks: behind.hooks.filter((h) => !settings.hooks || settings.hooks.includes(h)),
          since: new Date().toISOString(),
        };
        const plugged = await this.#plug(info, port.id, behind, signal, () => (kept = true));
        if (plugged) return { nic: info, existed: false };
      }
      throw new HyperturtleError(
        'HT_UNAVAILABLE',
        'this VM has no spare PCIe root port: it must be started with some (hyperturtle host args prints how)',
      );
    } finally {
      await behind.close();
      if (!kept) await behind.discard().catch(this.#warn(id));
    }
  }

  /** False when the port is occupied. `keep` is called when what is behind the NIC must stay: QEMU has it, or may have it. */
  async #plug(
    info: NicInfo,
    port: string,
    { ifname, ifindex, netdev }: Backend,
    signal: AbortSignal,
    keep: () => void,
  ): Promise<boolean> {
    const device = newDeviceIdOf(info.id);
    const nic = new Nic({ info, device, port, ifname, ifindex, complete: false });
    this.#record(nic);
    try {
      await plugNic(this.#options.qmp(), { device, mac: info.mac, port, netdev }, signal);
    } catch (e) {
      if (isRefusal(e) || e === signal.reason) this.#forget(nic);
      else {
        keep();
        this.#removeLater(nic);
      }
      if (isOccupied(e)) return false;
      throw refused(e);
    }
    keep();
    nic.plugged();
    this.#writeLater();
    this.#options.onAdded(info);
    return true;
  }

  #find(id: string): Nic | undefined {
    return this.#nics.find((n) => n.id === id);
  }

  #infos(): NicInfo[] {
    return this.#nics.map((n) => n.info);
  }

  /** Before QEMU is asked for it. Throws what #write throws; then it is not there. */
  #record(nic: Nic): void {
    this.#nics = [...this.#nics, nic];
    try {
      this.#write();
    } catch (e) {
      this.#nics = this.#nics.filter((n) => n !== nic);
      throw e;
    }
  }

  /** It is gone. */
  #forget(nic: Nic): void {
    this.#nics = this.#nics.filter((n) => n !== nic);
    this.#writeLater();
  }

  /** Throws HT_UNAVAILABLE. */
  async #refuseOldQemu(): Promise<void> {
    const qmp = this.#options.qmp();
    const [major, minor] = await qemuVersion(qmp);
    if (major < VDPA_IOMMU_QEMU && (await hasIommu(qmp)))
      throw new HyperturtleError(
        'HT_UNAVAILABLE',
        `QEMU ${major}.${minor} cannot have a vDPA device beside an IOMMU: ${VDPA_IOMMU_QEMU}.0 or newer expected`,
      );
  }

  async #remove(nic: Nic, reason: string): Promise<void> {
    await this.#end(nic, reason);
    await this.#unplug(nic.device);
    await removeBackend(nic.record);
    this.#forget(nic);
  }

  async #tryRemove(nic: Nic, reason: string): Promise<void> {
    await this.#remove(nic, reason).catch(this.#warn(nic.id));
  }

  /** Nobody knows how far QEMU came with it: it stays in the record until QEMU says that it is gone. */
  #removeLater(nic: Nic): void {
    nic.lost();
    this.#options.log.warn({ nic: nic.id }, 'NIC of unknown state');
    void this.#turns.take(() => this.#tryRemove(nic, 'it was not whole'));
  }

  #warn(id: string): (e: unknown) => void {
    return (e) => this.#options.log.warn({ nic: id, problem: messageOf(e) }, 'NIC not removed');
  }

  async #unplug(device: string): Promise<void> {
    try {
      await unplugNic(this.#options.qmp(), device, this.#options.unplugMs ?? UNPLUG_MS);
    } catch (e) {
      throw refused(e);
    }
  }

  /** Once for each NIC. Settles when nothing is attached to it any more; never throws. */
  async #end(nic: Nic, reason: string): Promise<void> {
    await nic.leave(() => this.#options.onGoing(nic.info, reason)).catch(this.#warn(nic.id));
  }

  async #freePorts(): Promise<{ id: string; slot: number }[]> {
    const { ports } = this.#options.settings();
    const used = new Set(this.#nics.map((n) => n.record.port));
    return portsOf(
      this.#options.qmp(),
      ports.filter((p) => !used.has(p)),
    );
  }

  /** After the fact: a record that says too much, or `complete` too late, is put right by recover(). */
  #writeLater(): void {
    try {
      this.#write();
    } catch (e) {
      this.#warn('record')(e);
    }
  }

  /** Throws HT_NO_SPACE and HT_KERNEL. */
  #write(): void {
    writeNics(this.#options.run, this.#options.vm, {
      ...this.#options.process,
      bootId: this.#bootId,
      nics: this.#nics.map((n) => n.record),
    });
  }
}
