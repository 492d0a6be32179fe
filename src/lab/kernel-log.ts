/** What a kernel says when something is wrong with it, found in its log. */

const TROUBLE =
  /\bBUG\b|WARNING:|\bOops\b|Kernel panic|general protection fault|unable to handle|rcu.{0,40}(stall|detected)|soft lockup|hard LOCKUP|blocked for more than|possible (circular|recursive) locking|inconsistent lock state|suspicious RCU|scheduling while atomic|sleeping function called|refcount_t:|list_(add|del) corruption|KASAN|UBSAN|ODEBUG|DEBUG_LOCKS_WARN|trying to register non-static key|kmemleak: (\d+ new suspected|Kernel memory leak detector disabled)|Bad page (state|map)|unregister_netdevice/;

/** KASAN names itself when it starts. */
const FINE = /KernelAddressSanitizer initialized/;

/** KCSAN's reports stand between such lines. */
const RULE = /={66}/;

/** Lines of a kernel log that tell of trouble, each with some that follow it. */
export function kernelTroubles(log: string): string[] {
  const lines = withoutForeignRaces(log.split('\n'));
  return lines.flatMap((line, i) =>
    TROUBLE.test(line) && !FINE.test(line) ? [lines.slice(i, i + 12).join('\n')] : [],
  );
}

/**
 * Without data races in which no function of a module of ours takes part: a kernel has many of its own that its authors
 * know about. A report's two stacks name the module of each function.
 */
function withoutForeignRaces(lines: readonly string[]): string[] {
  const out: string[] = [];
  for (let i = 0; i < lines.length; i++) {
    if (RULE.test(lines[i]!) && /BUG: KCSAN:/.test(lines[i + 1] ?? '')) {
      const end = lines.findIndex((l, n) => n > i + 1 && RULE.test(l));
      const report = lines.slice(i, end < 0 ? undefined : end + 1);
      if (report.some((l) => /\[hyperturtle_(host|guest)\]/.test(l))) out.push(...report);
      i += report.length - 1;
    } else out.push(lines[i]!);
  }
  return out;
}
