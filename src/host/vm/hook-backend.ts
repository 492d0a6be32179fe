/** What a family of hooks is, as far as links to it go. */
import type { LinkOptions } from '../../wire/link-options.ts';
import type { HookStats, LinkInfo } from '../../wire/schema.ts';
import type { HookName } from '../hooks.ts';
import type { LoadedProgram } from '../loader/loader.ts';
import type { Admitted } from './admit.ts';
import type { KeptLink } from './kept.ts';

/** A version of an object. */
export type Version = Pick<Admitted, 'object' | 'info'>;

/** What L1 asks for besides program and hook. */
export interface LinkPlace {
  target?: string | undefined;
  order?: number | undefined;
  options?: LinkOptions | undefined;
}

export interface HookBackend {
  readonly hooks: readonly HookName[];
  /** Target and order of a new link, checked; a target that is null has room for one link. Throws HT_USAGE. */
  place(hook: HookName, asked: LinkPlace): Pick<LinkInfo, 'target' | 'order'>;
  /** Throws HT_NOT_FOUND, HT_QUOTA, HOOK_BUSY, REFUSED; then there is no link. */
  link(link: LinkInfo, of: Version, program: LoadedProgram): Promise<void>;
  /**
   * The link has this program, its order and its options from now on, with no event in between that sees neither. When it
   * throws, it is as before.
   */
  replace(link: LinkInfo, of: Version, program: LoadedProgram): Promise<void>;
  /** No run of the program is under way when it settles. Fine when the link has ended by itself. */
  unlink(link: LinkInfo): Promise<void>;
  /** Statistics of one hook with these links that do not wait for the kernel. */
  stats(hook: HookName, links: readonly LinkInfo[]): HookStats[];
  /** What the next daemon needs to take the link over; undefined: it ends with this one. */
  kept(link: LinkInfo): KeptLink | undefined;
  /** This daemon gives up all of these: which of them have ended. Never throws: failures are told to `failures`. */
  release(links: readonly LinkInfo[], failures: Failures): Promise<LinkInfo[]>;
}

/** For failures that come one by one and are told together. */
export class Failures {
  readonly #all: unknown[] = [];

  /** True when it went well. */
  async during(work: () => unknown): Promise<boolean> {
    try {
      await work();
      return true;
    } catch (e) {
      this.#all.push(e);
      return false;
    }
  }

  /** Throws AggregateError when there was any. */
  throwAs(message: string): void {
    if (this.#all.length > 0) throw new AggregateError(this.#all, message);
  }
}
