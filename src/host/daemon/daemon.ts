/**
 * The host daemon: VMs from the configuration file and from commands, one loader and one log for all, the operator's
 * socket and the measurements. Everything that a VM can break is inside its ManagedVm.
 */
import { randomUUID } from 'node:crypto';
import net from 'node:net';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { makeDirectory } from '../../core/files.ts';
import { messageOf } from '../../core/errors.ts';
import { CleanupStack } from '../../core/lifecycle.ts';
import type { Tracing } from '../../core/tracing.ts';
import { Turns } from '../../core/turns.ts';
import { serve } from '../../wire/handlers.ts';
import { traced } from '../../wire/traced.ts';
import type { Handlers, ServedMethods } from '../../wire/handlers.ts';
import { RpcPeer } from '../../wire/peer.ts';
import type { ResultOf } from '../../wire/schema.ts';
import { HOOK_TABLE } from '../hooks.ts';
import { Loader } from '../loader/loader.ts';
import { ADMIN_METHODS } from './admin-schema.ts';
import type { ReloadResult } from './admin-schema.ts';
import { Checker } from './checker.ts';
import { adminSocketOf, checkVm, readConfig } from '../config.ts';
import type { HostConfig, VmSpec } from '../config.ts';
import { networkFindings, vmFindings } from './doctor.ts';
import { hostFindings } from './doctor-host.ts';
import { lastEvents } from '../vm/events.ts';
import { forgetOthers } from '../vm/forget.ts';
import { kernelState } from '../vm/kernel.ts';
import type { HostKernel } from '../vm/kernel.ts';
import type { DaemonLog } from '../log.ts';
import { LibvirtSide } from './libvirt-side.ts';
import { Metrics } from './metrics.ts';
import { moveHandlers } from './move-handlers.ts';
import { startArgs } from './qemu-args.ts';
import { holdAt, listenAt } from './sockets.ts';
import { VmTable } from './vm-table.ts';
import { ManagedVm } from '../vm/managed-vm.ts';
import type { VmDeps } from '../vm/managed-vm.ts';

export interface DaemonOptions {
  configFile: string;
  version: string;
  kernel: HostKernel;
  openLog: (config: HostConfig['log']) => DaemonLog;
  verifier: VmDeps['verifier'];
  tracing?: Tracing | undefined;
}

/** Settings that are read only when the daemon starts. */
const FIXED = ['admin', 'metrics', 'loader', 'state', 'run', 'bpffs'] as const;

type AdminMethods = typeof ADMIN_METHODS;
type AdminResult<M extends keyof AdminMethods> = ResultOf<AdminMethods, M>;

