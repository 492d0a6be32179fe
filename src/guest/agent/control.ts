/**
 * The agent's control loop and the commands that change the desired state. They take turns: a command asks the
 * host first and, when that agrees, writes down what is wanted from now on; a refusal leaves the desired state alone.
 */
import { HyperturtleError, isHyperturtleError, messageOf } from '../../core/errors.ts';
import { ChildAbort } from '../../core/lifecycle.ts';
import { Turns } from '../../core/turns.ts';
import { sleep } from '../../core/wait.ts';
import { canonical } from '../../net/policy.ts';
import type { ObjectPolicy } from '../../net/policy.ts';
import { NETWORK_PROGRAMS, networkObject } from '../../net/programs.ts';
import { kindOf } from '../../wire/errors.ts';
import type { Event, Params, Result } from '../../wire/schema.ts';
import { sameOptions } from '../../wire/link-options.ts';
import { sameLink } from './desired.ts';
import type { DesiredLink, DesiredState, LinkSpec } from './desired.ts';
import { Reconciler } from './reconcile.ts';
import type { HostCalls, Outcome } from './reconcile.ts';
import type { Problem } from './schema.ts';
import { sha256Of } from './state-file.ts';

export interface ControlLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

export interface ControlTimes {
  /** After a change, so that several are one round. */
  settleMs: number;
  /** While problems that may pass are left; doubles up to `retryMaxMs`. */
  retryMinMs: number;
  retryMaxMs: number;
}

const CONTROL_TIMES: ControlTimes = { settleMs: 100, retryMinMs: 1000, retryMaxMs: 60_000 };

const LOAD_TIMEOUT_MS = 100_000;

/** `revision`: another one means another policy. Both null: none is kept. */
export interface PolicyState {
  policy: ObjectPolicy | null;
  revision: string | null;
}
const NO_POLICY: PolicyState = { policy: null, revision: null };

/** The host's state changed, perhaps not by us. */
const UNSETTLING: ReadonlySet<Event['type']> = new Set([
  'object.unloaded',
  'object.loaded',
  'object.replaced',
  'link.made',
  'link.ended',
  'vm.reset',
  // links may have waited for it
  'nic.added',
]);

export class Control {
  readonly desired: DesiredState;
  readonly #log: ControlLog;
  readonly #times: ControlTimes;
  readonly #turns = new Turns();
  readonly #reconciler = new Reconciler();
  #last: (Outcome & { at: Date }) | undefined;
  #wake: () => void = () => {};
  #unsettled = false;

  constructor(desired: DesiredState, log: ControlLog, times: Partial<ControlTimes> = {}) {
    this.desired = desired;
    this.#log = log;
    this.#times = { ...CONTROL_TIMES, ...times };
  }

  get status(): { reached: boolean; checked: Date | undefined; problems: Problem[] } {
    const problems = this.#last?.problems ?? [];
    return { reached: this.#last !== undefined && problems.length === 0, checked: this.#last?.at, problems };
  }

  /** Compare again soon. */
  unsettle(): void {
    this.#unsettled = true;
    this.#wake();
  }

  onEvent(event: Event): void {
    if (UNSETTLING.has(event.type)) this.unsettle();
  }

  /** For as long as the session: reaches the desired state, and again whenever something changes. Throws at its end. */
  async keep(host: HostCalls, signal: AbortSignal, afterEach: () => Promise<void>): Promise<never> {
    this.#reconciler.newSession();
    this.#last = undefined;
    this.desired.refresh();
    let retryMs = this.#times.retryMinMs;
    try {
      for (;;) {
        this.#unsettled = false;
        const outcome = await this.reconcile(host, signal);
        await afterEach();
        if (outcome.problems.length === 0 || outcome.done.length > 0) retryMs = this.#times.retryMinMs;
        // also what does not pass by itself is tried now and then: quotas and policies are changed in the host
        const untilMs =
          outcome.problems.length === 0 ? undefined : outcome.retry ? retryMs : this.#times.retryMaxMs;
        await this.#changed(untilMs, signal);
        retryMs = Math.min(retryMs * 2, this.#times.retryMaxMs);
      }
    } finally {
      this.#last = undefined;
    }
  }

  /** One round now. A list that the host does not give is a problem like others, but for the end of the session. */
  async reconcile(host: HostCalls, signal: AbortSignal): Promise<Outcome> {
    const outcome = await this.#turns.take(async () => {
      try {
        return await this.#reconciler.run(this.desired, host, signal);
      } catch (e) {
        signal.throwIfAborted();
        const problem = {
          step: 'list',
          kind: kindOf(e),
          message: messageOf(e),
          since: new Date().toISOString(),
        };
        return { done: [], problems: [problem], retry: true };
      }
    }, signal);
    this.#report(outcome);
    this.#last = { ...outcome, at: new Date() };
    return outcome;
  }

