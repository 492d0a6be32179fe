/**
 * The commands of the CNI plugin. What only the host, the kernel or stock plugins can do comes through `Means`, so that
 * all decisions are here. ADD writes down what it makes before it makes it, and undoes it in reverse when a step fails.
 */
import { CleanupStack } from '../core/lifecycle.ts';
import { isHyperturtleError, messageOf } from '../core/errors.ts';
import type { HyperturtleError } from '../core/errors.ts';
import type { PolicyInput } from '../net/firewall-rules.ts';
import type { RateLimitInput } from '../net/rate-limit.ts';
import type { CniRequest, Command, NetConfig } from './config.ts';
import { CNI_VERSIONS } from './versions.ts';
import { compareDevice } from './device.ts';
import type { DeviceFound } from './device.ts';
import { CniError, cniError } from './errors.ts';
import { formatResult } from './result.ts';
import type { CniResult, Interface } from './result.ts';
import { StateDir, attachmentId } from './state.ts';
import type { AttachmentState } from './state.ts';

/** A NIC that the host gave and this machine has bound. */
interface DirectNic {
  mac: string;
  mtu: number;
  pciAddress: string;
  /** For `netdev`. */
  interface: string | undefined;
}

/** One that the host gave earlier, for whatever pod. */
interface GivenNic extends DirectNic {
  id: string;
  network: string;
}

export interface Means {
  addNic(
    spec: { id: string; network?: string; mac?: string; device: 'netdev' | 'vfio' },
    signal: AbortSignal,
  ): Promise<DirectNic>;
  /** The NIC that is at this PCI address here; undefined: none is. */
  nicAt(address: string, signal: AbortSignal): Promise<GivenNic | undefined>;
  /** Fine when there is none. */
  delNic(id: string, signal: AbortSignal): Promise<void>;
  /** NICs that there are, and how many more are available. */
  nics(signal: AbortSignal): Promise<{ ids: string[]; free: number }>;
  /** Rules and limits of one NIC, in the host. */
  applyPolicy(
    nic: string,
    policy: { firewall?: PolicyInput | undefined; rateLimit?: RateLimitInput | undefined },
    signal: AbortSignal,
  ): Promise<void>;
  /** Forgets them; fine when there are none. */
  dropPolicy(nic: string, signal: AbortSignal): Promise<void>;
  delegate(
    request: CniRequest,
    d: { plugin: string; command: Command; config: Readonly<Record<string, unknown>>; signal: AbortSignal },
  ): Promise<CniResult | undefined>;
  moveIn(
    spec: { netns: string; device: string; ifname: string; mtu: number },
    signal: AbortSignal,
  ): Promise<void>;
  configure(netns: string, ifname: string, result: CniResult, signal: AbortSignal): Promise<void>;
  inspect(netns: string, ifname: string, signal: AbortSignal): Promise<DeviceFound | undefined>;
}

/** What goes to standard output; undefined: nothing. Throws CniError and HyperturtleError. */
export async function runCommand(
  request: CniRequest,
  means: Means,
  signal: AbortSignal,
): Promise<Record<string, unknown> | undefined> {
  const plugin = new Plugin(request, means, signal);
  switch (request.command) {
    case 'VERSION':
      return { cniVersion: request.version, supportedVersions: [...CNI_VERSIONS] };
    case 'ADD':
      return formatResult(await plugin.add(), request.version);
    case 'DEL':
      await plugin.del(request.attachment);
      return undefined;
    case 'CHECK':
      await plugin.check();
      return undefined;
    case 'STATUS':
      await plugin.status();
      return undefined;
    case 'GC':
      await plugin.collect();
      return undefined;
  }
}

class Plugin {
  readonly #request: CniRequest;
  readonly #config: NetConfig;
  readonly #means: Means;
  readonly #signal: AbortSignal;
  readonly #state: StateDir;

