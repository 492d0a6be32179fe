/** What a kernel says when something is wrong with it, found in its log. */

const TROUBLE =
  /\bBUG\b|WARNING:|\bOops\b|Kernel panic|general protection fault|unable to handle|rcu.{0,40}(stall|detected)|soft lockup|hard LOCKUP|blocked for more than|possible (circular|recursive) locking|inconsistent lock state|suspicious RCU|scheduling while atomic|sleeping function called|refcount_t:|list_(add|del) corruption|KASAN|UBSAN|Bad page (state|map)|unregister_netdevice/;

/** Lines of a kernel log that tell of trouble, each with some that follow it. */
export function kernelTroubles(log: string): string[] {
  const lines = log.split('\n');
  return lines.flatMap((line, i) => (TROUBLE.test(line) ? [lines.slice(i, i + 12).join('\n')] : []));
}
