/**
 * One configured VM: its arena from the first moment; then, each time its QEMU runs, attach, serve, and when the
 * process ends undo all in reverse and wait for the next one. What goes wrong here is this VM's problem alone.
 */
import path from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { callThreads } from '../../bpf/calls.ts';
import { HyperturtleError, isHyperturtleError, messageOf } from '../../core/errors.ts';
import { ChildAbort, CleanupStack } from '../../core/lifecycle.ts';
import { Backoff, changeNear } from '../../core/retry.ts';
import { withDeadline } from '../../core/wait.ts';
import type { QmpClient } from '../../qmp/client.ts';
import type { ServedMethods } from '../../wire/handlers.ts';
import type { ArenaInfo, Finding } from '../../wire/schema.ts';
import { DEVICE, unplugArenaOver } from '../arena-plug.ts';
import { AgentChannel } from './agent-channel.ts';
import { VmArena, arenaLinkOf } from './arena.ts';
import { readNics, wholeNics } from '../nics/record.ts';
import type { HostConfig, VmSpec } from '../config.ts';
import { EventRing } from './events.ts';
import { mayRun } from './kernel.ts';
import type { HostKernel, VmProcess } from './kernel.ts';
import { forgetKept } from './forget.ts';
import { keptProcess } from './kept-record.ts';
import { nicSettings } from './nic-settings.ts';
import type { Log } from '../log.ts';
import { readRecord, removeRecord, startTicksOf, writeRecord } from './process-record.ts';
import { Moves } from './moves.ts';
import { unplugPort } from './qemu-side.ts';
import { QmpMonitor } from './qmp-monitor.ts';
import { INCOMING, settle } from './settle.ts';
import { Still } from './still.ts';
import { stillOf } from './vm-status.ts';
import type { VmStatus } from './vm-status.ts';
import { VmService } from './service.ts';
import type { ServiceOptions } from './service.ts';

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

/** A process, which no later one of its number is taken for. */
interface ProcessId {
  pid: number;
  startTicks: number;
}

