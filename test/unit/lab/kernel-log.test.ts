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
  ])('finds: %s', (line) => {
    expect(kernelTroubles(`[ 1.0] fine\n[ 2.0] ${line}\n`)).toHaveLength(1);
  });

  it('shows what follows, where the reason stands', () => {
    expect(kernelTroubles('a\nOops: 1\nRIP: here\nb')[0]).toContain('RIP: here');
  });

  it.each([
    'PCI: Using host bridge windows from ACPI; if necessary, use "pci=nocrs" and report a bug',
    'rcu: Hierarchical RCU implementation.',
    'Speculative Store Bypass: Vulnerable',
    'hyperturtle_host: loading out-of-tree module taints kernel.',
  ])('passes over: %s', (line) => {
    expect(kernelTroubles(line)).toEqual([]);
  });
});
