/** Where no program is loaded libbpf is not either: rules, texts and configuration are for machines that have none. */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { HostDaemon } from '../../../src/host/daemon/daemon.ts';
import { BpfObject } from '../../../src/bpf/object.ts';

it('what loads programs is there, libbpf is not loaded yet', () => {
  expect([HostDaemon, BpfObject].every((known) => typeof known === 'function')).toBe(true);
  expect(readFileSync('/proc/self/maps', 'utf8')).not.toContain('libbpf');
});
