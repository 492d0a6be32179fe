/**
 * One configured VM: its arena from the first moment; then, each time its QEMU runs, attach, serve, and when the
 * process ends undo all in reverse and wait for the next one. What goes wrong here is this VM's problem alone.
 */
import path from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { callThreads } from '../../bpf/calls.ts';
import { HyperturtleError, isHyperturtleError, messageOf } from '../../core/errors.ts';
import { CleanupStack } from '../../core/lifecycle.ts';
import { Backoff, changeNear } from '../../core/retry.ts';
import { withDeadline } from '../../core/wait.ts';
import type { QmpClient } from '../../qmp/client.ts';
import type { ServedMethods } from '../../wire/handlers.ts';
import type { ArenaInfo, Finding } from '../../wire/schema.ts';
import { unplugArenaOver } from '../arena-plug.ts';
import { AgentChannel } from './agent-channel.ts';
import { VmArena } from './arena.ts';
import type { NicMachine } from '../nics/nics.ts';
import { readNics } from '../nics/record.ts';
import type { HostConfig, VmSpec } from '../config.ts';
import { EventRing } from './events.ts';
import type { HostKernel, VmProcess } from './kernel.ts';
import { forgetKept } from './forget.ts';
import { keptProcess } from './kept-record.ts';
import { nicSettings } from './nic-settings.ts';
import type { Log } from '../log.ts';
import { readRecord, removeRecord, startTicksOf, writeRecord } from './process-record.ts';
import { plugPort, unplugPort } from './qemu-side.ts';
import { QmpMonitor } from './qmp-monitor.ts';
import { whenPluggable } from './run-state.ts';
import { VmService } from './service.ts';
import type { ServiceOptions } from './service.ts';
import { settleArena } from './settle-arena.ts';

/** For the guest to let an arena go that is to be replaced. */
const UNPLUG_TIMEOUT_MS = 30_000;
/** An older reset is of a boot that may have bound the arena by now: then it is not cleared under its feet. */
const RESET_FRESH_MS = 2000;
/** For ending: what the kernel has under way cannot be given up. With `remove` the guest is asked to let things go as well. */
const STOP_MS = { keep: 20_000, remove: 120_000 } as const;

export interface VmDeps {
  kernel: HostKernel;
  paths: Pick<HostConfig, 'run' | 'bpffs'>;
  daemon: ServiceOptions['daemon'];
  load: ServiceOptions['load'];
  loadTimeoutMs: number;
  check: ServiceOptions['check'];
  /** The verifier of signatures by these key files. Throws HT_CONFIG, HT_NOT_FOUND. */
  verifier: (keyFiles: readonly string[]) => (elf: Uint8Array, s: { keyId: string; value: string }) => string;
  /** Networks of the configuration as it is now. */
  networks: () => HostConfig['networks'];
  doctor: (vm: ManagedVm) => Finding[];
  onCall: (vm: string, method: string, outcome: string) => void;
  traced: (methods: ServedMethods, vm: string) => ServedMethods;
  log: Log;
}

export interface VmStatus {
  name: string;
  phase: 'starting' | 'waiting' | 'attached' | 'stopped';
  /** What stands in the way, for people. */
  problem: string | null;
  pid: number | null;
  qmp: { path: string; problem: string | null };
  arena: ArenaInfo;
  agent: { socket: string; connected: boolean; hello: ReturnType<VmService['status']>['agent'] };
  used: ReturnType<VmService['status']>['used'] | null;
  links: ReturnType<VmService['status']>['links'];
  ended: ReturnType<VmService['status']>['ended'];
  /** Could not be taken over from an earlier daemon: off, or held as it was. */
  leftOff: ReturnType<VmService['status']>['leftOff'];
  stats: ReturnType<VmService['status']>['stats'];
  countedSince: string | null;
  /** What L1 said last of itself. */
  l1: ReturnType<VmService['status']>['l1'];
  nics: ReturnType<VmService['status']>['nics'];
  /** Null while that is not known, or when no networks are configured for it. */
  nicMachine: NicMachine | null;
}

/** A process, which no later one of its number is taken for. */
interface ProcessId {
  pid: number;
  startTicks: number;
}

