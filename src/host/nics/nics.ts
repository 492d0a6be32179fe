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
import {
  backendThere,
  cleanBackend,
  kindOf,
  makeBackend,
  networkMtu,
  removeBackend,
  removeStrays,
} from './backend.ts';
import type { NetworkSpec } from './backend.ts';
import {
  closeStrayFds,
  hasIommu,
  isOccupied,
  newDeviceIdOf,
  oldDeviceIdOf,
  pluggedNics,
  plugNic,
  portsOf,
  qemuVersion,
  unplugNic,
} from './plug.ts';
import type { NicQmp } from './plug.ts';
import { checkedMac, macOf } from './mac.ts';
import { readNics, writeNics } from './record.ts';
import type { NicRecord, NicsRecord } from './record.ts';
import { own } from '../../core/own.ts';

/** For the guest to let a NIC go. */
const UNPLUG_MS = 30_000;
/** Before it a vhost-vdpa device behind an IOMMU is given no mappings (hw/virtio/vhost-vdpa.c, 7.2). */
const VDPA_IOMMU_QEMU = 8;
const NEW_BOOT = 'L1 has booted again';

export interface NicSettings {
  /** Networks of the configuration that this VM may have NICs in, by name; the first is the default. */
  networks: Readonly<Record<string, NetworkSpec>>;
  /** QEMU's ids of root ports into which NICs may be plugged. */
  ports: readonly string[];
  max: number;
  /** Hooks that this VM's policy allows. */
  hooks: readonly string[] | undefined;
  /** The addresses that its NICs may have; undefined: any. */
  macs?: readonly string[] | undefined;
}

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
  #nics: NicRecord[] = [];
  /** Boot id of the L1 that has the NICs; null before a first hello. */
  #bootId: string | null = null;
  /** NICs waiting for the guest to release them. */
  readonly #leaving = new Map<string, Promise<void>>();
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
      .filter((n) => n.complete && n.info.kind === 'tap' && !this.#leaving.has(n.info.id))
      .map(({ info, ifindex }) => ({ id: info.id, ifindex, hooks: info.hooks }));
  }

  /** For metrics and people in L0. */
  devices(): readonly NicRecord[] {
    return this.#nics;
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
    const { run, vm } = this.#options;
    return this.#turns.take(async () => {
      const nic = this.#nics.find((n) => n.info.id === id);
      if (!nic && !this.#recovered && this.#given(readNics(run, vm)).some((n) => n.info.id === id))
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
      const { run, vm, log, qmp, settings } = this.#options;
      try {
        const record = this.#nics.length > 0 ? undefined : readNics(run, vm);
        this.#bootId ??= record?.bootId ?? null;
        const earlier = this.#given(record);
        const { call = here, taken } = this.#options;
        for (const nic of earlier) await cleanBackend(call, nic, taken?.(nic.info.id) ?? []);
        // all of them at once: whatever goes wrong with one, the record keeps the others
        this.#nics.push(...earlier);
        await closeStrayFds(qmp());
        const { devices, netdevs } = await pluggedNics(qmp());
        for (const nic of [...this.#nics]) {
          const whole = nic.complete && devices.includes(deviceOf(nic));
          if (!whole || !backendThere(nic)) await this.#tryRemove(nic, 'it was not whole');
        }
        for (const device of [...devices, ...netdevs])
          if (!this.#nics.some((n) => deviceOf(n) === device))
            await this.#unplug(device).catch(this.#warn(device));
        this.#recovered = true;
        await removeStrays(vm, this.#nics).catch(this.#warn('of nobody'));
        this.#write();
        if (earlier.length > 0) log.info({ nics: this.#nics.map((n) => n.info.id) }, 'NICs found again');
        if (record && record.bootId !== this.#bootId) void this.clear(NEW_BOOT);
        const { networks, ports } = settings();
        this.#machine =
          Object.keys(networks).length > 0
            ? { ports: (await portsOf(qmp(), ports)).length, iommu: await hasIommu(qmp()) }
            : undefined;
      } catch (e) {
        log.warn({ problem: messageOf(e) }, 'NICs of an earlier daemon');
      }
    });
  }

  /** What an earlier daemon gave this process. */
  #given(record: NicsRecord | undefined): readonly NicRecord[] {
    const { process } = this.#options;
    return record?.pid === process.pid && record.startTicks === process.startTicks ? record.nics : [];
  }

  /**
   * QEMU says that a device has gone: late, after it was asked for, or because L1 has switched its slot off. Never
   * throws.
   */
  async released(device: unknown): Promise<void> {
    const nic = this.#nics.find((n) => deviceOf(n) === device);
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
    for (const { info } of this.#nics) void this.#end(info, reason);
    return this.#turns.take(async () => {
      for (const nic of [...this.#nics]) await this.#tryRemove(nic, reason);
    });
  }

  /** The process has ended, and with it the network devices. */
  ended(): void {
    for (const { info } of this.#nics) void this.#end(info, 'the VM has ended');
    const gone = this.#nics;
    this.#nics = [];
    this.#leaving.clear();
    this.#writeLater();
    for (const nic of gone) void removeBackend(nic).catch(this.#warn(nic.info.id));
  }

  async #add(params: Params<'nic.add'>, signal: AbortSignal): Promise<Result<'nic.add'>> {
    const { settings, vm, qmp } = this.#options;
    const { networks, max, hooks } = settings();
    const name = params.network ?? Object.keys(networks)[0];
    const network = name === undefined ? undefined : own(networks, name);
    if (name === undefined || !network)
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        `there is no network '${name ?? ''}' for this VM; there are: ${Object.keys(networks).join(', ') || 'none'}`,
      );
    const id = params.id ?? this.#freeId();
    const there = this.#nics.find((n) => n.info.id === id);
    if (there?.complete && !this.#leaving.has(id)) return { nic: sameNic(there.info, params), existed: true };
    // an earlier one of this name, which should have gone
    if (there) await this.#remove(there, 'replaced');
    this.#checkQuotas(max, name, network);
    const mac = this.#macFor(id, params.mac);
    this.#checkTwin(mac, name);
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
          hooks: behind.hooks.filter((h) => !hooks || hooks.includes(h)),
          since: new Date().toISOString(),
        };
        const { ifname, ifindex } = behind;
        const device = newDeviceIdOf(id);
        const nic: NicRecord = { info, device, port: port.id, ifname, ifindex, complete: false };
        this.#record(nic);
        try {
          await plugNic(qmp(), { device, mac, port: port.id, netdev: behind.netdev }, signal);
        } catch (e) {
          if (this.#notPlugged(nic, e, signal)) kept = true;
          if (isOccupied(e)) continue;
          throw refused(e);
        }
        kept = true;
        nic.complete = true;
        this.#writeLater();
        this.#options.onAdded(info);
        return { nic: info, existed: false };
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

  /** Throws HT_QUOTA. */
  #checkQuotas(max: number, name: string, { maxPerVm = max }: NetworkSpec): void {
    if (this.#nics.length >= max)
      throw new HyperturtleError('HT_QUOTA', `quota exceeded: nics (${max} of ${max} used)`, {
        detail: { quota: 'nics', limit: max },
      });
    if (this.#nics.filter((n) => n.info.network === name).length >= maxPerVm)
      throw new HyperturtleError(
        'HT_QUOTA',
        `quota exceeded: nics in network ${name} (${maxPerVm} of ${maxPerVm} used)`,
        { detail: { quota: 'nics', limit: maxPerVm } },
      );
  }

  /** Throws HT_EXISTS when another NIC has this address in this network. */
  #checkTwin(mac: string, name: string): void {
    const twin = this.#nics.find((n) => n.info.mac === mac && n.info.network === name);
    if (twin)
      throw new HyperturtleError(
        'HT_EXISTS',
        `NIC '${twin.info.id}' has MAC ${mac} in network ${name}: choose another`,
      );
  }

  /** Before QEMU is asked for it. */
  #record(nic: NicRecord): void {
    this.#nics.push(nic);
    try {
      this.#write();
    } catch (e) {
      // QEMU has not been asked
      this.#nics = this.#nics.filter((n) => n !== nic);
      throw e;
    }
  }

  /** Returns whether what is behind the NIC is kept, until it is known to be gone. */
  #notPlugged(nic: NicRecord, e: unknown, signal: AbortSignal): boolean {
    if (isRefusal(e) || e === signal.reason) {
      this.#nics = this.#nics.filter((n) => n !== nic);
      this.#writeLater();
      return false;
    }
    this.#removeLater(nic);
    return true;
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

  async #remove(nic: NicRecord, reason: string): Promise<void> {
    await this.#end(nic.info, reason);
    await this.#unplug(deviceOf(nic));
    await removeBackend(nic);
    this.#nics = this.#nics.filter((n) => n !== nic);
    this.#leaving.delete(nic.info.id);
    this.#writeLater();
  }

  async #tryRemove(nic: NicRecord, reason: string): Promise<void> {
    await this.#remove(nic, reason).catch(this.#warn(nic.info.id));
  }

  /** Nobody knows how far QEMU came with it: it stays in the record until QEMU says that it is gone. */
  #removeLater(nic: NicRecord): void {
    this.#options.log.warn({ nic: nic.info.id }, 'NIC of unknown state');
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
  #end(nic: NicInfo, reason: string): Promise<void> {
    const there = this.#leaving.get(nic.id);
    if (there) return there;
    // one that never was whole has never been told of
    const whole = this.#nics.some((n) => n.info.id === nic.id && n.complete);
    const going = async (): Promise<void> => {
      if (whole) await this.#options.onGoing(nic, reason);
    };
    const ended = going().catch(this.#warn(nic.id));
    this.#leaving.set(nic.id, ended);
    return ended;
  }

  async #freePorts(): Promise<{ id: string; slot: number }[]> {
    const { ports } = this.#options.settings();
    const used = new Set(this.#nics.map((n) => n.port));
    return portsOf(
      this.#options.qmp(),
      ports.filter((p) => !used.has(p)),
    );
  }

  #macFor(id: string, asked: string | undefined): string {
    const { macs } = this.#options.settings();
    if (!macs) return checkedMac(asked ?? macOf(this.#options.vm, id));
    if (asked !== undefined && !macs.includes(asked))
      throw new HyperturtleError(
        'HT_USAGE',
        `${asked} is none of the ${macs.length} MAC addresses of this VM`,
      );
    const mac = asked ?? macs.find((m) => !this.#nics.some((n) => n.info.mac === m));
    if (mac === undefined)
      throw new HyperturtleError('HT_QUOTA', `nics: all ${macs.length} MAC addresses of this VM are used`, {
        detail: { quota: 'nics', limit: macs.length },
      });
    return mac;
  }

  #freeId(): string {
    for (let n = 0; ; n++) if (!this.#nics.some((x) => x.info.id === `nic${n}`)) return `nic${n}`;
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
      nics: this.#nics,
    });
  }
}

const deviceOf = (nic: NicRecord): string => nic.device ?? oldDeviceIdOf(nic.info.id);

/** Asked for again: fine unless it is another one that is wanted. */
function sameNic(nic: NicInfo, params: Params<'nic.add'>): NicInfo {
  const network = params.network ?? nic.network;
  const mac = params.mac ?? nic.mac;
  if (network === nic.network && mac === nic.mac) return nic;
  throw new HyperturtleError(
    'HT_EXISTS',
    `NIC '${nic.id}' exists with MAC ${nic.mac} in network ${nic.network}: remove it first, or choose another id`,
  );
}

/** QEMU's own words name what is the host's: they are for the log. */
function refused(e: unknown): unknown {
  return e instanceof HyperturtleError && e.code === 'HT_QMP'
    ? new HyperturtleError('HT_KERNEL', e.message, { cause: e })
    : e;
}
