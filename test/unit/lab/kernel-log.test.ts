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
    'BUG: KASAN: slab-use-after-free in ht_vm_run+0x1/0x2 [hyperturtle_host]',
    'UBSAN: shift-out-of-bounds in arch/x86/kvm/mmu.c:1:2',
    'kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)',
    'kmemleak: Kernel memory leak detector disabled',
    'ODEBUG: free active (active state 0) object type: work_struct',
    'INFO: trying to register non-static key.',
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

  it('shows what follows, where the reason stands', () => {
    expect(kernelTroubles('a\nOops: 1\nRIP: here\nb')[0]).toContain('RIP: here');
  });

  it.each([
    'PCI: Using host bridge windows from ACPI; if necessary, use "pci=nocrs" and report a bug',
    'rcu: Hierarchical RCU implementation.',
    'kasan: KernelAddressSanitizer initialized',
    'kmemleak: Kernel memory leak detector initialized (mem pool available: 37000)',
    'Speculative Store Bypass: Vulnerable',
    'hyperturtle_host: loading out-of-tree module taints kernel.',
  ])('passes over: %s', (line) => {
    expect(kernelTroubles(line)).toEqual([]);
  });
});