  load(params: Params<'load'>, host: HostCalls, signal: AbortSignal): Promise<Result<'load'>> {
    return this.#change(signal, async () => {
      const result = await this.#written(
        () => this.#keepObject(params),
        () => host.request('load', params, { timeoutMs: LOAD_TIMEOUT_MS, signal }),
      );
      this.#confirm(params, result.object.sha256);
      if (!result.existed) await this.#refill(params.name, host, signal);
      return result;
    });
  }

  replace(params: Params<'replace'>, host: HostCalls, signal: AbortSignal): Promise<Result<'replace'>> {
    return this.#change(signal, async () => {
      const result = await this.#written(
        () => this.#keepObject(params),
        () => host.request('replace', params, { timeoutMs: LOAD_TIMEOUT_MS, signal }),
      );
      this.#confirm(params, result.object.sha256);
      if (result.created.length > 0) await this.#refill(params.name, host, signal);
      return result;
    });
  }

  unload(params: Params<'unload'>, host: HostCalls, signal: AbortSignal): Promise<Result<'unload'>> {
    return this.#change(signal, async () => {
      let wanted = false;
      await this.#written(
        () => {
          wanted = this.desired.removeObject(params.name);
        },
        async () => {
          try {
            await host.request('unload', params, { signal });
          } catch (e) {
            // the host never took it: not wanting it any more is all there is to do
            if (kindOf(e) !== 'NOT_FOUND' || !wanted) throw e;
            // nothing will happen there that makes us compare: what was a problem is none any more
            this.unsettle();
          }
        },
      );
      this.#reconciler.forgetPolicy(params.name);
      return {};
    });
  }

  /**
   * Puts a policy in force and keeps it. `unless`: the revision that it was made from; HT_BUSY when there is another one
   * meanwhile. Throws HT_NOT_FOUND when the object is not wanted, HT_USAGE.
   */
  setPolicy(
    params: { object: string; policy: ObjectPolicy; revision?: string | null | undefined },
    host: HostCalls,
    signal: AbortSignal,
  ): Promise<PolicyState> {
    const policy = canonical(params.policy);
    return this.#change(signal, async () => {
      const now = this.policy(params.object);
      if (params.revision !== undefined && params.revision !== now.revision)
        throw new HyperturtleError(
          'HT_BUSY',
          `the policy of '${params.object}' has been changed meanwhile: look, and try again`,
          { detail: { retryAfterMs: 0 } },
        );
      await this.#written(
        () => this.desired.putPolicy(params.object, policy),
        () => this.#reconciler.fill(params.object, policy, host, signal),
      );
      return this.policy(params.object);
    });
  }

  /** What is wanted of an object's maps. Throws HT_NOT_FOUND. */
  policy(object: string): PolicyState {
    const wanted = this.desired.objects().find((o) => o.name === object);
    if (!wanted) throw noSuch(`object '${object}' that this machine wants`);
    const { policy } = wanted;
    return policy ? { policy, revision: sha256Of(Buffer.from(JSON.stringify(policy))) } : NO_POLICY;
  }

  link(params: Params<'link'>, host: HostCalls, signal: AbortSignal): Promise<Result<'link'>> {
    return this.#change(signal, async () => {
      const asked = { ...params, target: params.target ?? undefined };
      const { link: made, ...rest } = await this.#written(
        () => {
          const there = this.desired.links().find((l) => sameLink(l, asked));
          // asked for without an order, it is the host's to choose
          if (!there || params.order !== undefined || !sameOptions(there.options, params.options))
            this.desired.putLink(asked);
        },
        () => host.request('link', params, { signal }),
      );
      this.#keepLink({ ...made, target: made.target ?? undefined, order: params.order });
      return { link: made, ...rest };
    });
  }

  unlink(params: Params<'unlink'>, host: HostCalls, signal: AbortSignal): Promise<Result<'unlink'>> {
    return this.#change(signal, async () => {
      const link = (await host.request('list', {}, { signal })).links.find((l) => l.id === params.id);
      await this.#written(
        () => {
          if (link) this.desired.removeLink({ ...link, target: link.target ?? undefined });
        },
        () => host.request('unlink', params, { signal }),
      );
      return {};
    });
  }

  /**
   * No longer wants what is for one NIC: links to it, and the network programs that are loaded for it alone. What the host has of
   * them is unlinked and unloaded; what has gone meanwhile, with its NIC or by itself, is none the worse. Throws what the host
   * answers: then all is wanted as before, and the host made to follow.
   */
  unwant(
    target: string,
    host: HostCalls,
    signal: AbortSignal,
  ): Promise<{ links: DesiredLink[]; objects: string[] }> {
    return this.#change(signal, async () => {
      const programs = NETWORK_PROGRAMS.map((p) => networkObject(p.name, target));
      const objects = this.desired
        .objects()
        .map((o) => o.name)
        .filter((name) => programs.includes(name));
      const links = this.desired.links().filter((l) => l.target === target);
      if (links.length + objects.length === 0) return { links, objects };
      await this.#written(
        () => this.desired.removeTarget(target, objects),
        () => this.#takeAway(target, objects, host, signal),
      );
      for (const name of objects) this.#reconciler.forgetPolicy(name);
      this.unsettle();
      return { links, objects };
    });
  }

  async #takeAway(
    target: string,
    objects: readonly string[],
    host: HostCalls,
    signal: AbortSignal,
  ): Promise<void> {
    const gone = (e: unknown): void => {
      if (!isHyperturtleError(e, 'HT_NOT_FOUND')) throw e;
    };
    try {
      const there = await host.request('list', {}, { signal });
      for (const link of there.links.filter((l) => l.target === target))
        await host.request('unlink', { id: link.id }, { signal }).catch(gone);
      for (const { name } of there.objects.filter((o) => objects.includes(o.name)))
        await host.request('unload', { name, force: true }, { signal }).catch(gone);
    } catch (e) {
      this.unsettle(); // some may have ended
      throw e;
    }
  }

  /** Changes what is wanted without asking the host, which is then made to follow. */
  change(work: () => void, signal: AbortSignal): Promise<void> {
    return this.#change(signal, () => {
      work();
      this.unsettle();
      return Promise.resolve();
    });
  }

  /**
   * Writes down what is wanted from now on, asks the host, and then puts the writing in force. Nothing is asked when it cannot be
   * written; nothing is kept when the host refuses.
   */
  async #written<T>(change: () => void, ask: () => Promise<T>): Promise<T> {
    const staged = this.desired.stage(change);
    let result: T;
    try {
      result = await ask();
    } catch (e) {
      staged.discard();
      throw e;
    }
    staged.commit();
    return result;
  }

  #keepObject({ name, elf: text, signature, constants }: Params<'load'>): void {
    const elf = Buffer.from(text, 'base64');
    const sha256 = sha256Of(elf);
    const same = this.desired
      .objects()
      .some(
        (o) =>
          o.name === name &&
          o.sha256 === sha256 &&
          JSON.stringify(o.constants) === JSON.stringify(constants) &&
          o.signature?.value === signature?.value,
      );
    if (!same) this.desired.putObject({ name, elf, signature, constants });
  }

  #confirm({ name, constants }: Params<'load'>, sha256: string): void {
    this.#reconciler.confirm({ name, sha256, ...(constants ? { constants } : {}) });
  }

  /** What the host has added to a link: the program's name, options. Without it the link is found all the same. */
  #keepLink(made: LinkSpec): void {
    const there = this.desired.links().find((l) => sameLink(l, made));
    if (there?.program !== undefined && sameOptions(there.options, made.options)) return;
    try {
      this.desired.putLink(made);
    } catch (e) {
      this.#log.warn({ problem: messageOf(e) }, 'link written down as it was asked for');
    }
  }

  /** The object has maps that nobody has filled in. */
  async #refill(name: string, host: HostCalls, signal: AbortSignal): Promise<void> {
    this.#reconciler.forgetPolicy(name);
    const { policy } = this.policy(name);
    if (policy) await this.#reconciler.fill(name, policy, host, signal);
  }

  async #change<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    return this.#turns.take(async () => {
      try {
        return await work();
      } catch (e) {
        // whether it was done is not known, or it was done and could not be written down: compare
        if (!isHyperturtleError(e) || UNSURE.has(kindOf(e))) this.unsettle();
        throw e;
      }
    }, signal);
  }

  /** Resolves when something changed, a little later, or after the time. */
  async #changed(untilMs: number | undefined, signal: AbortSignal): Promise<void> {
    if (!this.#unsettled) {
      const stop = new ChildAbort(signal);
      const woken = new Promise<void>((resolve) => (this.#wake = resolve));
      try {
        // 2^31-1 ms is the longest that a timer can wait
        await Promise.race([woken, sleep(untilMs ?? 2 ** 31 - 1, stop.signal)]);
      } finally {
        stop.abort();
        this.#wake = () => {};
      }
    }
    if (this.#unsettled) await sleep(this.#times.settleMs, signal);
  }

  #report(outcome: Outcome): void {
    for (const step of outcome.done) this.#log.info({ step }, 'desired state: done');
    const known = new Set(this.#last?.problems.map((p) => p.message));
    for (const p of outcome.problems)
      if (!known.has(p.message)) this.#log.warn({ step: p.step, kind: p.kind }, p.message);
  }
}

const UNSURE: ReadonlySet<string> = new Set(['DEADLINE', 'CANCELLED', 'UNAVAILABLE', 'INTERNAL']);

/** For a method that names what is not there. */
export function noSuch(what: string): HyperturtleError {
  return new HyperturtleError('HT_NOT_FOUND', `there is no ${what}`);
}
