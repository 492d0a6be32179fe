/**
 * Registers every VM whose RAM is on turtlefs with the guest module, and keeps the module's settings as configured.
 * The module tells of each new VM and of the arena's coming and going; anyone who opens its watch and then looks around
 * once misses nothing, so nothing here polls while a module is there. Owns the module's device and all registrations.
 */
import { HyperturtleError, isHyperturtleError, messageOf } from '../../core/errors.ts';
import type { ErrorCode } from '../../core/errors.ts';
import { ChildAbort } from '../../core/lifecycle.ts';
import { sleep } from '../../core/wait.ts';
import { HTG_EVENT_ARENA, HTG_EVENT_LOST, HTG_EVENT_NO_ARENA, HTG_EVENT_VM } from '../../kernel/guest.ts';
import type { HtgInfo, HtgPool, HtgVmEvent } from '../../kernel/guest.ts';
import type { AgentConfig } from './config.ts';
import type { GuestModule, Registration } from './module-device.ts';
import type { Problem } from './schema.ts';

interface RegistrarLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

export interface RegistrarOptions {
  open: () => GuestModule;
  deviceThere: () => boolean;
  config: Pick<AgentConfig, 'l2' | 'module'>;
  log: RegistrarLog;
  /** Resolves after a while, or sooner when the device may have come. Default: five seconds. */
  waitForDevice?: (signal: AbortSignal) => Promise<void>;
  /** With the module open, before anything else: mounts turtlefs. */
  onModule?: (signal: AbortSignal) => Promise<void>;
  /** A host has given an arena. */
  onArena?: () => void;
  /** Before the module is let go of by command. */
  onRelease?: () => Promise<void>;
  retryMs?: number;
}

export type ModuleState = 'present' | 'absent' | 'mismatch' | 'released';

export interface RegisteredVm {
  pid: number;
  since: Date;
  registration: Registration;
}

/** A VMM that is just opening or closing its VM, or out of memory: tried again so often. */
const TRIES = 5;
/** While released: how often to look whether the module has been unloaded. */
const RELEASE_LOOK_MS = 100;

export class Registrar {
  readonly #o: RegistrarOptions;
  #config: Pick<AgentConfig, 'l2' | 'module'>;
  #module: GuestModule | undefined;
  #state: ModuleState = 'absent';
  readonly #l2s = new Set<RegisteredVm>();
  readonly #problems = new Map<string, Problem>();
  /** Aborted to let go of the module now. */
  #hold = new ChildAbort(AbortSignal.abort());
  /** While the module is open: aborted just before it is closed. */
  #over: AbortSignal = AbortSignal.abort();
  #releasedUntilMs = 0;
  #letGo: (() => void)[] = [];

  constructor(options: RegistrarOptions) {
    this.#o = options;
    this.#config = options.config;
  }

  get state(): ModuleState {
    return this.#state;
  }

