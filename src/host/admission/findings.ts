/** Collects refusals while the rules run; bounded, because hostile objects can break a rule a million times. */
import { isHyperturtleError } from '../../core/errors.ts';
import { shortLine } from '../../core/visible.ts';
import type { Refusal, Rule } from './verdict.ts';

const MOST = 32;
/** Characters of one message: names in an object may be of any length. */
const MESSAGE = 300;

/** What to do about an object that no compiler makes. */
export const REBUILD = 'build it with clang -target bpf -O2 -g and do not edit the result';

export class Findings {
  readonly refusals: Refusal[] = [];

  refuse(
    rule: Rule,
    message: string,
    mend: string,
    where: { program?: string; instruction?: number } = {},
  ): void {
    if (this.refusals.length >= MOST) return;
    this.refusals.push({ rule, ...where, message: shortLine(message, MESSAGE), mend });
  }

  /** Runs a parser; what it throws about the object is a refusal by `rule`, and the result undefined. */
  attempt<T>(rule: Rule, mend: string, parse: () => T): T | undefined {
    try {
      return parse();
    } catch (e) {
      if (!isHyperturtleError(e, 'HT_BPF')) throw e;
      this.refuse(rule, e.message.replace(/; build .*$/, ''), mend);
      return undefined;
    }
  }
}