/** What there is while the VM's process lives. */
interface Served {
  readonly process: VmProcess;
  readonly id: ProcessId;
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
  readonly #still: Still;
  /** What operators ask for: to make it quiet, to move it, to save it. */
  readonly moves: Moves;
  #spec: VmSpec;
  #verify: ReturnType<VmDeps['verifier']>;
  #running: Promise<void> | undefined;
  #arena: VmArena | undefined;
  #arenaState: ArenaInfo['state'] = 'absent';
  #served: Served | undefined;
  /** While it is served: ends that, and tells when it has ended. */
  #serving: { stop: ChildAbort; over: Promise<void> } | undefined;
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
    const common = { name, run: deps.paths.run, log: this.#log };
    this.#still = new Still({
      ...{ ...common, arenaLink: arenaLinkOf({ run: common.run, vm: name }), spec: () => this.#spec },
      served: () => this.#served && { process: this.#served.id, nics: this.#served.service.nics },
      endServing: (reason) => this.#endServing(reason),
    });
    this.moves = new Moves({ ...common, monitor: () => this.#monitorNow() }, this.#still);
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
      phase: this.#phase(),
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
      still: stillOf(this.#still.record),
      move: this.moves.progress ?? null,
      lastMove: this.moves.last ?? null,
    };
  }

  #phase(): VmStatus['phase'] {
    if (this.#stopped) return 'stopped';
    if (this.#served) return 'attached';
    return this.#still.record ? 'still' : this.#arena ? 'waiting' : 'starting';
  }

  /** Throws HT_UNAVAILABLE. */
  #monitorNow(): QmpClient {
    if (!this.#served) throw new HyperturtleError('HT_UNAVAILABLE', `VM '${this.name}' does not run`);
    return this.#served.monitor.client();
  }

  async #endServing(reason: string): Promise<void> {
    const serving = this.#serving;
    serving?.stop.abort(new HyperturtleError('HT_UNAVAILABLE', reason));
    await serving?.over;
    if (this.#arenaState === 'plugged') this.#setArena('offered');
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
    const alive = served?.process.alive() ?? false;
    this.#removing = options.remove;
    await this.moves.cancel('the daemon is stopping');
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
    this.#stop.abort(new HyperturtleError('HT_INTERRUPTED', 'the daemon is stopping'));
    await this.#running;
    this.#stopped = true;
    if (options.remove) await this.#forgetKept();
    const record = readRecord(this.#deps.paths.run, this.name);
    await this.#arena?.close({
      forget: options.remove || !mayRun(this.#deps.kernel, this.#spec.qmp, record),
    });
    this.#arena = undefined;
    this.#arenaState = 'absent';
    if (!options.remove) return;
    removeRecord(this.#deps.paths.run, this.name);
    this.#still.forget();
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

  async #run(): Promise<void> {
    const signal = this.#stop.signal;
    const backoff = new Backoff();
    while (!signal.aborted) {
      try {
        this.#arena ??= await this.#openArena();
        const process = this.#deps.kernel.findVm(this.#spec.qmp);
        this.#say(undefined);
        try {
          await this.#take(process, signal);
          backoff.reset();
        } finally {
          process.close();
        }
      } catch (e) {
        if (this.#still.forgetEnded() && this.#arena)
          await this.#wipe(this.#arena).catch((problem: unknown) => this.#say(problem));
        if (!signal.aborted && !this.#still.record) this.#say(e);
      }
      await changeNear(this.#spec.qmp, backoff.nextMs(), signal);
    }
  }

  /** Serves it, or lets it stand. */
  async #take(process: VmProcess, signal: AbortSignal): Promise<void> {
    const startTicks = startTicksOf(process.pid);
    if (startTicks === undefined) return;
    const id = { pid: process.pid, startTicks };
    if (!this.#still.holds(id)) {
      const stop = new ChildAbort(signal);
      const over = this.#serve(process, id, stop.signal);
      const settled = over.catch(() => {});
      this.#serving = { stop, over: settled };
      return over.finally(() => stop[Symbol.dispose]());
    }
    if ((await this.#still.stand(process, signal)) !== 'gone') return;
    this.#still.forget();
    await this.#wipe(this.#arena!);
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
  async #serve(process: VmProcess, id: ProcessId, signal: AbortSignal): Promise<void> {
    const arena = this.#arena!;
    const undo = new CleanupStack();
    const scope = new AbortController();
    let ended = false;
    try {
      const call = callThreads.lane();
      const hooks = process.attach(call);
      undo.add('attachment', () => hooks.close());
      const service = new VmService({
        ...this.#serviceOptions(id),
        call,
        hooks,
        arena,
        nics: { ...this.#nicOptions(id), qmp: () => monitor.client() },
      });
      undo.add('objects', () =>
        service.close(signal.aborted ? messageOf(signal.reason) : 'the VM has ended', {
          // what is quiesced keeps nothing: its next programs come with another session
          keep: this.#stop.signal.aborted && !this.#removing,
        }),
      );
      await service.adopt(wholeNics(this.#deps.paths.run, this.name, id));
      const monitor = this.#monitorOf(service, arena, id);
      const channel = new AgentChannel({
        socketPath: this.#agentSocket(),
        methods: this.#deps.traced(service.methods, this.name),
        requestsPerSecond: () => this.#spec.quotas.requestsPerSecond,
        onDrain: () => service.drained(),
        log: this.#log,
      });
      this.#served = { process, id, service, monitor, channel };
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

  #monitorOf(service: VmService, arena: VmArena, of: Served['id']): QmpMonitor {
    return new QmpMonitor({
      path: this.#spec.qmp,
      log: this.#log,
      onReset: (atMs) => void this.#reset(service, arena, atMs),
      onConnect: (client) => {
        const again = (): Promise<void> => this.#settle(client, arena, of);
        void again();
        client.onEvent((e) => {
          if (e.event !== 'DEVICE_DELETED') return;
          void service.nics.released(e.data['device']);
          this.#letGo(e.data['device'], again);
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
  async #settle(client: QmpClient, arena: VmArena, of: Served['id']): Promise<void> {
    const { run } = this.#deps.paths;
    const here = (): boolean => this.#served?.id === of;
    try {
      const plugged = await settle(client, arena, {
        ...{ vm: this.name, run, agentSocket: this.#agentSocket(), process: of },
        ...{ agent: this.#spec.agent, bus: this.#spec.bus },
        signal: this.#serving?.stop.signal ?? this.#stop.signal,
        onPlugged: (bus) => this.#log.info({ bus }, 'arena plugged'),
        onIncoming: () => here() && this.#say(new HyperturtleError('HT_NOT_FOUND', INCOMING)),
      });
      if (!here()) return;
      writeRecord(run, this.name, { ...of, arenaMapId: plugged ? arena.mapId : null });
      if ((this.#arenaState === 'plugged') !== plugged) this.#setArena(plugged ? 'plugged' : 'offered');
      this.#problem = undefined;
    } catch (e) {
      if (here()) this.#say(e);
    }
  }

  /** A guest that had been asked to let its arena go, for what was given up since, has done so late. */
  #letGo(device: unknown, again: () => Promise<void>): void {
    if (this.#removing || this.#arenaState !== 'plugged') return;
    if (typeof device !== 'string' || !device.startsWith(`${DEVICE}-`)) return;
    this.#setArena('offered');
    void again();
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
