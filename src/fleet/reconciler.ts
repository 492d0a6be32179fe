/**
 * The loop of one node: what the sets of the API want here, the local agent is asked to load and link; what came of it is this
 * node's status. A round compares everything and needs no memory of the one before. When the API does not answer nothing
 * changes: programs stay, the agent keeps them over restarts.
 */
import { isHyperturtleError, messageOf } from '../core/errors.ts';
import type { ErrorCode } from '../core/errors.ts';
import { ChildAbort } from '../core/lifecycle.ts';
import { Backoff } from '../core/retry.ts';
import { sleep } from '../core/wait.ts';
import type { AgentResult } from '../guest/agent/schema.ts';
import { GROUP, SETS, VERSION } from './crd.ts';
import { Convergence } from './figures.ts';
import type { FleetFigures } from './figures.ts';
import type { KubeApi } from './kube.ts';
import { STATUS_TIMES, StatusWriter, collection } from './node-status.ts';
import type { StatusTimes } from './node-status.ts';
import { applySet, objectOf, refusalOf, unloadOthers } from './programs.ts';
import type { AgentCalls, Outcome, Seen, WantedSet } from './programs.ts';
import { REFLECTOR_TIMES, Reflector } from './reflector.ts';
import type { Item, ReflectorTimes } from './reflector.ts';
import { choiceFor } from './rollout.ts';
import { Sources } from './source.ts';
import type { FetchOci, Fetched } from './source.ts';
import { HyperupcallSet, STATUS_SETS_MAX, shortMessage } from './spec.ts';
import type { NodeStatus, SetStatus } from './spec.ts';

export interface ReconcileTimes extends ReflectorTimes, StatusTimes {
  /** Between rounds when nothing changed: the agent and its host are looked at, the API is not asked. */
  localMs: number;
  /** Refusals are tried again after this; objects that cannot be fetched from `retryMinMs` up to this. */
  refusedMs: number;
}

const RECONCILE_TIMES = { localMs: 60_000, refusedMs: 300_000 } as const;

export interface ReconcilerOptions {
  api: KubeApi;
  namespace: string;
  node: string;
  /** One connection to the agent, for one round. Throws HT_UNAVAILABLE without one. */
  withAgent: <T>(
    use: (agent: AgentCalls, signal: AbortSignal) => Promise<T>,
    signal: AbortSignal,
  ) => Promise<T>;
  oci: FetchOci;
  log: { info(fields: object, message: string): void; warn(fields: object, message: string): void };
  times?: Partial<ReconcileTimes>;
}

/** A set of the API, and what is known of it on this node. */
interface Candidate {
  name: string;
  generation: number;
  wanted?: WantedSet;
  /** It is no set: an older definition let it pass. */
  problem?: string;
}

export class Reconciler {
  readonly #o: ReconcilerOptions;
  readonly #times: ReconcileTimes;
  readonly #sets: Reflector;
  readonly #nodes: Reflector;
  readonly #sources: Sources;
  readonly #status: StatusWriter;
  #before = new Map<string, SetStatus>();
  readonly #refusals = new Map<string, { of: string; outcome: Outcome; until: number }>();
  #nestedGuests: NodeStatus['nestedGuests'] = { registered: 0, notIndexed: 0 };
  #labels: Readonly<Record<string, string>> | undefined;
  #changed = false;
  /** As performance.now(): since then a round is due. */
  #askedAt = performance.now();
  #agentAnswers = false;
  readonly #convergence = new Convergence();
  readonly #startedAt = Date.now();
  #wake: () => void = () => {};
  #rounds = 0;

