/**
 * The host daemon: VMs from the configuration file and from commands, one loader and one log for all, the operator's
 * socket and the measurements. Everything that a VM can break is inside its ManagedVm.
 */
import { randomUUID } from 'node:crypto';
import net from 'node:net';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { makeDirectory } from '../../core/files.ts';
import { HyperturtleError, messageOf } from '../../core/errors.ts';
import { CleanupStack } from '../../core/lifecycle.ts';
import { Turns } from '../../core/turns.ts';
import { serve } from '../../wire/handlers.ts';
import type { Handlers, ServedMethods } from '../../wire/handlers.ts';
import { RpcPeer } from '../../wire/peer.ts';
import type { ResultOf } from '../../wire/schema.ts';
import { HOOK_TABLE } from '../hooks.ts';
import { Loader } from '../loader/loader.ts';
import { ADMIN_METHODS } from './admin-schema.ts';
import type { ReloadResult, VmReport } from './admin-schema.ts';
import { Checker } from './checker.ts';
import { adminSocketOf, checkVm, readConfig, socketsOf } from '../config.ts';
import type { HostConfig, VmSpec } from '../config.ts';
import { networkFindings, vmFindings } from './doctor.ts';
import { hostFindings } from './doctor-host.ts';
import { lastEvents } from '../vm/events.ts';
import { forgetOthers } from '../vm/forget.ts';
import { kernelState } from '../vm/kernel.ts';
import type { HostKernel } from '../vm/kernel.ts';
import type { DaemonLog } from '../log.ts';
import { Metrics } from './metrics.ts';
import { libvirtXml, qemuArgs } from './qemu-args.ts';
import { RuntimeVms } from './runtime-vms.ts';
import { holdAt, listenAt } from './sockets.ts';
import { ManagedVm } from '../vm/managed-vm.ts';
import type { VmDeps } from '../vm/managed-vm.ts';

export interface DaemonOptions {
  configFile: string;
  version: string;
  kernel: HostKernel;
  openLog: (config: HostConfig['log']) => DaemonLog;
  verifier: VmDeps['verifier'];
}

/** Settings that are read only when the daemon starts. */
const FIXED = ['admin', 'metrics', 'loader', 'state', 'run', 'bpffs'] as const;

type AdminMethods = typeof ADMIN_METHODS;
type AdminResult<M extends keyof AdminMethods> = ResultOf<AdminMethods, M>;

interface Entry {
  vm: ManagedVm;
  from: VmReport['from'];
}

export class HostDaemon {
  readonly instance = randomUUID();
  readonly #options: DaemonOptions;
  readonly #startedAt = new Date().toISOString();
  readonly #undo = new CleanupStack();
  readonly #vms = new Map<string, Entry>();
  /** Reloads and changes of VMs, one after the other. */
  readonly #changes = new Turns();
  #config: HostConfig;
  #log: DaemonLog;
  #loader!: Loader;
  #checker!: Checker;
  #runtime!: RuntimeVms;
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
    const { attached, all } = this.#count();
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
    this.#runtime = new RuntimeVms(state);
    const wanted = this.#wanted(this.#config);
    // all are checked before anything is begun
    for (const [name, { spec, from }] of wanted) this.#vms.set(name, { vm: this.#make(name, spec), from });
    this.#loader = new Loader({ workers: loader.workers });
    this.#undo.add('loader', () => this.#loader.close());
    this.#checker = new Checker({ timeoutMs: loader.timeoutMs });
    this.#undo.add('checker', () => this.#checker.close());
    this.#metrics = new Metrics({
      vms: () => Array.from(this.#vms.values(), ({ vm }) => vm.status()),
      loader: () => this.#loader.status(),
      kernel: () => kernelState(this.#options.kernel),
      problems: () => this.health(),
    });
    this.#undo.add('metrics', () => this.#metrics.close());
    if (metrics) await this.#metrics.listen(metrics);

