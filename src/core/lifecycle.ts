/**
 * Undo in reverse: a stack of what must be released, run once, last opened first, also when a step in the
 * middle fails; and the wiring of SIGINT and SIGTERM to one AbortSignal.
 */
import { HyperturtleError, messageOf } from './errors.ts';

export type Undo = () => void | Promise<void>;

export class CleanupStack implements AsyncDisposable {
  readonly #steps: { what: string; undo: Undo }[] = [];

  /** Registers how to release something that was just acquired. */
  add(what: string, undo: Undo): void {
    this.#steps.push({ what, undo });
  }

  /** Forgets all steps: what they would release now belongs to someone else. */
  release(): void {
    this.#steps.length = 0;
  }

  /** Runs all steps, last first. All run even when some throw; then the failures are thrown together. */
  async run(): Promise<void> {
    const failures: unknown[] = [];
    for (let s = this.#steps.pop(); s !== undefined; s = this.#steps.pop()) {
      try {
        await s.undo();
      } catch (e) {
        failures.push(new Error(`while undoing '${s.what}': ${messageOf(e)}`, { cause: e }));
      }
    }
    if (failures.length > 0)
      throw new AggregateError(failures, `clean-up failed ${failures.map(messageOf).join('; ')}`);
  }

  /** `body`, whose steps stay when it is through. When it throws they run, and what it threw is told, not what they throw. */
  async onFailure<T>(body: () => Promise<T>): Promise<T> {
    try {
      return await body();
    } catch (e) {
      await this.run().catch(() => {});
      throw e;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.run();
  }
}

/** Aborts on the first of these signals; a second one ends the process at once. */
export function abortOnSignals(names: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP']): {
  signal: AbortSignal;
  dispose: () => void;
} {
  const controller = new AbortController();
  const on = (name: NodeJS.Signals): void => {
    if (controller.signal.aborted) process.exit(130);
    controller.abort(new HyperturtleError('HT_INTERRUPTED', `interrupted by ${name}`));
  };
  for (const n of names) process.on(n, on);
  return {
    signal: controller.signal,
    dispose: () => {
      for (const n of names) process.off(n, on);
    },
  };
}

/**
 * A signal that aborts with `parent` or by `abort`. Unlike AbortSignal.any it leaves nothing behind in a parent that
 * lives as long as the process, once disposed of.
 */
export class ChildAbort implements Disposable {
  readonly #controller = new AbortController();
  readonly #parent: AbortSignal;
  readonly #onParent = (): void => this.#controller.abort(this.#parent.reason);

  constructor(parent: AbortSignal) {
    this.#parent = parent;
    if (parent.aborted) this.#onParent();
    else parent.addEventListener('abort', this.#onParent, { once: true });
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  abort(reason?: unknown): void {
    this.#controller.abort(reason);
    this[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.#parent.removeEventListener('abort', this.#onParent);
  }
}
