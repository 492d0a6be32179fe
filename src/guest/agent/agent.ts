/**
 * The agent of an L1, put together: the connection to the host, the loop that keeps there what this machine wants, the
 * registration of nested guests, the local socket and the metrics. What it opens it closes in stop(), in reverse; what
 * the host has loaded stays there, so that a restarted agent finds it in place.
 */
import { existsSync } from 'node:fs';
import { isHyperturtleError, messageOf } from '../../core/errors.ts';
import { CleanupStack } from '../../core/lifecycle.ts';
import { changeNear } from '../../core/retry.ts';
import { claimSocket } from '../../core/sockets.ts';
import type { Tracing } from '../../core/tracing.ts';
import { withoutUndefined } from '../../core/defined.ts';
import { leftOutText } from '../left-out.ts';
import { smallText } from '../small.ts';
import { GUEST_DEVICE } from '../../kernel/guest.ts';
import type { HtgInfo, HtgPool } from '../../kernel/guest.ts';
import type { WireLog } from '../../wire/peer.ts';
import { traced } from '../../wire/traced.ts';
import type { Result } from '../../wire/schema.ts';
import { holdPort, holdState } from './alone.ts';
import type { AgentConfig } from './config.ts';
import { Control } from './control.ts';
import type { ControlTimes } from './control.ts';
import { DesiredState } from './desired.ts';
import { LocalServer, agentRuns } from './local.ts';
import { MetricsServer } from './metrics.ts';
import { agentMethods } from './methods.ts';
import { openModule } from './module-device.ts';
import type { GuestModule } from './module-device.ts';
import { noIndexOf } from './no-index.ts';
import type { IndexUse } from './no-index.ts';
import type { HostCalls } from './reconcile.ts';
import { keepReporting, l1Report } from './report.ts';
import { Registrar } from './registrar.ts';
import { EventRelay, WatchRelay } from './relay.ts';
import type { AgentResult, L2Info, ModuleInfo, Problem } from './schema.ts';
import { mountTurtlefs, unmountTurtlefs } from './turtlefs.ts';
import { Uplink } from './uplink.ts';
import type { UplinkTimes } from './uplink.ts';
import { elsewhereCounter, turtlefsMount } from './vms.ts';

type AgentLog = WireLog & { info(fields: object, message: string): void };

export interface AgentOptions {
  config: AgentConfig;
  version: string;
  log: AgentLog;
  /** Reads the configuration again. Default: the one given stays. */
  readConfig?: () => AgentConfig;
  /** False: nothing of this machine's kernel is used. A function is for tests. */
  module?: false | (() => GuestModule);
  tracing?: Tracing | undefined;
  times?: Partial<UplinkTimes & ControlTimes & { deviceMs: number }>;
}

const DEVICE_RETRY_MS = 5000;
/** For measurements all processes are looked through no more often. */
const ELSEWHERE_MS = 60_000;

export class Agent implements AsyncDisposable {
  readonly #o: AgentOptions;
  readonly #undo = new CleanupStack();
  readonly #stop = new AbortController();
  readonly #control: Control;
  readonly #uplink: Uplink;
  readonly #registrar: Registrar | undefined;
  readonly #events = new EventRelay();
  readonly #watches = new WatchRelay();
  readonly #startedAt = new Date().toISOString();
  #config: AgentConfig;

  /** Throws HT_BUSY when another agent has this one's state directory, port or socket. */
  static async start(options: AgentOptions): Promise<Agent> {
    const agent = new Agent(options);
    try {
      await agent.#start();
      return agent;
    } catch (e) {
      await agent.stop().catch(() => {}); // the first failure is the one to tell
      throw e;
    }
  }