/** What there is while the VM's process lives. */
interface Served {
  readonly process: VmProcess;
  readonly startTicks: number;
  readonly service: VmService;
  readonly monitor: QmpMonitor;
  readonly channel: AgentChannel;
}

export class ManagedVm {
  readonly name: string;
  readonly events = new EventRing();
  readonly #deps: VmDeps;
  readonly #log: Log;
  readonly #stop = new AbortController();
  #spec: VmSpec;
  #verify: ReturnType<VmDeps['verifier']>;
  #running: Promise<void> | undefined;
  #arena: VmArena | undefined;
  #arenaState: ArenaInfo['state'] = 'absent';
  #served: Served | undefined;
  #problem: string | undefined;
  #stopped = false;
  /** It is to lose all that it has, not to be left to the next daemon. */
  #removing = false;

  /** Throws what is wrong with its keys. */
  constructor(name: string, spec: VmSpec, deps: VmDeps) {
    this.name = name;
    this.#spec = spec;
    this.#deps = deps;
    this.#verify = deps.verifier(spec.keys);
    this.#log = deps.log.child({ vm: name });
  }

  get spec(): VmSpec {
    return this.#spec;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** Takes over what can change while the VM runs. Throws what is wrong with its keys; then nothing has changed. */
  update(spec: VmSpec): void {
    this.#verify = this.#deps.verifier(spec.keys);
    const before = this.#spec.nics.withoutDaemon;
    this.#spec = spec;
    const served = this.#served;
    if (spec.nics.withoutDaemon !== before)
      void served?.service
        .keepOtherwise()
        .catch((e: unknown) => this.#log.error({ problem: messageOf(e) }, 'nics.withoutDaemon not in force'));
    served?.channel.update();
    if (served?.monitor.problem === undefined) void served?.service.nics.recover();
  }

  status(): VmStatus {
    const served = this.#served;
    const service = served?.service.status();
    return {
      name: this.name,
      phase: this.#stopped ? 'stopped' : served ? 'attached' : this.#arena ? 'waiting' : 'starting',
      problem: this.#problem ?? null,
      pid: served?.process.pid ?? null,
      qmp: { path: this.#spec.qmp, problem: served ? (served.monitor.problem ?? null) : null },
      arena: this.arenaInfo(),
      agent: {
        socket: this.#agentSocket(),
        connected: served?.channel.connected ?? false,
        hello: service?.agent ?? null,
      },
      used: service?.used ?? null,
      links: service?.links ?? [],
      ended: service?.ended ?? [],
      leftOff: service?.leftOff ?? [],
      stats: service?.stats ?? [],
      countedSince: service?.since ?? null,
      l1: service?.l1 ?? null,
      nics: service?.nics ?? [],
      nicMachine: served?.service.nics.machine ?? null,
    };
  }

  /** Throws HT_UNAVAILABLE while the VM does not run. */
  get service(): VmService {
    if (this.#served) return this.#served.service;
    throw new HyperturtleError('HT_UNAVAILABLE', `VM '${this.name}' is not attached: it has nothing loaded`);
  }

  get attached(): boolean {
    return this.#served !== undefined;
  }

  arenaInfo(): ArenaInfo {
    return {
      bytes: this.#arena?.bytes ?? this.#spec.arenaMib << 20,
      state: this.#arenaState,
      ...(this.#arena ? { device: path.basename(this.#arena.device.devicePath) } : {}),
    };
  }

  /**
   * Ends serving. With `remove` the VM loses its arena as well (it is unplugged when it was hot-plugged); else the arena
   * of a VM that still runs stays for the next daemon. When the kernel keeps it waiting for too long, the rest is done when
   * the kernel is ready, in the same order.
   */
  async stop(options: { remove: boolean }): Promise<void> {
    const what = `ending VM '${this.name}'`;
    try {
      await withDeadline(what, this.#end(options), options.remove ? STOP_MS.remove : STOP_MS.keep);
    } catch (e) {
      if (!isHyperturtleError(e, 'HT_TIMEOUT')) throw e;
      this.#log.error(
        { problem: messageOf(e) },
        'the kernel still ends links of this VM; the rest is done then',
      );
    }
  }

  /**
   * Takes from QEMU what keeps it from being saved or migrated: NICs, then the arena. To be stopped with `remove` next.
   * Nothing to do while it does not run. Throws HT_TIMEOUT when the guest does not let go, and HT_QMP.
   */
  async release(): Promise<void> {
    const served = this.#served;
    if (!served?.process.alive()) return;
    await served.service.nics.clear('the VM is to be saved or migrated');
    const [nic] = served.service.status().nics;
    if (nic) throw new HyperturtleError('HT_TIMEOUT', `NIC ${nic.id}: the guest has not let it go`);
    await unplugArenaOver(served.monitor.client(), UNPLUG_TIMEOUT_MS);
    this.#setArena('offered');
  }

  async #end(options: { remove: boolean }): Promise<void> {
    const served = this.#served;
    const process = served?.process;
    const alive = process?.alive() ?? false;
    if (served && alive && options.remove) await served.service.nics.clear('the VM is not served any more');
    if (served && alive && options.remove && this.#spec.bus !== undefined)
      await this.#unplug('arena', (qmp) => unplugArenaOver(qmp, UNPLUG_TIMEOUT_MS));
    if (served) {
      this.events.add({ type: 'daemon.stopping' });
      // so that it is on its way before the connection is closed
      await nextTurn();
    }
    if (served && alive && options.remove && 'hotplug' in this.#spec.agent)
      await this.#unplug('port', unplugPort);
    this.#removing = options.remove;
    this.#stop.abort(new HyperturtleError('HT_INTERRUPTED', 'the daemon is stopping'));
    await this.#running;
    this.#stopped = true;
    if (options.remove) await this.#forgetKept();
    await this.#arena?.close({ forget: options.remove || !this.#mayRun() });
    this.#arena = undefined;
    this.#arenaState = 'absent';
    if (options.remove) removeRecord(this.#deps.paths.run, this.name);
  }

  /** What cannot be forgotten is told, and keeps nothing else from being done. */
  async #forgetKept(): Promise<void> {
    await forgetKept(this.#keptAt, callThreads.lane()).catch((e: unknown) => this.#notForgotten(e));
  }

  #notForgotten(e: unknown): void {
    this.#log.error({ problem: messageOf(e) }, 'programs on NICs that an earlier process had');
  }

  get #keptAt(): { vm: string; run: string; bpffs: string } {
    const { run, bpffs } = this.#deps.paths;
    return { vm: this.name, run, bpffs };
  }

  /** Whether a process may have the arena, attached or not. */
  #mayRun(): boolean {
    const record = readRecord(this.#deps.paths.run, this.name);
    if (record && startTicksOf(record.pid) === record.startTicks) return true;
    try {
      this.#deps.kernel.findVm(this.#spec.qmp).close();
      return true;
    } catch (e) {
      return !isHyperturtleError(e, 'HT_NOT_FOUND');
    }
  }

  async #run(): Promise<void> {
    const signal = this.#stop.signal;
    const backoff = new Backoff();
    while (!signal.aborted) {
      try {
        this.#arena ??= await this.#openArena();
        const process = this.#deps.kernel.findVm(this.#spec.qmp);
        this.#say(undefined);
        try {
          await this.#serve(process, signal);
          backoff.reset();
        } finally {
          process.close();
        }
      } catch (e) {
        if (!signal.aborted) this.#say(e);
      }
      await changeNear(this.#spec.qmp, backoff.nextMs(), signal);
    }
  }

  /** A problem is logged once, not for each try. */
  #say(e: unknown): void {
    const problem = e === undefined ? undefined : messageOf(e);
    if (problem !== undefined && problem !== this.#problem) {
      if (isHyperturtleError(e, 'HT_NOT_FOUND')) this.#log.info({ problem }, 'waiting');
      else if (isHyperturtleError(e)) this.#log.warn({ problem, code: e.code }, 'not served');
      else this.#log.error({ err: e }, 'not served');
    }
    this.#problem = problem;
  }

  async #openArena(): Promise<VmArena> {
    const { arenaMib, owner } = this.#spec;
    // of a process that ended while no daemon ran; where both records are lost, serving finds out
    const of = keptProcess(this.#keptAt) ?? readNics(this.#deps.paths.run, this.name);
    if (of !== undefined && startTicksOf(of.pid) !== of.startTicks) await this.#forgetKept();
    const spec = { vm: this.name, bytes: arenaMib << 20, owner, ...this.#deps.paths };
    const arena = await VmArena.open(spec, this.#deps.kernel);
    this.#setArena('offered', arena);
    this.#log.info(
      { device: arena.device.devicePath, bytes: arena.bytes, resumed: arena.resumed },
      'arena offered',
    );
    return arena;
  }

  #setArena(state: ArenaInfo['state'], arena = this.#arena): void {
    this.#arenaState = state;
    const device = arena ? { device: path.basename(arena.device.devicePath) } : {};
    const bytes = arena?.bytes ?? 0;
    this.events.add({ type: 'arena.state', arena: { bytes, state, ...device } });
  }

  #agentSocket(): string {
    const { agent } = this.#spec;
    return 'socket' in agent ? agent.socket : path.join(this.#deps.paths.run, 'vms', this.name, 'agent.sock');
  }

  /** From attaching to the end of the process, or to the signal, whose reason it throws. */
  async #serve(process: VmProcess, signal: AbortSignal): Promise<void> {
    const arena = this.#arena;
    const startTicks = startTicksOf(process.pid);
    if (!arena || startTicks === undefined) return;
    const undo = new CleanupStack();
    const scope = new AbortController();
    let ended = false;
    try {
      const call = callThreads.lane();
      const hooks = process.attach(call);
      undo.add('attachment', () => hooks.close());
      const id = { pid: process.pid, startTicks };
      const service = new VmService({
        ...this.#serviceOptions(id),
        call,
        hooks,
        arena,
        nics: { ...this.#nicOptions(id), qmp: () => monitor.client() },
      });
      undo.add('objects', () =>
        service.close(signal.aborted ? 'the daemon is stopping' : 'the VM has ended', {
          keep: signal.aborted && !this.#removing,
        }),
      );
      await service.adopt(this.#nicsGiven(id));
      const monitor = this.#monitorOf(service, arena, { process, startTicks });
      const channel = new AgentChannel({
        socketPath: this.#agentSocket(),
        methods: this.#deps.traced(service.methods, this.name),
        requestsPerSecond: () => this.#spec.quotas.requestsPerSecond,
        onDrain: () => service.drained(),
        log: this.#log,
      });
      this.#served = { process, startTicks, service, monitor, channel };
      const watching = service.watchEnds(scope.signal).catch((e: unknown) => {
        if (!scope.signal.aborted) this.#log.error({ err: e }, 'ends of links are not noticed any more');
      });
      const tasks = [monitor.run(scope.signal), channel.run(scope.signal), watching];
      undo.add('connections', async () => {
        scope.abort();
        await Promise.all(tasks);
      });
      this.#log.info({ pid: process.pid }, 'attached');
      await process.whenGone(signal);
      ended = true;
      service.nics.ended();
    } finally {
      const attached = this.#served !== undefined;
      this.#served = undefined;
      await undo.run();
      if (attached) this.#log.info({ pid: process.pid }, 'detached');
      if (ended) await this.#wipe(arena);
    }
  }

  /** After the end of its process: for the next one. */
  async #wipe(arena: VmArena): Promise<void> {
    await arena.wipe();
    removeRecord(this.#deps.paths.run, this.name);
    this.#setArena('offered');
  }

  #serviceOptions(process: ProcessId): Omit<ServiceOptions, 'call' | 'hooks' | 'arena' | 'nics'> {
    const { run, bpffs } = this.#deps.paths;
    return {
      vm: this.name,
      load: this.#deps.load,
      loadTimeoutMs: this.#deps.loadTimeoutMs,
      check: this.#deps.check,
      settings: () => ({
        quotas: this.#spec.quotas,
        policy: this.#spec.policy,
        signature: this.#spec.signature,
        verify: this.#verify,
      }),
      daemon: this.#deps.daemon,
      events: this.events,
      audit: this.#log.child({ audit: true }),
      arenaInfo: () => this.arenaInfo(),
      doctor: () => this.#deps.doctor(this),
      onCall: (method, outcome) => this.#deps.onCall(this.name, method, outcome),
      keep: {
        run,
        bpffs,
        process,
        withoutDaemon: () => this.#spec.nics.withoutDaemon,
        onProblem: (e) => this.#notForgotten(e),
      },
    };
  }

  #nicOptions(process: ProcessId): Omit<ServiceOptions['nics'], 'qmp'> {
    return {
      run: this.#deps.paths.run,
      process,
      settings: () => nicSettings(this.#spec, this.#deps.networks()),
    };
  }

  /** NICs that an earlier daemon gave this process. */
  #nicsGiven({ pid, startTicks }: ProcessId): { id: string; ifindex: number }[] {
    const record = readNics(this.#deps.paths.run, this.name);
    if (record?.pid !== pid || record.startTicks !== startTicks) return [];
    return record.nics.filter((n) => n.complete).map((n) => ({ id: n.info.id, ifindex: n.ifindex }));
  }

  #monitorOf(service: VmService, arena: VmArena, of: { process: VmProcess; startTicks: number }): QmpMonitor {
    return new QmpMonitor({
      path: this.#spec.qmp,
      log: this.#log,
      onReset: (atMs) => void this.#reset(service, arena, atMs),
      onConnect: (client) => {
        void this.#settle(client, arena, of);
        client.onEvent((e) => {
          if (e.event === 'DEVICE_DELETED') void service.nics.released(e.data['device']);
        });
        void service.nics.recover();
      },
    });
  }

  async #reset(service: VmService, arena: VmArena, atMs: number): Promise<void> {
    try {
      await service.reset('QEMU has reset the VM', async () => {
        if (Date.now() - atMs < RESET_FRESH_MS) await arena.wipe();
      });
      this.#log.info({}, 'VM reset: all unlinked and unloaded');
    } catch (e) {
      this.#log.error({ err: e }, 'VM reset');
    }
  }

  /** Finds out whether QEMU has this arena and plugs what is configured to be plugged. Never throws. */
  async #settle(
    client: QmpClient,
    arena: VmArena,
    of: { process: VmProcess; startTicks: number },
  ): Promise<void> {
    try {
      // libvirt starts QEMU with the state of another
      await whenPluggable(client, this.#stop.signal);
      const { agent } = this.#spec;
      if ('hotplug' in agent)
        await plugPort(client, {
          socketPath: this.#agentSocket(),
          bus: agent.hotplug === true ? undefined : agent.hotplug.bus,
        });
      const { pid } = of.process;
      const plugged = await this.#settleArena(client, arena, { pid, startTicks: of.startTicks });
      if (this.#served?.process !== of.process) return;
      writeRecord(this.#deps.paths.run, this.name, {
        pid: of.process.pid,
        startTicks: of.startTicks,
        arenaMapId: plugged ? arena.mapId : null,
      });
      if ((this.#arenaState === 'plugged') !== plugged) this.#setArena(plugged ? 'plugged' : 'offered');
      this.#problem = undefined;
    } catch (e) {
      if (this.#served?.process === of.process) this.#say(e);
    }
  }

  async #settleArena(client: QmpClient, arena: VmArena, of: ProcessId): Promise<boolean> {
    const { bus } = this.#spec;
    const record = readRecord(this.#deps.paths.run, this.name);
    const found = await settleArena(client, arena, { process: of, record, bus, signal: this.#stop.signal });
    if (found === 'plugged') this.#log.info({ bus }, 'arena plugged');
    return found !== 'without';
  }

  /** A guest that does not let an arena go keeps the memory until it ends; nothing runs on it. */
  async #unplug(what: string, unplug: (qmp: QmpClient) => Promise<void>): Promise<void> {
    try {
      if (this.#served) await unplug(this.#served.monitor.client());
    } catch (e) {
      this.#log.warn({ problem: messageOf(e) }, `${what} not unplugged`);
    }
  }
}
