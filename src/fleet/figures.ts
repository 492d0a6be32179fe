/** What a reconciler tells of itself: in measurements, and to tests. */
import { PHASES } from './spec.ts';
import type { SetStatus } from './spec.ts';

export interface FleetFigures {
  /** As Date.now(). */
  startedAt: number;
  /** All sets for this node are linked, and the API has their status. */
  converged: boolean;
  /** From when something that is wanted first lacked until all of it was linked, the last time; undefined: it never was. */
  convergenceMs: number | undefined;
  sets: readonly Pick<SetStatus, 'name' | 'version' | 'phase'>[];
  phases: ReadonlyMap<string, number>;
  refused: ReadonlyMap<string, number>;
  agentAnswers: boolean;
  rounds: number;
  /** By the status of the answer, or `failed`. */
  requests: ReadonlyMap<string, number>;
  resources: readonly {
    resource: string;
    watching: boolean;
    lists: number;
    watches: number;
    gone: number;
    failures: number;
  }[];
}

/** What came of rounds: since when something is wanted that is not in force, and how often sets were refused. */
export class Convergence {
  #sets: readonly SetStatus[] = [];
  /** What the last round was about, as one text. */
  #of: string | undefined;
  /** As performance.now(): since then something lacks. */
  #since: number | undefined = performance.now();
  #lastMs: number | undefined;
  readonly #refused = new Map<string, number>();

  /** A round is over; `askedAt`: when it was asked for, as performance.now(). */
  round(sets: readonly SetStatus[], askedAt: number): void {
    const before = new Map(this.#sets.map((s) => [s.name, s]));
    for (const s of sets) {
      const known = before.get(s.name);
      const same = known?.phase === s.phase && known.generation === s.generation && known.kind === s.kind;
      if (!same && (s.phase === 'Refused' || s.phase === 'Failed'))
        this.#refused.set(s.kind ?? 'none', (this.#refused.get(s.kind ?? 'none') ?? 0) + 1);
    }
    const of = JSON.stringify(sets.map((s) => [s.name, s.generation, s.version]));
    const linked = sets.every((s) => s.phase === 'Linked');
    if (of !== this.#of || !linked) this.#since ??= askedAt;
    if (linked && this.#since !== undefined) {
      this.#lastMs = performance.now() - this.#since;
      this.#since = undefined;
    }
    this.#of = of;
    this.#sets = sets;
  }

  get figures(): Pick<FleetFigures, 'converged' | 'convergenceMs' | 'sets' | 'phases' | 'refused'> {
    const phases = PHASES.map(
      (phase) => [phase, this.#sets.filter((s) => s.phase === phase).length] as const,
    );
    return {
      converged: this.#since === undefined,
      convergenceMs: this.#lastMs,
      sets: this.#sets,
      phases: new Map(phases),
      refused: this.#refused,
    };
  }
}