  private constructor(options: AgentOptions) {
    const { config, log, version } = options;
    this.#o = options;
    this.#config = config;
    this.#control = new Control(new DesiredState(config), log, options.times);
    this.#uplink = new Uplink({
      port: config.port,
      version,
      log,
      tracing: options.tracing,
      times: { pingEveryMs: config.pingEveryS * 1000, ...options.times },
      onSession: (host, welcome, signal) => this.#session(host, welcome, signal),
      onNotify: (name, params) => {
        if (name === 'event') {
          this.#events.add(params);
          this.#control.onEvent(params);
        } else if (name === 'events.lost') {
          this.#events.lost(params.count);
          this.#control.unsettle();
        } else if (name === 'map.changed') this.#watches.changed(params);
      },
    });
    if (options.module !== false)
      this.#registrar = new Registrar({
        open: options.module ?? openModule,
        deviceThere: () => existsSync(GUEST_DEVICE),
        config,
        log,
        waitForDevice: (signal) =>
          changeNear(GUEST_DEVICE, options.times?.deviceMs ?? DEVICE_RETRY_MS, signal),
        onModule: (signal) => this.#mount(signal),
        // after a migration it is another host's, whose daemon has just come to the port
        onArena: () => this.#uplink.hurry(),
        onRelease: () => this.#unmount(),
      });
  }

  /** Takes a changed configuration. Port, sockets and state directory need a restart. Throws HT_CONFIG, changing nothing. */
  async reload(signal: AbortSignal): Promise<Problem[]> {
    const config = this.#o.readConfig?.() ?? this.#config;
    for (const key of ['port', 'pingEveryS', 'socket', 'state', 'metrics'] as const)
      if (JSON.stringify(config[key]) !== JSON.stringify(this.#config[key]))
        this.#o.log.warn({ setting: key }, `${key} has been changed: restart the agent for it`);
    this.#config = config;
    this.#registrar?.setConfig(config);
    await this.#control.change(() => this.#control.desired.setConfig(config), signal);
    if (this.#uplink.status.state !== 'connected') return this.#control.status.problems;
    return (await this.#control.reconcile(this.#uplink, signal)).problems;
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#undo.run();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  status(): AgentResult<'agent.status'> {
    const up = this.#uplink.status;
    const { desired, status } = this.#control;
    const module = this.#moduleInfo();
    return {
      version: this.#o.version,
      startedAt: this.#startedAt,
      port: this.#config.port,
      host: {
        state: up.state,
        since: up.since.toISOString(),
        sessions: up.sessions,
        lastError: up.lastError ?? null,
        vm: up.welcome?.vm ?? null,
        daemon: up.welcome?.daemon ?? null,
      },
      desired: {
        objects: desired.objects().length,
        links: desired.links().length,
        reached: status.reached,
        checked: status.checked?.toISOString() ?? null,
        problems: status.problems,
      },
      module,
      l2s: this.#registrar?.l2s.map((l2) => l2Info(l2, module?.index)) ?? [],
      l2Problems: [
        ...(this.#registrar?.problems ?? []),
        ...(this.#registrar?.l2s.flatMap(leftOutProblem) ?? []),
      ],
    };
  }

  async #start(): Promise<void> {
    const { signal } = this.#stop;
    const { log } = this.#o;
    const own = agentMethods({
      uplink: this.#uplink,
      control: this.#control,
      events: this.#events,
      watches: this.#watches,
      status: () => this.status(),
      reload: (s) => this.reload(s),
      release: async (seconds) => {
        await this.#registrar?.release(seconds * 1000);
      },
    });
    const methods = traced(own, this.#o.tracing, {});
    await claimSocket(this.#config.socket, { signal, taken: agentRuns(this.#config.socket) });
    const held = await holdState(this.#config.state, signal);
    this.#undo.add('state directory', held.release);
    const port = await holdPort(this.#config.port);
    this.#undo.add('port', port.release);
    const local = await LocalServer.listen(this.#config.socket, methods, log, signal);
    this.#undo.add('local socket', () => local.close());
    if (this.#config.metrics) {
      const vmsElsewhere = this.#registrar ? elsewhereCounter(ELSEWHERE_MS) : () => undefined;
      const figures = { status: () => this.status(), vmsElsewhere };
      const metrics = await MetricsServer.listen(this.#config.metrics, figures, signal);
      this.#undo.add('metrics', () => metrics.close());
    }
    if (this.#registrar) {
      const registering = this.#registrar.run(signal);
      this.#undo.add('registrations', () => registering);
    }
    const connecting = this.#uplink.run(signal);
    this.#undo.add('connection to the host', () => connecting);
  }

  async #session(host: HostCalls, welcome: Result<'hello'>, signal: AbortSignal): Promise<void> {
    try {
      await this.#events.subscribe(host, welcome.daemon.instance, signal);
      await Promise.all([
        this.#control.keep(host, signal, () =>
          this.#watches.renew(host, signal, (message) => this.#o.log.warn({}, message)),
        ),
        keepReporting(host, () => l1Report(this.status(), welcome.protocol), signal),
      ]);
    } finally {
      this.#watches.sessionEnded();
    }
  }

  async #mount(signal: AbortSignal): Promise<void> {
    const { dir, mount } = this.#config.turtlefs;
    if (!mount || this.#o.module !== undefined) return;
    if (await mountTurtlefs(dir, signal)) this.#o.log.info({ dir }, 'turtlefs mounted');
  }

  /** What this agent mounted, or one before it: the configuration says that it is the agent's to mount. */
  async #unmount(): Promise<void> {
    const { dir, mount } = this.#config.turtlefs;
    if (this.#o.module === undefined && mount && turtlefsMount() === dir) await unmountTurtlefs(dir);
  }

  #moduleInfo(): ModuleInfo | null {
    if (!this.#registrar) return null;
    let info: HtgInfo | undefined;
    let pools: HtgPool[] = [];
    try {
      info = this.#registrar.info();
      pools = this.#registrar.pools();
    } catch (e) {
      if (!isHyperturtleError(e)) throw e;
      this.#o.log.warn({}, messageOf(e));
    }
    return moduleInfo(this.#registrar.state, info, pools);
  }
}

function moduleInfo(
  state: ModuleInfo['state'],
  i: HtgInfo | undefined,
  pools: readonly HtgPool[],
): ModuleInfo {
  const n = (value: number | undefined): number => value ?? 0;
  return {
    state,
    turtlefs: turtlefsMount() ?? null,
    arenaBound: n(i?.arena_bound) !== 0,
    arenaBytes: n(i?.arena_bytes),
    enabled: n(i?.enabled) !== 0,
    groupMax: n(i?.group_max),
    pool: {
      level: n(i?.pool_level),
      low: n(i?.pool_low),
      high: n(i?.pool_high),
      entries: n(i?.pool_entries),
      refills: n(i?.refills),
      shrunk: n(i?.shrunk),
      nodes: pools.map((p) => ({ node: p.node, level: p.level, low: p.low, high: p.high })),
    },
    index: { words: n(i?.index_words), used: n(i?.index_used) },
    frames: { allocated: n(i?.frames_allocated), freed: n(i?.frames_freed) },
    faults: { total: n(i?.faults), found: n(i?.faults_found), lost: n(i?.faults_lost) },
    gracePeriods: n(i?.grace_periods),
  };
}

/** RAM on turtlefs that programs in L0 leave alone, since nobody can be charged for it. */
function leftOutProblem({ since, registration }: Registrar['l2s'][number]): Problem[] {
  const s = registration.status();
  const message = leftOutText(s);
  return message === undefined
    ? []
    : [{ step: `memory of ${s.name}`, kind: 'LIMIT', message, since: since.toISOString() }];
}

function l2Info({ pid, since, registration }: Registrar['l2s'][number], index?: IndexUse): L2Info {
  const s = registration.status();
  const [problem, small] = [noIndexOf(pid, s, index), smallText(s)];
  return {
    pid,
    name: s.name,
    number: s.number,
    since: since.toISOString(),
    pages: s.pages,
    pagesHeld: s.pages_held,
    pagesUnused: s.pages_unused,
    framesTaken: s.frames_taken,
    framesCharged: s.frames_charged,
    framesCredit: s.frames_credit,
    cgroup: s.cgroup,
    faults: s.faults,
    mappedExisting: s.mapped_existing,
    mappedNew: s.mapped_new,
    mappedAhead: s.mapped_ahead,
    passes: s.passes,
    slotChanges: s.slot_changes,
    slots: s.slots,
    largeWaiting: s.large_waiting,
    largeSeen: s.large_seen,
    largeKept: s.large_kept,
    pagesVain: s.pages_vain,
    pagesBack: s.pages_back,
    ...withoutUndefined({ noIndex: problem, small }),
  };
}