export class HostDaemon {
  readonly instance = randomUUID();
  readonly #options: DaemonOptions;
  readonly #startedAt = new Date().toISOString();
  readonly #undo = new CleanupStack();
  /** Reloads and changes of VMs, one after the other. */
  readonly #changes = new Turns();
  readonly #libvirt = new LibvirtSide({
    vms: () => this.#vms,
    change: (work, signal) => this.#changes.take(work, signal),
    log: () => this.#log.log,
  });
  #config: HostConfig;
  #log: DaemonLog;
  #loader!: Loader;
  #checker!: Checker;
  #vms!: VmTable;
  #metrics!: Metrics;

  private constructor(options: DaemonOptions) {
    this.#options = options;
    this.#config = readConfig(options.configFile);
    this.#log = options.openLog(this.#config.log);
  }

  /** Serves when it returns. Throws what is wrong with the configuration, or HT_BUSY when another daemon runs. */
  static async start(options: DaemonOptions): Promise<HostDaemon> {
    const daemon = new HostDaemon(options);
    try {
      await daemon.#start();
      return daemon;
    } catch (e) {
      await daemon.#undo.run();
      throw e;
    }
  }

  get log(): DaemonLog {
    return this.#log;
  }

  /** What is wrong with the daemon itself (not with a VM). */
  problems(): string[] {
    try {
      this.#loader.status();
      return [];
    } catch (e) {
      return [`loader: ${messageOf(e)}`];
    }
  }

  /** What keeps it from serving: also what a restart of the daemon does not help, so that no watchdog asks for this. */
  health(): string[] {
    const missing = this.#options.kernel.missing?.();
    return [...this.problems(), ...(missing === undefined ? [] : [missing])];
  }

  summary(): string {
    const { attached, all } = this.#vms.count();
    return `${attached} of ${all} VMs attached`;
  }

  /** Reads the file again and applies what differs. Throws HT_CONFIG; then nothing has changed. */
  reload(): Promise<ReloadResult> {
    return this.#changes.take(() => this.#reload());
  }

  /** Unlinks and detaches all; arenas of VMs that run stay for the next daemon. */
  async stop(): Promise<void> {
    await this.#changes.take(() => this.#undo.run());
  }

  async #start(): Promise<void> {
    const { run, state, metrics, loader } = this.#config;
    const { log } = this.#log;
    makeDirectory(run);
    makeDirectory(state, 0o700);
    // before anything is touched: its socket says that there is no other daemon
    await this.#serveAdmin();
    await this.#holdRun(run);
    this.#vms = this.#table(state);
    const wanted = this.#vms.fill(this.#config);
    this.#loader = new Loader({ workers: loader.workers });
    this.#undo.add('loader', () => this.#loader.close());
    this.#checker = new Checker({ timeoutMs: loader.timeoutMs });
    this.#undo.add('checker', () => this.#checker.close());
    this.#metrics = new Metrics({
      vms: () => this.#vms.all().map(({ vm }) => vm.status()),
      loader: () => this.#loader.status(),
      kernel: () => kernelState(this.#options.kernel),
      problems: () => this.health(),
    });
    this.#undo.add('metrics', () => this.#metrics.close());
    if (metrics) await this.#metrics.listen(metrics);

    this.#undo.add('VMs', async () => {
      for (const err of await this.#vms.stop()) log.error({ err }, 'stopping a VM');
    });
    await forgetOthers(this.#config, wanted, log);
    this.#vms.start();
    await this.#libvirt.set(this.#config.libvirt);
    this.#undo.add('libvirt', () => this.#libvirt.stop());
    log.info({ version: this.#options.version, instance: this.instance, vms: wanted.size }, 'started');
  }

  /** Another daemon with a socket of its own would take the VMs of this one for those of no configuration. */
  async #holdRun(run: string): Promise<void> {
    const lock = await holdAt(path.join(run, 'daemon.lock'));
    this.#undo.add('run directory', lock.release);
  }

  #make(name: string, spec: VmSpec): ManagedVm {
    const { kernel, version, verifier, tracing } = this.#options;
    return new ManagedVm(name, spec, {
      kernel,
      paths: this.#config,
      networks: () => this.#config.networks,
      daemon: { version, instance: this.instance },
      load: (request) => this.#loader.load(request),
      loadTimeoutMs: this.#config.loader.timeoutMs,
      check: (elf, options, signal) => this.#checker.check(elf, options, signal),
      verifier,
      doctor: (vm) => [...hostFindings(this.#config.bpffs), ...vmFindings(vm.status())],
      onCall: (vm, method, outcome) => this.#metrics.count(vm, method, outcome),
      traced: (methods, vm) => traced(methods, tracing, { 'hyperturtle.vm': vm }),
      log: this.#log.log,
    });
  }

  #table(stateDirectory: string): VmTable {
    return new VmTable({
      stateDirectory,
      configFile: this.#options.configFile,
      make: (name, spec) => this.#make(name, spec),
      checkKeys: (keys) => void this.#options.verifier(keys),
      onGone: (name) => this.#metrics.forget(name),
      log: () => this.#log.log,
    });
  }

  async #reload(): Promise<ReloadResult> {
    const config = readConfig(this.#options.configFile);
    const needRestart = FIXED.filter((k) => !isDeepStrictEqual(config[k], this.#config[k]));
    const result = { ...(await this.#vms.reload(config)), needRestart };
    // its next look waits for this turn to end
    await this.#libvirt.set(config.libvirt);
    this.#log.setLevel(config.log.level);
    // the fixed ones stay as they are until a restart
    this.#config = {
      ...config,
      ...Object.fromEntries(FIXED.map((k) => [k, this.#config[k]])),
    };
    this.#log.log.info({ ...result }, 'configuration reloaded');
    return result;
  }

  async #serveAdmin(): Promise<void> {
    const methods = traced(this.#adminMethods(), this.#options.tracing, {});
    const peers = new Set<RpcPeer<Record<never, never>>>();
    const server = net.createServer((socket) => {
      const peer = new RpcPeer(socket, {
        calls: {},
        methods,
        session: 'connection',
        trusted: true,
        onClose: () => peers.delete(peer),
        log: this.#log.log,
      });
      peers.add(peer);
    });
    await listenAt(server, adminSocketOf(this.#config));
    this.#undo.add('admin socket', async () => {
      for (const peer of peers) peer.close();
      await new Promise((resolve) => server.close(resolve));
    });
  }

  #adminMethods(): ServedMethods {
    const handlers: Handlers<typeof ADMIN_METHODS> = {
      ...this.#libvirt.handlers(),
      'admin.status': () => this.#adminStatus(),
      'admin.health': () => {
        const problems = this.health();
        return { healthy: problems.length === 0, problems };
      },
      'admin.doctor': () => ({
        findings: [
          ...hostFindings(this.#config.bpffs),
          ...networkFindings(this.#config.networks),
          ...this.#vms
            .all()
            .flatMap(({ vm }) =>
              vmFindings(vm.status()).map((f) => ({ ...f, what: `${vm.name}: ${f.what}` })),
            ),
        ],
      }),
      'admin.vm.list': () => ({
        vms: this.#vms.all().map(({ vm, from }) => ({ ...vm.status(), from })),
      }),
      'admin.vm.add': ({ name, spec }) =>
        this.#changes.take(() => {
          this.#vms.add(name, checkVm(name, spec));
          return {};
        }),
      'admin.vm.remove': ({ name }) =>
        this.#changes.take(async () => {
          await this.#vms.remove(name);
          return {};
        }),
      'admin.vm.detail': ({ name }) => this.#detail(this.#vms.entry(name).vm),
      'admin.events': ({ name, limit }) => ({
        events: lastEvents(
          name === undefined ? this.#vms.all().map((e) => e.vm) : [this.#vms.entry(name).vm],
          limit,
        ),
      }),
      'admin.map.get': ({ vm, ...params }, { signal }) =>
        this.#vms.entry(vm).vm.service.mapGet(params, signal),
      'admin.map.dump': ({ vm, ...params }, { signal }) =>
        this.#vms.entry(vm).vm.service.mapDump(params, signal),
      'admin.args': ({ name, arena }) =>
        startArgs(name, this.#vms.entry(name).vm.spec, this.#config.run, arena),
      ...moveHandlers((name) => this.#vms.entry(name).vm),
      'admin.reload': () => this.reload(),
    };
    return serve(ADMIN_METHODS, handlers);
  }

  #adminStatus(): AdminResult<'admin.status'> {
    const { attached, all } = this.#vms.count();
    const { pids, busy, waiting, loads, killed, crashed } = this.#loader.status();
    return {
      version: this.#options.version,
      instance: this.instance,
      pid: process.pid,
      startedAt: this.#startedAt,
      config: this.#options.configFile,
      vms: all,
      attached,
      memoryBytes: process.memoryUsage.rss(),
      loader: { busy, waiting, loads, killed, crashed, workers: pids.length },
    };
  }

  #detail(vm: ManagedVm): AdminResult<'admin.vm.detail'> {
    const { policy, quotas, signature } = vm.spec;
    if (vm.attached) vm.service.watch();
    return {
      objects: vm.attached ? vm.service.objects() : [],
      limits: quotas,
      signature,
      hooks: HOOK_TABLE.filter((h) => !policy.hooks || policy.hooks.includes(h.name)).map((h) => ({
        name: h.name,
        purpose: h.purpose,
      })),
    };
  }
}
