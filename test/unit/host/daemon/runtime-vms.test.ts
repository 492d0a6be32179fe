import { afterEach, beforeEach, expect, test } from 'vitest';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { checkVm } from '../../../../src/host/config.ts';
import { RuntimeVms } from '../../../../src/host/daemon/runtime-vms.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'ht-vms-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

test('a VM that cannot be written down is neither added nor removed', () => {
  const spec = checkVm('one', { qmp: '/run/one.qmp', agent: { socket: '/run/one.sock' } });
  const vms = new RuntimeVms(dir);
  vms.add('one', spec);
  // where the next content is to be written; root writes into anything but a directory
  const blocked = path.join(dir, 'vms.json.new');
  mkdirSync(blocked);
  const why = expect.objectContaining({ code: 'HT_KERNEL' }) as Error;
  expect(() => vms.add('two', spec)).toThrow(why);
  expect(() => vms.remove('one')).toThrow(why);
  expect([...vms.all().keys()]).toEqual(['one']);
  rmSync(blocked, { recursive: true });
  vms.add('three', spec);
  expect([...new RuntimeVms(dir).all().keys()]).toEqual(['one', 'three']);
});
