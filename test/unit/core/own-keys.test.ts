/** Names that Object.prototype has too: nothing that a person or an L1 names is looked up there. */
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { rates } from '../../../src/cli/top/command.ts';
import type { TopSample } from '../../../src/cli/top/command.ts';
import { addOwn, own, setOwn } from '../../../src/core/own.ts';
import { recordOf } from '../../../src/core/record.ts';
import { AgentConfig } from '../../../src/guest/agent/config.ts';
import { DesiredState } from '../../../src/guest/agent/desired.ts';
import { parseConfig } from '../../../src/host/config.ts';
import { METHODS } from '../../../src/wire/schema.ts';

const NAMES = ['toString', 'constructor', '__proto__', 'hasOwnProperty', 'valueOf'];

let dir: string;
beforeEach(() => (dir = mkdtempSync(path.join(os.tmpdir(), 'ht-own-'))));
afterEach(() => rmSync(dir, { recursive: true, force: true }));

describe.each(NAMES)('objects, VMs, networks named %s are ordinary', (name) => {
  it('the configuration has a VM in a network of that name', () => {
    const text = `
networks: {"${name}": {bridge: br0}}
vms: {"${name}": {qmp: /q, agent: {hotplug: true}, nics: {networks: ["${name}"]}}}`;
    const { vms, networks } = parseConfig(text, 'host.yaml');
    expect(Object.keys(vms)).toEqual([name]);
    expect(own(vms, name)?.nics.networks).toEqual([name]);
    expect(own(networks, name)).toMatchObject({ bridge: 'br0' });
  });

  it('a network of that name that is not there is said not to be', () => {
    const text = `vms: {a: {qmp: /q, agent: {hotplug: true}, nics: {networks: ["${name}"]}}}`;
    expect(() => parseConfig(text, 'host.yaml')).toThrow(`there is no network '${name}'`);
  });

  it('an object is wanted, without a policy that nobody gave, also after a restart, and until it is removed', () => {
    const config = AgentConfig().parse({ state: path.join(dir, 'state') });
    const first = new DesiredState(config);
    expect(first.removeObject(name)).toBe(false);
    first.putObject({ name, elf: Buffer.from('x'), constants: Object.fromEntries([[name, 'AQ==']]) });
    const again = new DesiredState(config);
    const [object] = again.objects();
    expect(object?.name).toBe(name);
    expect(object).not.toHaveProperty('policy');
    expect(own(object?.constants ?? {}, name)).toBe('AQ==');
    again.putPolicy(name, { rateLimit: { out: { bytesPerSecond: 5000 } } });
    expect(new DesiredState(config).objects()[0]?.policy).toBeDefined();
    expect(again.removeObject(name)).toBe(true);
    expect(new DesiredState(config).objects()).toEqual([]);
  });

  it('an object of the configuration is read, and may be unloaded by command', () => {
    const config = AgentConfig().parse({
      state: path.join(dir, 'state'),
      objects: Object.fromEntries([[name, { file: '/none' }]]),
    });
    expect(Object.keys(config.objects)).toEqual([name]);
    const desired = new DesiredState(config);
    expect(desired.unreadable()).toEqual([name]);
    expect(desired.removeObject(name)).toBe(true);
    expect(desired.removed()).toEqual([name]);
  });

  it('constants and reasons of that name are carried by the wire', () => {
    const constants = JSON.parse(`{"${name}":"AQ=="}`) as object;
    const load = METHODS.load.params().parse({ name, elf: 'AAAA', constants });
    expect(own(load.constants ?? {}, name)).toBe('AQ==');
    const stats = JSON.parse(
      `{"hooks":[{"hook":"npf","linked":false,"runs":2,"handled":0,"entries":0,"learned":0,"passed":2,"reasons":{"${name}":2}}]}`,
    ) as unknown;
    const { hooks } = METHODS.stats.result().parse(stats);
    const at = (atMs: number): TopSample => ({ atMs, hooks, status: { l2s: [] } }) as unknown as TopSample;
    expect(own(rates(undefined, at(0)).hooks[0]!.reasons, name)).toBe(2);
    expect(own(rates(at(0), at(1000)).hooks[0]!.reasons, name)).toBeUndefined();
  });

  it('counts and look-ups have what they were given, and no more', () => {
    const counts: Record<string, number> = {};
    expect(own(counts, name)).toBeUndefined();
    addOwn(counts, name, 2);
    addOwn(counts, name, 3);
    expect(Object.entries(counts)).toEqual([[name, 5]]);
    setOwn(counts, name, 1);
    expect(JSON.stringify(counts)).toBe(`{"${name}":1}`);
    expect(Object.getPrototypeOf(counts)).toBe(Object.prototype);
  });
});

describe('a record of names', () => {
  const schema = z.strictObject({ by: recordOf(z.string().regex(/^[a-z_]+$/, 'small letters'), z.int()) });
  it('tells the place of what does not fit: a name, a value, no record at all', () => {
    const issues = (by: unknown): unknown =>
      schema.safeParse({ by }).error?.issues.map((i) => [i.path.join('.'), i.message]);
    expect(issues({ a: 1, B: 2 })).toEqual([['by.B', 'small letters']]);
    expect(issues(JSON.parse('{"__proto__":"x"}'))).toEqual([
      ['by.__proto__', expect.stringContaining('expected number')],
    ]);
    expect(issues([])).toEqual([['by', 'a mapping of names expected']]);
    expect(issues(undefined)).toEqual([['by', 'a mapping of names expected']]);
    expect(schema.parse({ by: { a: 1 } })).toEqual({ by: { a: 1 } });
  });
});