    this.#undo.add('VMs', async () => {
      const all = Array.from(this.#vms.values(), ({ vm }) => vm.stop({ remove: false }));
      const failed = (await Promise.allSettled(all)).filter((r) => r.status === 'rejected');
      for (const f of failed) log.error({ err: f.reason as unknown }, 'stopping a VM');
      this.#vms.clear();
    });
    await forgetOthers(this.#config, wanted, log);
    for (const { vm } of this.#vms.values()) vm.start();
    log.info({ version: this.#options.version, instance: this.instance, vms: wanted.size }, 'started');
  }

  /** Another daemon with a socket of its own would take the VMs of this one for those of no configuration. */
  async #holdRun(run: string): Promise<void> {
    const lock = await holdAt(path.join(run, 'daemon.lock'));
    this.#undo.add('run directory', lock.release);
  }

  #make(name: string, spec: VmSpec): ManagedVm {
    const { kernel, version, verifier } = this.#options;
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
      log: this.#log.log,
    });
  }

  /** The file's VMs, and those added by command whose name and sockets the file does not use. */
  #wanted(config: HostConfig): Map<string, { spec: VmSpec; from: Entry['from'] }> {
    const wanted = new Map<string, { spec: VmSpec; from: Entry['from'] }>();
    const sockets = new Set<string>();
    const use = (name: string, spec: VmSpec, from: Entry['from']): void => {
      wanted.set(name, { spec, from });
      for (const [, socket] of socketsOf(name, spec)) sockets.add(socket);
    };
    for (const [name, spec] of Object.entries(config.vms)) use(name, spec, 'config');
    for (const [name, spec] of this.#runtime.all()) {
      const taken = socketsOf(name, spec).find(([, socket]) => sockets.has(socket))?.[1];
      if (wanted.has(name) || taken !== undefined)
        this.#log.log.warn({ vm: name, taken }, 'VM added by command is left out: the configuration has it');
      else use(name, spec, 'runtime');
    }
    return wanted;
  }

  async #reload(): Promise<ReloadResult> {
    const config = readConfig(this.#options.configFile);
    const wanted = this.#wanted(config);
    const result: ReloadResult = {
      added: [],
      removed: [],
      restarted: [],
      updated: [],
      unchanged: [],
      needRestart: FIXED.filter((k) => !isDeepStrictEqual(config[k], this.#config[k])),
    };
    // keys are read and everything is made before anything changes
    const made = new Map<string, ManagedVm>();
    for (const [name, { spec }] of wanted) {
      const now = this.#vms.get(name);
      if (!now || !sameMachine(now.vm.spec, spec)) made.set(name, this.#make(name, spec));
      else if (!isDeepStrictEqual(now.vm.spec, spec)) this.#options.verifier(spec.keys);
    }

    for (const [name, { vm }] of this.#vms) {
      if (wanted.has(name) && !made.has(name)) continue;
      const gone = !wanted.has(name);
      await vm.stop({ remove: gone });
      this.#vms.delete(name);
      if (gone) {
        this.#metrics.forget(name);
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
    const methods = this.#adminMethods();
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
      'admin.status': () => this.#adminStatus(),
      'admin.health': () => {
        const problems = this.health();
        return { healthy: problems.length === 0, problems };
      },
      'admin.doctor': () => ({
        findings: [
          ...hostFindings(this.#config.bpffs),
          ...networkFindings(this.#config.networks),
          ...Array.from(this.#vms.values()).flatMap(({ vm }) =>
            vmFindings(vm.status()).map((f) => ({ ...f, what: `${vm.name}: ${f.what}` })),
          ),
        ],
      }),
      'admin.vm.list': () => ({
        vms: Array.from(this.#vms.values(), ({ vm, from }) => ({ ...vm.status(), from })),
      }),
      'admin.vm.add': ({ name, spec }) => this.#changes.take(() => this.#add(name, checkVm(name, spec))),
      'admin.vm.remove': ({ name }) => this.#changes.take(() => this.#remove(name)),
      'admin.vm.detail': ({ name }) => this.#detail(this.#entry(name).vm),
      'admin.events': ({ name, limit }) => ({
        events: lastEvents(
          name === undefined ? Array.from(this.#vms.values(), (e) => e.vm) : [this.#entry(name).vm],
          limit,
        ),
      }),
      'admin.map.get': ({ vm, ...params }, { signal }) => this.#entry(vm).vm.service.mapGet(params, signal),
      'admin.map.dump': ({ vm, ...params }, { signal }) => this.#entry(vm).vm.service.mapDump(params, signal),
      'admin.args': ({ name }) => {
        const { spec } = this.#entry(name).vm;
        const { run } = this.#config;
        return { qemu: qemuArgs(name, spec, run), libvirt: libvirtXml(name, spec, run) };
      },
      'admin.reload': () => this.reload(),
    };
    return serve(ADMIN_METHODS, handlers);
  }

  #adminStatus(): AdminResult<'admin.status'> {
    const { attached, all } = this.#count();
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

  #add(name: string, spec: VmSpec): Record<never, never> {
    if (this.#vms.has(name)) throw new HyperturtleError('HT_EXISTS', `there is a VM '${name}' already`);
    const mine = new Set(socketsOf(name, spec).map(([, socket]) => socket));
    for (const { vm } of this.#vms.values())
      for (const [, socket] of socketsOf(vm.name, vm.spec))
        if (mine.has(socket))
          throw new HyperturtleError(
            'HT_IN_USE',
            `${socket} belongs to VM '${vm.name}': give another socket`,
          );
    const vm = this.#make(name, spec);
    this.#runtime.add(name, spec);
    this.#vms.set(name, { vm, from: 'runtime' });
    vm.start();
    this.#log.log.info({ vm: name }, 'VM added');
    return {};
  }

  async #remove(name: string): Promise<Record<never, never>> {
    const { vm, from } = this.#entry(name);
    if (from === 'config')
      throw new HyperturtleError(
        'HT_USAGE',
        `VM '${name}' is in ${this.#options.configFile}: take it out there and reload`,
      );
    this.#runtime.remove(name);
    await vm.stop({ remove: true });
    this.#vms.delete(name);
    this.#metrics.forget(name);
    this.#log.log.info({ vm: name }, 'VM removed');
    return {};
  }

  #entry(name: string): Entry {
    const found = this.#vms.get(name);
    if (found) return found;
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `there is no VM '${name}'; there are: ${[...this.#vms.keys()].join(', ') || 'none'}`,
    );
  }

  #count(): { attached: number; all: number } {
    const phases = Array.from(this.#vms.values(), ({ vm }) => vm.status().phase);
    return { attached: phases.filter((p) => p === 'attached').length, all: phases.length };
  }
}

/** Whether what a VM is made of is the same; the rest can change while it runs. */
function sameMachine(a: VmSpec, b: VmSpec): boolean {
  const parts = (s: VmSpec): unknown => [s.qmp, s.agent, s.arenaMib, s.bus, s.owner];
  return isDeepStrictEqual(parts(a), parts(b));
}
