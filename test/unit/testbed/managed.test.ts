import { describe, expect, it } from 'vitest';
import { hostConfig, parseMetrics } from '../../../src/testbed/managed.ts';
import { parseConfig } from '../../../src/host/config.ts';
import { FIRST_SEAT, SECOND_SEAT } from '../../../src/lab/machine.ts';

describe("the lab's configuration of the daemon", () => {
  it('is one that the daemon accepts, with what is added for a VM', () => {
    const text = hostConfig([
      { name: 'a', seat: FIRST_SEAT, arenaMib: 16 },
      { name: 'b', seat: SECOND_SEAT, arenaMib: 8, more: ['quotas: {objects: 2}'] },
    ]);
    const { vms } = parseConfig(text, 'host.yaml');
    expect(vms['a']).toMatchObject({ qmp: '/run/l1/hyperturtle-qmp.sock', arenaMib: 16, bus: 'arena0' });
    expect(vms['b']).toMatchObject({
      qmp: '/run/l1b/hyperturtle-qmp.sock',
      agent: { socket: '/run/l1b/agent.sock' },
      quotas: { objects: 2 },
    });
  });

  it('may have no VM', () => {
    expect(parseConfig(hostConfig([]), 'host.yaml').vms).toEqual({});
  });
});

describe("the daemon's measurements", () => {
  it('are read by name and labels, of one VM', () => {
    const text = [
      '# TYPE hyperturtle_host_hook_runs gauge',
      'hyperturtle_host_hook_runs{vm="l1",hook="npf"} 12',
      'hyperturtle_host_hook_runs{vm="other",hook="npf"} 99',
      'hyperturtle_host_hook_reasons{vm="l1",hook="npf",reason="POOL_EMPTY"} 3',
      'hyperturtle_host_loader_busy 0',
      '# EOF',
    ].join('\n');
    expect(Object.fromEntries(parseMetrics(text, 'l1'))).toEqual({
      'hook_runs npf': 12,
      'hook_reasons npf POOL_EMPTY': 3,
    });
  });
});
