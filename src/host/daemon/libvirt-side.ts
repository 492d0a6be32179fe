/** The daemon's following of libvirt, as the configuration has it, and the methods of the operator's socket for it. */
import { isDeepStrictEqual } from 'node:util';
import { HyperturtleError } from '../../core/errors.ts';
import type { HostConfig } from '../config.ts';
import type { Followed, LibvirtFollower } from '../libvirt/follower.ts';
import type { Log } from '../log.ts';
import type { Handlers } from '../../wire/handlers.ts';
import type { ADMIN_METHODS } from './admin-schema.ts';
import type { VmTable } from './vm-table.ts';

type Methods = Pick<
  typeof ADMIN_METHODS,
  'admin.libvirt.status' | 'admin.libvirt.hook' | 'admin.libvirt.release' | 'admin.libvirt.take'
>;

export interface LibvirtSideOptions {
  vms: () => VmTable;
  /** One change of VMs at a time. */
  change: <T>(work: () => Promise<T>, signal: AbortSignal) => Promise<T>;
  log: () => Log;
}

export class LibvirtSide {
  readonly #options: LibvirtSideOptions;
  #config: HostConfig['libvirt'];
  #follower: LibvirtFollower | undefined;

  constructor(options: LibvirtSideOptions) {
    this.#options = options;
  }

  /** Follows this one from now on; undefined: none. VMs stay as they are until libvirt has been asked. */
  async set(config: HostConfig['libvirt']): Promise<void> {
    if (isDeepStrictEqual(config, this.#config)) return;
    await this.stop();
    this.#config = config;
    if (!config) return;
    // XML is read in daemons that have to do with it
    const [{ LibvirtFollower }, { Virsh }] = await Promise.all([
      import('../libvirt/follower.ts'),
      import('../libvirt/virsh.ts'),
    ]);
    this.#follower = new LibvirtFollower({
      virsh: new Virsh(config.uri),
      owner: config.owner,
      daemon: this.#followed(),
      log: this.#options.log(),
    });
    this.#follower.start();
  }

  async stop(): Promise<void> {
    const follower = this.#follower;
    this.#follower = undefined;
    this.#config = undefined;
    await follower?.stop();
  }

  handlers(): Handlers<Methods> {
    return {
      'admin.libvirt.status': () => ({ libvirt: this.#follower?.status() ?? null }),
      'admin.libvirt.hook': async ({ operation, xml }) => {
        const none = { vm: null, problem: null };
        if (operation === 'prepare') return (await this.#follower?.announce(xml)) ?? none;
        this.#follower?.poke();
        return none;
      },
      'admin.libvirt.release': async ({ domain, seconds }) => ({
        domain: await this.#needed().release(domain, seconds),
      }),
      'admin.libvirt.take': async ({ domain }) => ({ domain: await this.#needed().take(domain) }),
    };
  }

  #needed(): LibvirtFollower {
    if (this.#follower) return this.#follower;
    throw new HyperturtleError(
      'HT_UNAVAILABLE',
      "this daemon follows no libvirt: 'hyperturtle host libvirt enable' has it do so",
    );
  }

  #followed(): Followed {
    const { vms, change } = this.#options;
    return {
      follow: (wanted, signal) => change(() => vms().follow(wanted()), signal),
      current: () => vms().allFollowed(),
      vm: (name) => {
        const vm = vms().followed(name);
        if (!vm) return undefined;
        const { phase, problem } = vm.status();
        const offered = phase === 'waiting' || phase === 'attached';
        return { attached: vm.attached, offered, problem, release: () => vm.release() };
      },
    };
  }
}