  constructor(options: ReconcilerOptions) {
    const { api, namespace, node, times = {}, log } = options;
    this.#o = options;
    this.#times = { ...REFLECTOR_TIMES, ...STATUS_TIMES, ...RECONCILE_TIMES, ...times };
    this.#sources = new Sources(api, namespace, options.oci, this.#times);
    const watched = (path: string, more: object) =>
      new Reflector({
        ...{ api, path, times: this.#times, ...more },
        onChange: () => this.#unsettle(),
        onProblem: (message) => log.warn({ path }, message),
      });
    this.#sets = watched(collection(namespace, SETS), {});
    this.#nodes = watched('/api/v1/nodes', {
      query: { fieldSelector: `metadata.name=${node}` },
      metadataOnly: true,
    });
    this.#status = new StatusWriter({
      ...{ api, namespace, node, times: this.#times },
      owner: () => this.#nodes.items?.get(node)?.metadata.uid,
      onProblem: (message) => log.warn({ path: `${GROUP}/${VERSION} status` }, message),
    });
  }

  get figures(): FleetFigures {
    const of = (resource: string, r: Reflector) => ({ resource, watching: r.watching, ...r.counts });
    const { converged, ...convergence } = this.#convergence.figures;
    return {
      ...convergence,
      startedAt: this.#startedAt,
      converged: converged && this.#status.settled,
      agentAnswers: this.#agentAnswers,
      rounds: this.#rounds,
      requests: this.#o.api.counts,
      resources: [of(SETS, this.#sets), of('nodes', this.#nodes)],
    };
  }

  /** For tests. */
  get counts(): { rounds: number; sets: Reflector['counts']; nodes: Reflector['counts'] } {
    return { rounds: this.#rounds, sets: this.#sets.counts, nodes: this.#nodes.counts };
  }

  /** Until the signal aborts; never throws. */
  async run(signal: AbortSignal): Promise<void> {
    const earlier = await this.#status.earlier(signal);
    for (const set of earlier?.sets ?? []) this.#before.set(set.name, set);
    await Promise.all([
      this.#sets.run(signal),
      this.#nodes.run(signal),
      this.#status.run(signal),
      this.#keepOn(signal),
    ]);
  }

  #unsettle(): void {
    if (!this.#changed) this.#askedAt = performance.now();
    this.#changed = true;
    this.#wake();
  }

  async #keepOn(signal: AbortSignal): Promise<void> {
    const backoff = new Backoff(this.#times.retryMinMs, this.#times.retryMaxMs, 1 / 2);
    let nextMs = this.#times.localMs;
    while (!signal.aborted)
      try {
        await this.#wait(nextMs, signal);
        const statuses = await this.#round(signal);
        const passing = statuses?.some((s) => s.phase === 'Pending' || s.phase === 'Admitted') ?? false;
        if (!passing) backoff.reset();
        const retryMs = passing ? backoff.nextMs() : Infinity;
        nextMs = Math.min(this.#times.localMs, retryMs, Math.max(this.#sources.dueInMs, 10));
      } catch (e) {
        if (signal.aborted) return;
        this.#o.log.warn({}, messageOf(e));
        nextMs = backoff.nextMs();
      }
  }

  /** Until something changed, or the time is over. */
  async #wait(ms: number, signal: AbortSignal): Promise<void> {
    if (!this.#changed) {
      using stop = new ChildAbort(signal);
      const woken = new Promise<void>((resolve) => (this.#wake = resolve));
      await Promise.race([woken, sleep(ms, stop.signal)]).finally(() => stop.abort());
    }
    // several changes are one round
    if (this.#changed) await sleep(this.#times.settleMs, signal);
    else this.#askedAt = performance.now();
    this.#changed = false;
  }

  /** Undefined: not all that has to be known of the API is known yet. */
  async #round(signal: AbortSignal): Promise<SetStatus[] | undefined> {
    const sets = this.#sets.items;
    const node = this.#nodes.items?.get(this.#o.node);
    // a Node object that has gone, or is not there yet, says nothing about what is wanted
    if (node) this.#labels = node.metadata.labels ?? {};
    if (!sets || !this.#labels) return undefined;
    this.#rounds++;
    const askedAt = this.#askedAt;
    const all = [...sets.values()]
      .map((item) => candidate(item, { name: this.#o.node, labels: this.#labels ?? {} }))
      .filter((c) => c !== undefined)
      .sort((a, b) => (a.name < b.name ? -1 : 1));
    this.#sources.keep(all.flatMap((c) => (c.wanted ? [c.wanted.choice.object] : [])));
    await this.#spread(all, signal);
    let agent: AgentResult<'agent.status'> | undefined;
    const outcomes = new Map<string, Outcome>();
    try {
      await this.#o.withAgent(async (calls, ended) => {
        agent = await calls.request('agent.status', {}, { signal: ended });
        this.#agentAnswers = true;
        await this.#apply(all, agent, calls, ended, outcomes);
      }, signal);
    } catch (e) {
      if (signal.aborted) throw e;
      if (agent === undefined) this.#agentAnswers = false;
      for (const c of all)
        if (!outcomes.has(c.name))
          outcomes.set(c.name, { ...this.#last(c), ...refusalOf(e), phase: 'Pending' });
    }
    const statuses = all.map((c) => this.#since(c, outcomes.get(c.name) ?? { phase: 'Pending', links: 0 }));
    this.#report(statuses);
    this.#convergence.round(statuses, askedAt);
    this.#status.set(this.#nodeStatus(agent, statuses));
    return statuses;
  }

  async #spread(all: readonly Candidate[], signal: AbortSignal): Promise<void> {
    const asks = all.some((c) => c.wanted && this.#sources.asks(c.wanted.choice.object));
    // as before a status: all nodes see a change in the same moment
    if (asks) await sleep(Math.random() * this.#times.spreadMs, signal);
  }

  async #apply(
    all: readonly Candidate[],
    status: AgentResult<'agent.status'>,
    calls: AgentCalls,
    signal: AbortSignal,
    outcomes: Map<string, Outcome>,
  ): Promise<void> {
    const seen: Seen = {
      desired: await calls.request('agent.desired', {}, { signal }),
      host: await calls.request('list', {}, { signal }),
      problems: status.desired.problems,
    };
    const gone = await unloadOthers(new Set(all.map((c) => objectOf(c.name))), seen, calls, signal);
    for (const object of gone) this.#o.log.info({ object }, 'unloaded: no set wants it here any more');
    for (const c of all) {
      signal.throwIfAborted();
      if (!c.wanted) {
        outcomes.set(c.name, { ...this.#last(c), phase: 'Failed', message: c.problem ?? '' });
        continue;
      }
      let fetched: Fetched;
      try {
        fetched = await this.#sources.fetch(c.wanted.choice.object, signal);
      } catch (e) {
        if (signal.aborted) throw e;
        // what was there before stays
        outcomes.set(c.name, { ...this.#last(c), ...fetchFailure(e) });
        continue;
      }
      outcomes.set(c.name, await this.#applyOne(c.wanted, fetched, seen, calls, signal));
    }
  }

  /** A refusal holds for a while: the host would check the same object again. */
  async #applyOne(
    wanted: WantedSet,
    fetched: Fetched,
    seen: Seen,
    calls: AgentCalls,
    signal: AbortSignal,
  ): Promise<Outcome> {
    const { name, generation, choice } = wanted;
    const of = `${generation} ${choice.version} ${fetched.sha256}`;
    const before = this.#refusals.get(name);
    if (before?.of === of && before.until > performance.now()) return before.outcome;
    const outcome = await applySet(wanted, fetched, seen, calls, signal);
    if (outcome.phase === 'Refused')
      this.#refusals.set(name, { of, outcome, until: performance.now() + this.#times.refusedMs });
    else this.#refusals.delete(name);
    return outcome;
  }

  /** What is known of the object that is there, when nothing new could be found out. */
  #last({ name }: Candidate): Pick<Outcome, 'sha256' | 'signedBy' | 'links'> {
    const { sha256, signedBy, links = 0 } = this.#before.get(name) ?? {};
    return { ...(sha256 ? { sha256 } : {}), ...(signedBy ? { signedBy } : {}), links };
  }

  #since(c: Candidate, outcome: Outcome): SetStatus {
    const before = this.#before.get(c.name);
    const version = c.wanted?.choice.version ?? 'object';
    const same =
      before?.phase === outcome.phase && before.generation === c.generation && before.version === version;
    const since = same ? before.since : new Date().toISOString();
    return { name: c.name, generation: c.generation, version, ...outcome, since };
  }

  #report(statuses: readonly SetStatus[]): void {
    for (const s of statuses) {
      const before = this.#before.get(s.name);
      if (before?.phase === s.phase && before.sha256 === s.sha256 && before.message === s.message) continue;
      const fields = { set: s.name, version: s.version, kind: s.kind, rule: s.rule };
      if (s.phase === 'Refused' || s.phase === 'Failed')
        this.#o.log.warn(fields, `${s.phase}: ${s.message ?? ''}`);
      else this.#o.log.info(fields, s.phase);
    }
    this.#before = new Map(statuses.map((s) => [s.name, s]));
  }

  #nodeStatus(agent: AgentResult<'agent.status'> | undefined, statuses: readonly SetStatus[]): NodeStatus {
    if (agent)
      this.#nestedGuests = {
        registered: agent.l2s.length,
        notIndexed: agent.l2s.filter((l) => l.noIndex !== undefined).length,
      };
    const count = (...phases: SetStatus['phase'][]): number =>
      statuses.filter((s) => phases.includes(s.phase)).length;
    return {
      ...(agent ? { agent: agent.version } : {}),
      connected: agent?.host.state === 'connected',
      nestedGuests: this.#nestedGuests,
      summary: {
        wanted: statuses.length,
        linked: count('Linked'),
        refused: count('Refused', 'Failed'),
      },
      sets: statuses.slice(0, STATUS_SETS_MAX),
    };
  }
}

/** The API did not answer, and may do so later; everything else is for people. */
const PASSING: ReadonlySet<ErrorCode> = new Set(['HT_UNAVAILABLE', 'HT_BUSY', 'HT_TIMEOUT', 'HT_CHANNEL']);

function fetchFailure(e: unknown): Pick<Outcome, 'phase' | 'kind' | 'message'> {
  const code = isHyperturtleError(e) ? e.code : 'HT_WIRE';
  return {
    phase: PASSING.has(code) ? 'Pending' : 'Failed',
    kind: code.replace(/^HT_/, ''),
    message: shortMessage(messageOf(e)),
  };
}

/** Undefined: the set is not for this node. */
function candidate(item: Item, node: Parameters<typeof choiceFor>[1]): Candidate | undefined {
  const { name, generation = 0 } = item.metadata;
  const parsed = HyperupcallSet().safeParse(item);
  if (!parsed.success)
    return {
      name,
      generation,
      problem: shortMessage(`no HyperupcallSet: ${parsed.error.issues[0]?.message ?? ''}`),
    };
  const { spec } = parsed.data;
  const choice = choiceFor({ name, spec }, node);
  return choice && { name, generation, wanted: { name, generation, choice, links: spec.links } };
}
