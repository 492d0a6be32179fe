import { describe, expect, it } from 'vitest';
import { kernelTroubles } from '../../../src/lab/kernel-log.ts';

describe('kernelTroubles', () => {
  it.each([
    'BUG: kernel NULL pointer dereference, address: 0000000000000008',
    'WARNING: CPU: 0 PID: 0 at arch/x86/kernel/fpu/xstate.c:606',
    'Oops: 0002 [#1] PREEMPT SMP NOPTI',
    'rcu: INFO: rcu_preempt self-detected stall on CPU',
    'rcu: INFO: rcu_preempt detected stalls on CPUs/tasks',
    'watchdog: BUG: soft lockup - CPU#0 stuck for 26s!',
    'WARNING: possible circular locking dependency detected',
    'INFO: task qemu:77 blocked for more than 120 seconds.',
    'refcount_t: underflow; use-after-free.',
    'BUG: Bad page state in process x  pfn:1234',
    'irq 11: nobody cared (try booting with the "irqpoll" option)',
    // KASAN
    'BUG: KASAN: slab-use-after-free in ht_vm_run+0x1/0x2 [hyperturtle_host]',
    'BUG: KASAN: vmalloc-out-of-bounds in htg_index+0x1/0x2 [hyperturtle_guest]',
    'KASAN: null-ptr-deref in range [0x0000000000000008-0x000000000000000f]',
    // UBSAN
    'UBSAN: shift-out-of-bounds in arch/x86/kvm/mmu.c:1:2',
    'UBSAN: array-index-out-of-bounds in c/host/npf.c:1:2',
    // lockdep, PROVE_RCU
    'WARNING: possible recursive locking detected',
    'WARNING: inconsistent lock state',
    'WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected',
    'WARNING: possible irq lock inversion dependency detected',
    'WARNING: bad unlock balance detected!',
    'WARNING: held lock freed!',
    'WARNING: lock held when returning to user space!',
    'WARNING: suspicious RCU usage',
    '[ BUG: Invalid wait context ]',
    'BUG: MAX_LOCKDEP_CHAINS too low!',
    'turning off the locking correctness validator.',
    'INFO: lockdep is turned off.',
    'INFO: trying to register non-static key.',
    'DEBUG_LOCKS_WARN_ON(lock->magic != lock)',
    // DEBUG_ATOMIC_SLEEP, DEBUG_PREEMPT
    'BUG: sleeping function called from invalid context at mm/page_alloc.c:5202',
    'BUG: scheduling while atomic: qemu/77/0x00000002',
    'BUG: using smp_processor_id() in preemptible [00000000] code: node/81',
    // DEBUG_OBJECTS
    'ODEBUG: free active (active state 0) object type: work_struct',
    'ODEBUG: assert_init not available (active state 0) object type: timer_list hint: 0x0',
    'ODEBUG: Out of memory. ODEBUG disabled',
    // kmemleak
    'kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)',
    'kmemleak: Kernel memory leak detector disabled',
    'kmemleak: Freeing unknown object at 0xffff888004000000',
    'kmemleak: Memory pool empty, consider increasing CONFIG_DEBUG_KMEMLEAK_MEM_POOL_SIZE',
  ])('finds: %s', (line) => {
    expect(kernelTroubles(`[ 1.0] fine\n[ 2.0] ${line}\n`)).toHaveLength(1);
  });

  const race = (module: string): string => {
    const rule = '='.repeat(66);
    return `a\n${rule}\nBUG: KCSAN: data-race in f / g\n f+0x1/0x2${module}\n g+0x3/0x4\n${rule}\nb\n`;
  };

  it('finds data races that functions of our modules take part in, and no others', () => {
    expect(kernelTroubles(race(' [hyperturtle_guest]'))).toHaveLength(1);
    expect(kernelTroubles(race(' [kvm]'))).toEqual([]);
    expect(kernelTroubles(`${race('')}Oops: 1`)).toHaveLength(1);
  });

  it('takes a race in our code that was seen from one side only', () => {
    const rule = '='.repeat(66);
    const report = `[ 1.0] BUG: KCSAN: data-race in ht_answer [hyperturtle_host] / f`;
    expect(
      kernelTroubles(`[ 1.0] ${rule}\n${report}\n[ 1.0] race at unknown origin\n[ 1.0] ${rule}`),
    ).toHaveLength(1);
  });

  it('shows what follows, where the reason stands', () => {
    expect(kernelTroubles('a\nOops: 1\nRIP: here\nb')[0]).toContain('RIP: here');
  });

  it.each([
    'PCI: Using host bridge windows from ACPI; if necessary, use "pci=nocrs" and report a bug',
    'rcu: Hierarchical RCU implementation.',
    'kasan: KernelAddressSanitizer initialized',
    'kmemleak: Kernel memory leak detector initialized (mem pool available: 37000)',
    'kmemleak: Automatic memory scanning thread started',
    'kcsan: enabled early',
    'kcsan: strict mode configured',
    'Lock dependency validator: Copyright (c) 2006 Red Hat, Inc., Ingo Molnar',
    'rcu: \tRCU lockdep checking is enabled.',
    'Running RCU self tests',
    'Speculative Store Bypass: Vulnerable',
    'hyperturtle_host: loading out-of-tree module taints kernel.',
  ])('passes over: %s', (line) => {
    expect(kernelTroubles(line)).toEqual([]);
  });
});