  get l2s(): readonly RegisteredVm[] {
    return [...this.#l2s];
  }

  get problems(): readonly Problem[] {
    return [...this.#problems.values()];
  }

  /** Undefined without a module. */
  info(): HtgInfo | undefined {
    return this.#module?.info();
  }

  /** One for each NUMA node; none without a module or an arena. */
  pools(): HtgPool[] {
    return this.#module?.pools() ?? [];
  }

  setConfig(config: Pick<AgentConfig, 'l2' | 'module'>): void {
    this.#config = config;
    if (!this.#module) return;
    this.#applySettings(this.#module);
    this.#registerAll(this.#module);
  }

  /**
   * Closes the device and all registrations, so that the module can be unloaded, and keeps off it for `ms`, or until it
   * has been unloaded. VMs go on without programs. Resolves when all is closed.
   */
  async release(ms: number): Promise<void> {
    this.#releasedUntilMs = performance.now() + ms;
    const closed = this.#module === undefined ? undefined : new Promise<void>((r) => this.#letGo.push(r));
    this.#hold.abort();
    await closed;
    this.#state = 'released';
    await this.#o.onRelease?.();
  }

  /** Until `signal` aborts; then all registrations and the device are closed. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        await this.#keepOff(signal);
        this.#hold = new ChildAbort(signal);
        await this.#serve(this.#hold.signal);
      } catch (e) {
        if (signal.aborted) break;
        if (this.#releasedUntilMs === 0) {
          this.#state = isHyperturtleError(e, 'HT_UNSUPPORTED') ? 'mismatch' : 'absent';
          if (isHyperturtleError(e, 'HT_NOT_FOUND')) this.#problems.delete('module');
          else this.#problem('module', e);
        }
      }
      this.#hold.abort();
      // released: no time of its own to wait for the device, see below
      if (this.#releasedUntilMs > 0) continue;
      const wait = this.#o.waitForDevice ?? ((s: AbortSignal) => sleep(5000, s));
      await wait(signal).catch(() => {}); // aborted: seen above
    }
  }

  /** For as long as it is released and the module is still there. */
  async #keepOff(signal: AbortSignal): Promise<void> {
    while (performance.now() < this.#releasedUntilMs && this.#o.deviceThere())
      await sleep(RELEASE_LOOK_MS, signal);
    this.#releasedUntilMs = 0;
  }

  async #serve(signal: AbortSignal): Promise<void> {
    const module = this.#o.open();
    this.#module = module;
    this.#state = 'present';
    this.#problems.delete('module');
    this.#o.log.info({}, 'guest module opened');
    const ended = new ChildAbort(signal);
    const over = ended.signal;
    this.#over = over;
    try {
      await this.#o.onModule?.(over).then(
        () => this.#problems.delete('mount turtlefs'),
        (e: unknown) => this.#problem('mount turtlefs', e),
      );
      this.#applySettings(module);
      this.#registerAll(module);
      for (;;) for (const event of await module.events(over)) this.#on(module, event);
    } finally {
      ended.abort();
      this.#module = undefined;
      this.#state = 'absent';
      for (const l2 of this.#l2s) l2.registration.close();
      this.#l2s.clear();
      module.close();
      for (const done of this.#letGo.splice(0)) done();
    }
  }

  #on(module: GuestModule, event: HtgVmEvent): void {
    switch (event.kind) {
      case HTG_EVENT_VM:
        if (this.#config.l2.register) this.#register(module, event.pid, TRIES);
        return;
      case HTG_EVENT_ARENA:
      case HTG_EVENT_LOST:
        this.#o.log.info({}, event.kind === HTG_EVENT_ARENA ? 'arena bound' : 'events were lost');
        this.#o.onArena?.();
        this.#applySettings(module);
        this.#registerAll(module);
        return;
      case HTG_EVENT_NO_ARENA:
        this.#o.log.info({}, 'arena gone: nested guests go on without programs');
        return;
      default:
        return; // of a newer module
    }
  }

  #applySettings(module: GuestModule): void {
    const { enabled, groupMax, pool } = this.#config.module;
    const settings = {
      ...(enabled === undefined ? {} : { enabled }),
      ...(groupMax === undefined ? {} : { groupMax }),
      ...(pool === undefined ? {} : { pool }),
    };
    if (Object.keys(settings).length === 0) return;
    try {
      if (module.info().arena_bound === 0) return; // it is told when there is one
      module.set(settings);
      this.#problems.delete('settings');
    } catch (e) {
      this.#problem('settings', e);
    }
  }

  #registerAll(module: GuestModule): void {
    if (!this.#config.l2.register) return;
    for (const pid of module.scan()) this.#register(module, pid, TRIES);
  }

  #register(module: GuestModule, pid: number, tries: number): void {
    if (this.#over.aborted || module !== this.#module) return;
    const step = `register VM of process ${pid}`;
    try {
      const { groupMax, framesLimit } = this.#config.l2;
      for (const registration of module.register(pid, { groupMax, framesLimit }))
        this.#keep(module, { pid, since: new Date(), registration });
      this.#problems.delete(step);
    } catch (e) {
      if (isHyperturtleError(e, 'HT_NOT_FOUND')) {
        // it has ended, or there is no arena: then the arena's coming makes us look at all
        this.#problems.delete(step);
        return;
      }
      this.#problem(step, e);
      if (lasts(e) || tries <= 1) return;
      const again = this.#o.retryMs ?? 200;
      sleep(again, this.#over).then(
        () => this.#register(module, pid, tries - 1),
        () => {},
      );
    }
  }

  #keep(module: GuestModule, l2: RegisteredVm): void {
    this.#l2s.add(l2);
    this.#o.log.info({ pid: l2.pid, name: l2.registration.status().name }, 'nested guest registered');
    l2.registration.whenGone(this.#over).then(
      () => {
        this.#l2s.delete(l2);
        l2.registration.close();
        this.#o.log.info({ pid: l2.pid }, 'nested guest gone');
        this.#afterEnd(module);
      },
      () => {}, // closed with all others
    );
  }

  /** There is room again for one that had none; and problems of processes that have ended are over. */
  #afterEnd(module: GuestModule): void {
    const waiting = [...this.#problems.keys()].filter((step) => step.startsWith('register '));
    if (waiting.length === 0) return;
    for (const step of waiting) this.#problems.delete(step);
    this.#registerAll(module);
  }

  #problem(step: string, e: unknown): void {
    const message = messageOf(e);
    const known = this.#problems.get(step);
    if (known?.message === message) return;
    const kind = e instanceof HyperturtleError ? e.code : 'INTERNAL';
    this.#problems.set(step, { step, kind, message, since: new Date().toISOString() });
    this.#o.log.warn({ kind }, `${step}: ${message}`);
  }
}

const LASTING: ReadonlySet<ErrorCode> = new Set(['HT_UNSUPPORTED', 'HT_NO_SPACE', 'HT_USAGE']);

/** Trying again at once would not help. */
function lasts(e: unknown): boolean {
  return e instanceof HyperturtleError && LASTING.has(e.code);
}
