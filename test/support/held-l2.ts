/** A nested guest that several tests of a file use, one after the other: its boot takes longer than most of them. */
import { withL2 } from '../../src/testbed/l2-session.ts';
import type { L2Session, L2SessionSpec } from '../../src/testbed/l2-session.ts';
import type { Lab } from '../../src/lab/lab.ts';

export class HeldL2 {
  readonly #let: () => void;
  readonly #over: Promise<void>;
  #session: L2Session | undefined;

  private constructor(session: L2Session, letGo: () => void, over: Promise<void>) {
    this.#session = session;
    this.#let = letGo;
    this.#over = over;
  }

  /** Returns when it is up. The caller ends it. */
  static async start(lab: Lab, spec: L2SessionSpec): Promise<HeldL2> {
    let letGo!: () => void;
    const held = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    let over!: Promise<void>;
    const session = await new Promise<L2Session>((resolve, reject) => {
      over = withL2(lab, spec, async (up) => {
        resolve(up);
        await held;
      });
      over.catch(reject);
    });
    return new HeldL2(session, letGo, over);
  }

  get shell(): L2Session['shell'] {
    if (!this.#session) throw new Error('this nested guest has ended');
    return this.#session.shell;
  }

  /** Ends it, or what is left of it. Safe to call twice. */
  async end(): Promise<void> {
    this.#session = undefined;
    this.#let();
    await this.#over;
  }
}
