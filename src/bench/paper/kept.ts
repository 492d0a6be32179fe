/**
 * Which benches of a `bench paper` have ended well, in its folder: what was interrupted goes on where it stopped. A bench is
 * kept while its command line is the same.
 */
import path from 'node:path';
import { z } from 'zod';
import { replaceFile, textIfThere } from '../../core/files.ts';
import { lazy } from '../../core/lazy.ts';

const keptSchema = lazy(() =>
  z.record(
    z.string(),
    z.strictObject({
      args: z.array(z.string()),
      endedAt: z.iso.datetime(),
      seconds: z.number().nonnegative(),
    }),
  ),
);

export interface Kept {
  args: readonly string[];
  /** ISO 8601. */
  endedAt: string;
  seconds: number;
}

const FILE = 'ended.json';

/** Throws nothing: a file that does not read keeps nothing, and is written again. */
export class KeptRuns {
  readonly #file: string;
  readonly #runs: Map<string, Kept>;

  constructor(dir: string) {
    this.#file = path.join(dir, FILE);
    this.#runs = new Map(Object.entries(parsed(textIfThere(this.#file))));
  }

  /** The run of this bench by these arguments; undefined: not ended well, or by others. */
  of(bench: string, args: readonly string[]): Kept | undefined {
    const kept = this.#runs.get(bench);
    return kept !== undefined && JSON.stringify(kept.args) === JSON.stringify(args) ? kept : undefined;
  }

  /** How long this bench took when it last ended well here, whatever its arguments; undefined: never. */
  secondsOf(bench: string): number | undefined {
    return this.#runs.get(bench)?.seconds;
  }

  ended(bench: string, kept: Kept): void {
    this.#runs.set(bench, kept);
    this.#write();
  }

  /** Before a bench is run again: it is not kept if that is interrupted. */
  begun(bench: string): void {
    if (this.#runs.delete(bench)) this.#write();
  }

  #write(): void {
    replaceFile(this.#file, `${JSON.stringify(Object.fromEntries(this.#runs), null, 2)}\n`);
  }
}

function parsed(text: string | undefined): Record<string, Kept> {
  try {
    return keptSchema().parse(JSON.parse(text ?? '{}'));
  } catch {
    return {};
  }
}
