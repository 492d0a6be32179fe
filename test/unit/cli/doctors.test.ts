/** The doctors of both levels. */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { doctorText, roleOf } from '../../../src/cli/doctor/command.ts';
import { moduleKernel } from '../../../src/host/vm/kernel.ts';
import { HOST_DEVICE } from '../../../src/kernel/host.ts';

function machine(...files: string[]): string {
  const root = mkdtempSync(path.join(os.tmpdir(), 'ht-root-'));
  try {
    for (const f of files) {
      mkdirSync(path.dirname(`${root}${f}`), { recursive: true });
      writeFileSync(`${root}${f}`, '');
    }
    return roleOf(root);
  } finally {
    rmSync(root, { recursive: true });
  }
}

describe('doctor typed in L0', () => {
  it('knows a host by its module or its daemon, and an L1 by its agent, module or channel', () => {
    expect(machine('/dev/hyperturtle')).toBe('host');
    expect(machine('/run/hyperturtle/host.sock')).toBe('host');
    expect(machine()).toBe('neither');
    for (const l1 of [
      '/run/hyperturtle/agent.sock',
      '/sys/module/hyperturtle_guest/x',
      '/dev/virtio-ports/org.hyperturtle.v1',
    ])
      expect(machine(l1, '/sys/module/hyperturtle_host/x')).toBe('guest');
  });
});

describe('both doctors', () => {
  const findings = [
    { level: 'ok' as const, what: 'a' },
    { level: 'warn' as const, what: 'b', mend: 'do b' },
    { level: 'fail' as const, what: 'c', mend: 'do c' },
  ];
  it('have one style: a part for each level, the fix below each finding, the sum at the end', () => {
    expect(
      doctorText([
        { title: 'here', findings },
        { title: 'there', findings: undefined },
      ]),
    ).toBe(
      `here
  OK      a
  warning b
          fix: do b
  error   c
          fix: do c
there
  skipped: there is no connection

errors: 1, warnings: 1`,
    );
    expect(doctorText([{ title: 'here', findings: findings.slice(0, 1) }])).toMatch(/\nOK$/);
  });
});

it('a host without its module is unhealthy', () => {
  if (existsSync(HOST_DEVICE)) expect(moduleKernel.missing?.()).toBeUndefined();
  else expect(moduleKernel.missing?.()).toMatch(/\/dev\/hyperturtle is not there: load the module/);
});
