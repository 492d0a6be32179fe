/**
 * Makes what the host has (observed state) what this machine wants (desired state). The plan is data, computed from
 * both; each step is one request. A step that the host refuses is told as a problem and the others go on.
 */
import { HyperturtleError } from '../../core/errors.ts';
import { messageWithReason } from '../../core/verifier-log.ts';
import { wireMaps } from '../../net/maps.ts';
import { applyPolicy } from '../../net/policy.ts';
import type { ObjectPolicy } from '../../net/policy.ts';
import { kindOf } from '../../wire/errors.ts';
import type { ErrorKind } from '../../wire/errors.ts';
import type { EndedLink, LinkInfo, METHODS, ObjectInfo, Params, Result } from '../../wire/schema.ts';
import type { RequestOptions } from '../../wire/peer.ts';
import { sameOptions } from '../../wire/link-options.ts';
import { sameLink } from './desired.ts';
import type { DesiredLink, DesiredObject, DesiredState } from './desired.ts';
import { omit } from './omit.ts';
import type { Problem } from './schema.ts';

export type Step =
  | { do: 'unlink'; link: LinkInfo }
  | { do: 'unload'; name: string }
  | { do: 'load'; object: DesiredObject }
  | { do: 'replace'; object: DesiredObject }
  | { do: 'policy'; object: DesiredObject; policy: ObjectPolicy }
  | { do: 'link'; link: DesiredLink };

export interface Wanted {
  objects: readonly DesiredObject[];
  links: readonly DesiredLink[];
  /** Neither loaded nor unloaded. */
  leave: readonly string[];
}

export interface Observed {
  objects: readonly ObjectInfo[];
  links: readonly LinkInfo[];
  /** By the host, as runs took too long. */
  ended?: readonly EndedLink[] | undefined;
}

/** What the host's list does not say, as far as it is known. */
export interface Known {
  /** The host has this very object, constants included. */
  object(o: DesiredObject): boolean;
  /** Its maps hold this policy. */
  policy(o: DesiredObject): boolean;
}

/**
 * What is not wanted goes first, as it may hold the hook or the quota of what is. Links come last, so that no program sees
 * anything before its policy is in force.
 */
export function plan(
  wanted: Wanted,
  observed: Observed,
  known: Known = { object: () => true, policy: () => true },
): Step[] {
  const left = new Set(wanted.leave);
  const byName = new Map(observed.objects.map((o) => [o.name, o]));
  const off = new Set(endedOf(wanted, observed).map((e) => e.link));
  return [
    ...observed.links
      .filter((l) => !left.has(l.object) && !wanted.links.some((w) => sameLink(w, l)))
      .map((link): Step => ({ do: 'unlink', link })),
    ...observed.objects
      .filter((o) => !left.has(o.name) && !wanted.objects.some((w) => w.name === o.name))
      .map((o): Step => ({ do: 'unload', name: o.name })),
    ...wanted.objects.flatMap((object): Step[] => {
      const there = byName.get(object.name);
      const { policy } = object;
      const fill = policy ? [{ do: 'policy' as const, object, policy }] : [];
      if (there === undefined) return [{ do: 'load', object }, ...fill];
      if (there.sha256 !== object.sha256) return [{ do: 'replace', object }, ...fill];
      // loading the same again is answered with success, with other constants by EXISTS
      if (object.constants !== undefined && !known.object(object)) return [{ do: 'load', object }, ...fill];
      return known.policy(object) ? [] : fill;
    }),
    ...wanted.links
      .filter(
        (w) =>
          !off.has(w) &&
          !observed.links.some(
            (l) => sameLink(w, l) && (w.order ?? l.order) === l.order && sameOptions(w.options, l.options),
          ),
      )
      .map((link): Step => ({ do: 'link', link })),
  ];
}

/** Wanted links that are left off: the host has ended the link of this very object. Linking it again is for people. */
export function endedOf(wanted: Wanted, observed: Observed): { link: DesiredLink; reason: string }[] {
  const { ended = [] } = observed;
  const same = (name: string): boolean =>
    wanted.objects.find((o) => o.name === name)?.sha256 ===
    observed.objects.find((o) => o.name === name)?.sha256;
  return wanted.links.flatMap((link) => {
    const end = ended.find((e) => sameLink(link, e.link));
    return end && same(link.object) ? [{ link, reason: end.reason }] : [];
  });
}

export function stepText(step: Step): string {
  switch (step.do) {
    case 'unlink':
    case 'link':
      return `${step.do} ${step.link.object} at ${step.link.hook}${step.link.target ? ` of ${step.link.target}` : ''}`;
    case 'unload':
      return `unload ${step.name}`;
    case 'load':
    case 'replace':
    case 'policy':
      return `${step.do} ${step.object.name}`;
  }
}

/** Requests to the host; throws what RpcPeer.request throws. */
export interface HostCalls {
  request<M extends keyof typeof METHODS>(
    method: M,
    params: Params<M>,
    options?: RequestOptions,
  ): Promise<Result<M>>;
}

export interface Outcome {
  done: string[];
  problems: Problem[];
  /** Some of the problems may pass by themselves: try again soon. */
  retry: boolean;
}

