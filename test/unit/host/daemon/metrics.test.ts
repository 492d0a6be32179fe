/** What the daemon's measurements say of hooks. */
import { expect, it } from 'vitest';
import { HOST_METRICS } from '../../../../src/host/daemon/metric-table.ts';
import { Metrics } from '../../../../src/host/daemon/metrics.ts';
import type { VmStatus } from '../../../../src/host/vm/vm-status.ts';

const nic = { hook: 'tc-egress', runs: 10, handled: 4, entries: 0, learned: 0, passed: 6, reasons: {} };
const VM = {
  name: 'vm1',
  phase: 'attached',
  countedSince: '2026-01-01T00:00:01.500Z',
  agent: { connected: true },
  arena: { state: 'plugged', bytes: 1 << 24 },
  nics: [],
  ended: [],
  leftOff: [],
  l1: null,
  used: {},
  stats: [
    {
      hook: 'npf',
      runs: 10_546,
      handled: 940,
      entries: 50_252,
      learned: 4,
      passed: 9606,
      reasons: { PRESENT: 8948, NO_TABLE: 658 },
    },
    { hook: 'sample', runs: 7, handled: 5, entries: 0, learned: 0, passed: 2, reasons: {} },
    { ...nic, target: 'web', link: 1 },
    { ...nic, target: 'db', link: 2 },
  ],
} as unknown as VmStatus;

const textOf = async (vm: VmStatus, kernel = { moduleLoaded: true, ftraceOn: true }): Promise<string> => {
  const loader = { pids: [], busy: 0, waiting: 0, loads: 0, killed: 0, crashed: 0 };
  const metrics = new Metrics({
    vms: () => [vm],
    loader: () => loader as never,
    kernel: () => kernel,
    problems: () => [],
  });
  try {
    return await metrics.text();
  } finally {
    await metrics.close();
  }
};
const values = (text: string, what: RegExp): string[] =>
  text.split('\n').filter((l) => what.test(l) && !l.startsWith('#'));

it('tells what was there already from what reached L1, and has nothing of hooks where L1 does not run', async () => {
  const text = await textOf(VM);
  expect(values(text, /hook_(there|to_l1|passed)/)).toEqual([
    'hyperturtle_host_hook_there{vm="vm1",hook="npf"} 8948',
    'hyperturtle_host_hook_to_l1{vm="vm1",hook="npf"} 658',
  ]);
});

it('adds up the links of one hook of NICs', async () => {
  const text = await textOf(VM);
  expect(values(text, /tc-egress/)).toEqual([
    'hyperturtle_host_hook_runs{vm="vm1",hook="tc-egress"} 20',
    'hyperturtle_host_hook_handled{vm="vm1",hook="tc-egress"} 8',
    'hyperturtle_host_hook_entries{vm="vm1",hook="tc-egress"} 0',
    'hyperturtle_host_hook_learned{vm="vm1",hook="tc-egress"} 0',
    'hyperturtle_host_hook_went_on{vm="vm1",hook="tc-egress"} 12',
  ]);
});

it('says when the counters of a VM began, so that a reader sees that they have begun again', async () => {
  expect(await textOf(VM)).toContain('hyperturtle_host_vm_start_time_seconds{vm="vm1"} 1767225601.5');
  expect(values(await textOf({ ...VM, countedSince: null }), /start_time_seconds\{/)).toEqual([]);
});

it('tells what hooks in KVM stand on', async () => {
  const facts = /_(module_loaded|ftrace_on) /;
  expect(values(await textOf(VM), facts)).toEqual([
    'hyperturtle_host_module_loaded 1',
    'hyperturtle_host_ftrace_on 1',
  ]);
  expect(values(await textOf(VM, { moduleLoaded: false, ftraceOn: false }), facts)).toEqual([
    'hyperturtle_host_module_loaded 0',
    'hyperturtle_host_ftrace_on 0',
  ]);
});

it("has an L1's word of its nested guests only while its agent is connected", async () => {
  const l1 = { l2Count: 70, l2s: [{}, { noIndex: 'it ran before this arena came' }] } as never;
  expect(values(await textOf({ ...VM, l1 }), /_l2s/)).toEqual([
    'hyperturtle_host_vm_l2s{vm="vm1"} 70',
    'hyperturtle_host_vm_l2s_not_indexed{vm="vm1"} 1',
  ]);
  const gone = { ...VM, l1, agent: { ...VM.agent, connected: false } };
  expect(values(await textOf(gone), /_l2s/)).toEqual([]);
});

it('serves what its table has, and nothing else of that name', async () => {
  const served = [...(await textOf(VM)).matchAll(/^# TYPE (\S+) (\S+)$/gm)].map((m) => `${m[1]} ${m[2]}`);
  const others = /^hyperturtle_host_(nodejs|process)_/;
  expect(served.filter((m) => !others.test(m)).sort()).toEqual(
    Object.entries(HOST_METRICS)
      .map(([name, { kind }]) => `${name} ${kind}`)
      .sort(),
  );
});
