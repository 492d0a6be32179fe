/** Collects refusals while the rules run; bounded, because hostile objects can break a rule a million times. */
import { isHyperturtleError } from '../../core/errors.ts';
import type { Refusal, Rule } from './verdict.ts';

const MOST = 32;

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
    this.refusals.push({ rule, ...where, message: printable(message), mend });
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

/** Names of a hostile object go to logs and terminals: no control characters, and not too long. */
export function printable(text: string): string {
  const clean = Array.from(text, (c) => (c < ' ' || (c >= '\x7f' && c <= '\x9f') ? '?' : c)).join('');
  return clean.length > 300 ? `${clean.slice(0, 297)}...` : clean;
}