/** May go away without anybody changing anything. */
const PASSING: ReadonlySet<ErrorKind> = new Set(['BUSY', 'DEADLINE', 'UNAVAILABLE', 'INTERNAL', 'CANCELLED']);
/** There is no sense in going on: the connection is gone. */
const GONE: ReadonlySet<ErrorKind> = new Set(['UNAVAILABLE', 'NO_HELLO']);

const LOAD_TIMEOUT_MS = 90_000;

export class Reconciler {
  /** Which objects the host has confirmed in this session, constants included. */
  readonly #confirmed = new Map<string, string>();
  /** Which policy their maps hold, as far as this session has seen to it. */
  readonly #policies = new Map<string, string>();
  /** When a problem was first seen, by its step and kind. */
  #since = new Map<string, string>();

  /** Nothing is known of what the host has. */
  newSession(): void {
    this.#confirmed.clear();
    this.#policies.clear();
  }

  /** Someone else had the host load this. */
  confirm(object: Pick<DesiredObject, 'name' | 'sha256' | 'constants'>): void {
    this.#confirmed.set(object.name, digest(object));
  }

  /** Whatever was known of the maps of this object is not so any more. */
  forgetPolicy(object: string): void {
    this.#policies.delete(object);
  }

  /** Puts a policy in force, which takes its turn with all else that is asked of the host. */
  async fill(object: string, policy: ObjectPolicy, host: HostCalls, signal: AbortSignal): Promise<void> {
    this.#policies.delete(object);
    await applyPolicy(
      wireMaps((method, params) => host.request(method, params, { signal }), object),
      policy,
    );
    this.#policies.set(object, JSON.stringify(policy));
  }

  /** Throws when the host does not give its list, and HT_INTERRUPTED or the signal's reason. */
  async run(desired: DesiredState, host: HostCalls, signal: AbortSignal): Promise<Outcome> {
    const outcome: Outcome = { done: [], problems: [], retry: false };
    const observed = await host.request('list', {}, { signal });
    const wanted = { objects: desired.objects(), links: desired.links(), leave: desired.unreadable() };
    const steps = plan(wanted, observed, {
      object: (o) => this.#confirmed.get(o.name) === digest(o),
      policy: (o) => o.policy === undefined || this.#policies.get(o.name) === JSON.stringify(o.policy),
    });
    for (const { link, reason } of endedOf(wanted, observed))
      outcome.problems.push(this.#problem(stepText({ do: 'link', link }), 'ENDED', reason));
    for (const { step, message } of desired.problems())
      outcome.problems.push(this.#problem(step, 'NOT_FOUND', message));
    for (const step of steps) {
      signal.throwIfAborted();
      try {
        await this.#do(step, desired, host, signal);
        outcome.done.push(stepText(step));
      } catch (e) {
        const kind = kindOf(e);
        outcome.problems.push(this.#problem(stepText(step), kind, messageWithReason(e)));
        outcome.retry ||= PASSING.has(kind);
        if (GONE.has(kind)) break;
      }
    }
    this.#since = new Map(outcome.problems.map((p) => [`${p.step} ${p.kind}`, p.since]));
    return outcome;
  }

  async #do(step: Step, desired: DesiredState, host: HostCalls, signal: AbortSignal): Promise<void> {
    const options = { timeoutMs: LOAD_TIMEOUT_MS, signal };
    switch (step.do) {
      case 'unlink':
        await host.request('unlink', { id: step.link.id }, { signal });
        return;
      case 'unload':
        await host.request('unload', { name: step.name, force: true }, { signal });
        this.#confirmed.delete(step.name);
        this.forgetPolicy(step.name);
        return;
      case 'policy':
        await this.fill(step.object.name, step.policy, host, signal);
        return;
      case 'load': {
        const params = loadParams(step.object, desired);
        try {
          await host.request('load', params, options);
        } catch (e) {
          if (kindOf(e) !== 'EXISTS') throw e;
          await host.request('replace', params, options);
        }
        this.confirm(step.object);
        return;
      }
      case 'replace':
        await host.request('replace', loadParams(step.object, desired), options);
        this.confirm(step.object);
        return;
      case 'link': {
        await host.request('link', omit(step.link, 'origin'), { signal });
        return;
      }
    }
  }

  #problem(step: string, kind: string, message: string): Problem {
    const since = this.#since.get(`${step} ${kind}`) ?? new Date().toISOString();
    return { step, kind, message, since };
  }
}

function loadParams(object: DesiredObject, desired: DesiredState): Params<'load'> {
  const { name, signature, constants } = object;
  return {
    name,
    elf: desired.elfOf(object).toString('base64'),
    ...(signature ? { signature } : {}),
    ...(constants ? { constants } : {}),
  };
}

function digest(o: Pick<DesiredObject, 'sha256' | 'constants'>): string {
  return `${o.sha256} ${JSON.stringify(Object.entries(o.constants ?? {}).sort())}`;
}

/** For callers without a session. */
export function notConnected(why: string | undefined): HyperturtleError {
  return new HyperturtleError(
    'HT_UNAVAILABLE',
    `not connected to the host${why === undefined ? '' : ` (${why})`}: the agent keeps trying; 'hyperturtle doctor' looks for the cause`,
  );
}
