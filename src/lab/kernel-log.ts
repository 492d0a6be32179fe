/** What a kernel says when something is wrong with it, found in its log. */

const TROUBLES: readonly RegExp[] = [
  // the kernel's own checks, and what DEBUG_PREEMPT, DEBUG_ATOMIC_SLEEP, KASAN and KCSAN call theirs
  /\bBUG\b|WARNING:|\bOops\b|Kernel panic|general protection fault|double fault|unable to handle|Fixing recursive fault/,
  /rcu.{0,40}(stall|detected)|soft lockup|hard LOCKUP|blocked for more than|irq \d+: nobody cared/,
  /refcount_t:|list_(add|del) corruption|Bad page (state|map)|unregister_netdevice/,
  /scheduling while atomic|sleeping function called/,
  // lockdep: after its first report it is off, and sees nothing more
  /possible (circular|recursive) locking|inconsistent lock state|suspicious RCU|bad unlock balance|DEBUG_LOCKS_WARN/,
  /trying to register non-static key|lockdep is turned off|turning off the locking correctness validator/,
  /KASAN|UBSAN|ODEBUG/,
  /kmemleak:/,
];

/** What sanitizers say of themselves when they start. */
const FINE =
  /KernelAddressSanitizer initialized|kmemleak: (Kernel memory leak detector initialized|Automatic memory scanning thread (started|ended))/;

const isTrouble = (line: string): boolean => !FINE.test(line) && TROUBLES.some((t) => t.test(line));

/** KCSAN's reports stand between such lines. */
const RULE = /={66}/;

/** Lines of a kernel log that tell of trouble, each with some that follow it. */
export function kernelTroubles(log: string): string[] {
  const lines = withoutForeignRaces(log.split('\n'));
  return lines.flatMap((line, i) => (isTrouble(line) ? [lines.slice(i, i + 12).join('\n')] : []));
}

/**
 * Without data races in which no function of our modules takes part: a kernel has many of its own that its authors
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