  constructor(request: CniRequest, means: Means, signal: AbortSignal) {
    this.#request = request;
    this.#config = request.config;
    this.#means = means;
    this.#signal = signal;
    this.#state = new StateDir(request.config.stateDir);
  }

  async add(): Promise<CniResult> {
    const { name } = this.#config;
    const { attachment } = this.#request;
    if (this.#state.read(name, attachment))
      throw new CniError(
        'FAILED',
        `${attachment.ifname} of container ${attachment.containerId} is attached to ${name} already: DEL it first`,
      );
    if (this.#config.mode === 'veth') return this.#addVeth();
    try {
      return await this.#addDirect();
    } catch (e) {
      if (!isOutOfNics(e)) throw e;
      if (this.#config.fallback !== 'veth') throw new CniError('NO_NIC', messageOf(e), e.code);
      if (this.#config.policy?.required)
        throw new CniError(
          'POLICY',
          'the host has no NIC left, and on a veth pair the network policy cannot be kept (policy.required)',
          String(e),
        );
      return this.#addVeth();
    }
  }

  async #addDirect(): Promise<CniResult> {
    const { name, device, policy } = this.#config;
    const { attachment, netns } = this.#request;
    const signal = this.#signal;
    const given = await this.#given();
    const id = given?.id ?? attachmentId(name, attachment);
    const undo = new CleanupStack();
    // what is undone is not given up with the signal
    const late = AbortSignal.timeout(60_000);
    this.#remember('direct', id, given !== undefined);
    try {
      if (given) this.#checkAlone(id);
      else undo.add('NIC', () => this.#means.delNic(id, late));
      const nic = given ?? (await this.#newNic(id));
      if (policy && (policy.firewall ?? policy.rateLimit)) {
        undo.add('policy', () => this.#means.dropPolicy(id, late));
        // before the first frame
        await this.#means.applyPolicy(id, policy, signal);
      }
      const mtu = Math.min(this.#config.mtu ?? nic.mtu, nic.mtu);
      // the plugin `dhcp` asks through the device; with others the container has none until it has addresses
      const asks = this.#ipamType() === 'dhcp';
      if (device === 'netdev' && asks) await this.#moveIn(id, nic, mtu);
      const addresses = await this.#ipam('ADD');
      if (addresses) {
        undo.add('addresses', async () => void (await this.#ipam('DEL', late)));
        if (!addresses.ips?.length)
          throw new CniError('FAILED', `IPAM plugin '${this.#ipamType()}' returned missing IP config`);
      }
      if (device === 'netdev' && !asks) await this.#moveIn(id, nic, mtu);
      const made: Interface = { name: attachment.ifname, mac: nic.mac, mtu, pciID: nic.pciAddress };
      if (netns !== undefined) made.sandbox = netns;
      if (device === 'netdev' && netns !== undefined)
        await this.#means.configure(netns, attachment.ifname, addresses ?? {}, signal);
      undo.release();
      return {
        interfaces: [made],
        ...(addresses?.ips ? { ips: addresses.ips.map((ip) => ({ ...ip, interface: 0 })) } : {}),
        ...(addresses?.routes ? { routes: addresses.routes } : {}),
        dns: addresses?.dns ?? this.#config.dns ?? {},
      };
    } catch (e) {
      // what could not be undone stays in the record, for DEL and GC; the first failure is the one to tell
      const left = await undo.run().catch((failure: unknown) => failure);
      if (left === undefined) {
        this.#state.remove(name, attachment);
        throw e;
      }
      const { code, message, details } = cniError(e);
      throw new CniError(code, `${message}; ${messageOf(left)}: DEL tries again`, details);
    }
  }

  async #moveIn(id: string, nic: DirectNic, mtu: number): Promise<void> {
    const { netns, attachment } = this.#request;
    if (netns === undefined || nic.interface === undefined)
      throw new CniError('FAILED', `NIC ${id} has no network device`);
    const { ifname } = attachment;
    await this.#means.moveIn({ netns, device: nic.interface, ifname, mtu }, this.#signal);
  }

  #newNic(id: string): Promise<DirectNic> {
    const { device, network } = this.#config;
    const { mac } = this.#request;
    return this.#means.addNic(
      {
        id,
        device,
        ...(network === undefined ? {} : { network }),
        ...(mac === undefined ? {} : { mac }),
      },
      this.#signal,
    );
  }

  /** The NIC that the pod has from the device plugin; undefined: it has none. Throws where it is not what is asked for. */
  async #given(): Promise<GivenNic | undefined> {
    const { deviceId, mac } = this.#request;
    const { network } = this.#config;
    if (deviceId === undefined) return undefined;
    const nic = await this.#means.nicAt(deviceId, this.#signal);
    if (!nic) throw new CniError('FAILED', `deviceID: a NIC of the host expected, none is at ${deviceId}`);
    if (network !== undefined && nic.network !== network)
      throw new CniError(
        'FAILED',
        `deviceID: a NIC of network ${network} expected, ${nic.id} is of ${nic.network}`,
      );
    if (mac !== undefined && mac.toLowerCase() !== nic.mac.toLowerCase())
      throw new CniError('FAILED', `deviceID: ${nic.id} has MAC ${nic.mac}, and ${mac} is asked for`);
    return nic;
  }

  /**
   * Of the record that is written already. A NIC whose last pod has no DEL behind it has rules that the DEL will drop: they
   * would be the new pod's by then.
   */
  #checkAlone(nic: string): void {
    const own = attachmentId(this.#config.name, this.#request.attachment);
    const other = this.#state.ofGiven(nic).find((s) => attachmentId(s.network, s) !== own);
    if (other)
      throw new CniError(
        'TRY_AGAIN',
        `NIC ${nic} is ${other.ifname} of container ${other.containerId} still: DEL of that first`,
      );
  }

  async #addVeth(): Promise<CniResult> {
    const { name } = this.#config;
    const { attachment } = this.#request;
    this.#remember('veth', null, false);
    try {
      const result = await this.#bridge('ADD', this.#request.raw);
      return result ?? {};
    } catch (e) {
      this.#state.remove(name, attachment);
      throw e;
    }
  }

  /** Nothing that is missing is an error: a runtime may come again after a failure half way. */
  async del(attachment: CniRequest['attachment'], of?: AttachmentState): Promise<void> {
    const { name, ipam } = this.#config;
    const state = of ?? this.#state.read(name, attachment);
    const raw = state?.config ?? this.#request.raw;
    const request = { ...this.#request, attachment, raw };
    const mode = state?.mode ?? this.#config.mode;
    if (mode === 'veth') await this.#bridge('DEL', raw, request);
    else {
      const gives = ipam && 'type' in ipam;
      // `dhcp` gives a lease back through the device; of others nobody may get an address that a NIC still has
      const first = gives && ipam.type === 'dhcp';
      if (first) await this.#ipam('DEL', this.#signal, request);
      await this.#delDirect(attachmentId(name, attachment), state);
      if (gives && !first) await this.#ipam('DEL', this.#signal, request);
    }
    this.#state.remove(name, attachment);
  }

  /** Without a record a NIC that the pod was given is left alone: it may be another pod's by now. */
  async #delDirect(own: string, state: AttachmentState | undefined): Promise<void> {
    const given = state?.given === true ? state.nic : null;
    if (state === undefined && this.#request.deviceId !== undefined) return;
    await this.#means.dropPolicy(given ?? own, this.#signal);
    if (given === null) await this.#means.delNic(own, this.#signal);
  }

  async check(): Promise<void> {
    const { attachment, netns = '' } = this.#request;
    const state = this.#state.read(this.#config.name, attachment);
    if (!state)
      throw new CniError(
        'UNKNOWN_CONTAINER',
        `container ${attachment.containerId} has no ${attachment.ifname} of this network`,
      );
    if (state.mode === 'veth') {
      await this.#bridge('CHECK', this.#request.raw);
      return;
    }
    const { ids } = await this.#means.nics(this.#signal);
    if (state.nic !== null && !ids.includes(state.nic))
      throw new CniError('CHANGED', `the host does not have NIC ${state.nic} any more`);
    await this.#ipam('CHECK');
    if (this.#config.device === 'vfio') return;
    compareDevice(
      await this.#means.inspect(netns, attachment.ifname, this.#signal),
      this.#config.prevResult,
      { ifname: attachment.ifname, netns },
    );
  }

  async status(): Promise<void> {
    const { mode, fallback } = this.#config;
    if (mode === 'direct')
      try {
        const { free } = await this.#means.nics(this.#signal);
        if (free === 0 && fallback === 'none')
          throw new CniError('NOT_AVAILABLE', 'the host gives no further NIC to this machine');
      } catch (e) {
        if (e instanceof CniError) throw e;
        throw new CniError(
          'NOT_AVAILABLE',
          `the host cannot be asked: ${e instanceof Error ? e.message : String(e)}`,
        );
      }
    await this.#ipam('STATUS');
  }

  /** Removes all attachments of this network that the runtime does not name. */
  async collect(): Promise<void> {
    const valid = this.#config['cni.dev/valid-attachments'] ?? [];
    const failures: string[] = [];
    for (const state of this.#state.all(this.#config.name)) {
      if (valid.some((v) => v.containerID === state.containerId && v.ifname === state.ifname)) continue;
      try {
        await this.del({ containerId: state.containerId, ifname: state.ifname }, state);
      } catch (e) {
        failures.push(`${state.containerId}/${state.ifname}: ${e instanceof Error ? e.message : String(e)}`);
      }
    }
    await this.#ipam('GC');
    if (failures.length > 0)
      throw new CniError('TRY_AGAIN', `not all could be removed: ${failures.join('; ')}`);
  }

  #remember(mode: 'direct' | 'veth', nic: string | null, given: boolean): void {
    const { attachment, raw } = this.#request;
    this.#state.write({ network: this.#config.name, ...attachment, mode, nic, given, config: { ...raw } });
  }

  #ipamType(): string | undefined {
    const { ipam } = this.#config;
    return ipam && 'type' in ipam ? String(ipam.type) : undefined;
  }

  /** Undefined without IPAM, and where the plugin does not know the command (STATUS and GC are of CNI 1.1.0). */
  async #ipam(
    command: Command,
    signal = this.#signal,
    request = this.#request,
  ): Promise<CniResult | undefined> {
    const plugin = this.#ipamType();
    if (plugin === undefined) return undefined;
    return this.#means.delegate(request, { plugin, command, config: request.raw, signal });
  }

  #bridge(
    command: Command,
    raw: Readonly<Record<string, unknown>>,
    request = this.#request,
  ): Promise<CniResult | undefined> {
    const { cniVersion, name, ipam, dns, args, runtimeConfig, prevResult } = raw;
    const own = { cniVersion, name, ipam, dns, args, runtimeConfig, prevResult };
    const config = {
      ...Object.fromEntries(Object.entries(own).filter(([, v]) => v !== undefined)),
      bridge: 'hyperturtle0',
      isGateway: true,
      ipMasq: false,
      ...this.#config.veth,
      type: 'bridge',
    };
    return this.#means.delegate(request, { plugin: 'bridge', command, config, signal: this.#signal });
  }
}

/** The host has no more: its quota, or its ports. */
function isOutOfNics(e: unknown): e is HyperturtleError {
  if (isHyperturtleError(e, 'HT_QUOTA')) return true;
  return isHyperturtleError(e, 'HT_UNAVAILABLE') && /no spare PCIe root port/.test(e.message);
}
