// cspell:ignore regster
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { AgentConfig } from '../../../../src/guest/agent/config.ts';
import { parseYaml } from '../../../../src/core/yaml.ts';
import { DesiredState } from '../../../../src/guest/agent/desired.ts';
import { endedOf, plan, stepText } from '../../../../src/guest/agent/reconcile.ts';
import { sha256Of } from '../../../../src/guest/agent/state-file.ts';
import type { LinkInfo, ObjectInfo } from '../../../../src/wire/schema.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), 'ht-desired-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const npf = (): string => {
  const file = path.join(dir, 'npf.bpf.o');
  writeFileSync(file, 'npf 1');
  return file;
};
const config = (extra: object = {}): AgentConfig =>
  AgentConfig().parse({ state: path.join(dir, 'state'), ...extra });
const withNpf = (): AgentConfig =>
  config({ objects: { npf: { file: npf() } }, links: [{ object: 'npf', hook: 'npf' }] });
const names = (d: DesiredState): string[] => d.objects().map((o) => `${o.name} ${o.origin}`);

describe('desired state', () => {
  test('what commands changed survives a restart, and wins over the configuration', () => {
    const first = new DesiredState(withNpf());
    first.putObject({ name: 'mine', elf: Buffer.from('mine 1'), constants: { x: 'AQ==' } });
    first.putLink({ object: 'mine', program: 'p', hook: 'exit', target: 'tap0' });
    expect(first.removeLink({ object: 'npf', hook: 'npf' })).toBe(true);

    const again = new DesiredState(withNpf());
    expect(names(again)).toEqual(['npf config', 'mine command']);
    expect(again.links()).toEqual([
      { object: 'mine', program: 'p', hook: 'exit', target: 'tap0', origin: 'command' },
    ]);
    expect(again.elfOf(again.objects()[1]!).toString()).toBe('mine 1');
    expect(again.removed()).toEqual(['npf at npf']);

    expect(again.removeObject('npf')).toBe(true);
    expect(again.removeObject('npf')).toBe(true); // still in the configuration
    expect(names(new DesiredState(withNpf()))).toEqual(['mine command']);
    again.forget();
    expect(names(new DesiredState(withNpf()))).toEqual(['npf config']);
    expect(again.links()).toHaveLength(1);
  });

  test("a policy is kept with its object, a command's before the configuration's, and goes with it", () => {
    const file = npf();
    const objects = { web: { file, policy: { firewall: { rules: ['deny out tcp port 25'] } } } };
    const text = (d: DesiredState): string => JSON.stringify(d.objects().map((o) => o.policy ?? null));
    expect(text(new DesiredState(config({ objects })))).toContain('deny out tcp from any to any port 25');
    const first = new DesiredState(config({ objects }));
    first.putPolicy('web', { rateLimit: { out: { bytesPerSecond: 5000 } } });
    expect(text(new DesiredState(config({ objects })))).toBe(
      '[{"rateLimit":{"out":{"bytesPerSecond":5000}}}]',
    );
    first.removeObject('web');
    first.putObject({ name: 'web', elf: Buffer.from('web 2') });
    expect(text(new DesiredState(config({ objects })))).toContain('port 25');
    const bad = { other: { file, policy: { firewall: { rules: ['deny out tpc'] } } } };
    expect(new DesiredState(config({ objects: bad })).problems()[0]?.message).toContain("protocol 'tpc'");
  });

  test('a state that was written before there were policies is read', () => {
    const d = new DesiredState(config());
    writeFileSync(path.join(dir, 'state/agent.json'), '{"version":1,"objects":{},"links":[]}');
    expect(new DesiredState(config()).problems()).toEqual([]);
    expect(d.objects()).toEqual([]);
  });

  test('objects that nothing names any more are removed from disk', () => {
    const d = new DesiredState(config());
    d.putObject({ name: 'a', elf: Buffer.from('one') });
    d.putObject({ name: 'a', elf: Buffer.from('two') });
    expect(readdirSync(path.join(dir, 'state/objects'))).toEqual([`${sha256Of(Buffer.from('two'))}.bpf.o`]);
    expect(d.removeObject('a')).toBe(true);
    expect(d.removeObject('a')).toBe(false);
    expect(readdirSync(path.join(dir, 'state/objects'))).toEqual([]);
  });

  test('a state file that cannot be read is put aside, not lost and not fatal', () => {
    const d = new DesiredState(config());
    d.putObject({ name: 'a', elf: Buffer.from('one') });
    const file = path.join(dir, 'state/agent.json');
    writeFileSync(file, '{"version": 1, "obj');
    const again = new DesiredState(withNpf());
    expect(names(again)).toEqual(['npf config']);
    expect(again.problems()[0]?.message).toContain('agent.json.bad');
    expect(readFileSync(`${file}.bad`, 'utf8')).toContain('"obj');
    expect(existsSync(file)).toBe(false);
  });

  test('an object that was changed on disk is not sent', () => {
    const d = new DesiredState(config());
    d.putObject({ name: 'a', elf: Buffer.from('one') });
    writeFileSync(path.join(dir, `state/objects/${sha256Of(Buffer.from('one'))}.bpf.o`), 'other');
    expect(() => d.elfOf(d.objects()[0]!)).toThrow('has been changed');
  });

  test('a file of the configuration that is not there is a problem, and leaves the host as it is', () => {
    const d = new DesiredState(config({ objects: { npf: { file: path.join(dir, 'none.o') } } }));
    expect(d.problems()).toMatchObject([{ step: 'read npf' }]);
    const observed = { objects: [object('npf', 'old')], links: [link(1, 'npf')] };
    expect(plan({ objects: d.objects(), links: d.links(), leave: d.unreadable() }, observed)).toEqual([]);
    writeFileSync(path.join(dir, 'none.o'), 'there now');
    d.refresh();
    expect(d.problems()).toEqual([]);
  });

  test('a signature beside the object is taken along', () => {
    const file = npf();
    writeFileSync(`${file}.sig`, JSON.stringify({ keyId: '0123456789abcdef', value: 'AAAA' }));
    const d = new DesiredState(config({ objects: { npf: { file } } }));
    expect(d.objects()[0]?.signature?.keyId).toBe('0123456789abcdef');
    writeFileSync(`${file}.sig`, 'nonsense');
    d.refresh();
    expect(d.problems()[0]?.message).toContain("a signature of 'hyperturtle sign' expected");
  });
});

const object = (name: string, content: string): ObjectInfo => ({
  name,
  sha256: sha256Of(Buffer.from(content)),
  loadedAt: new Date().toISOString(),
  signedBy: null,
  programs: [],
  maps: [],
});
const link = (id: number, of: string, hook = 'npf'): LinkInfo => ({
  id,
  object: of,
  program: 'p',
  hook,
  target: null,
  since: new Date().toISOString(),
});
const wanted = (name: string, content: string) => ({
  name,
  sha256: sha256Of(Buffer.from(content)),
  origin: 'command' as const,
});

describe('the plan', () => {
  test('frees hooks and quotas before it loads and links', () => {
    const steps = plan(
      {
        objects: [wanted('new', '1'), wanted('changed', '2')],
        links: [{ object: 'new', hook: 'npf', origin: 'config' }],
        leave: [],
      },
      { objects: [object('old', '1'), object('changed', '1')], links: [link(4, 'old')] },
    );
    expect(steps.map(stepText)).toEqual([
      'unlink old at npf',
      'unload old',
      'load new',
      'replace changed',
      'link new at npf',
    ]);
  });

  test('is empty when the host has what is wanted; a link without a program fits the one there is', () => {
    const want = {
      objects: [wanted('a', '1')],
      links: [{ object: 'a', hook: 'npf', origin: 'config' as const }],
      leave: [],
    };
    expect(plan(want, { objects: [object('a', '1')], links: [link(1, 'a')] })).toEqual([]);
  });

  test('leaves a link off that the host has ended, until the object is another one', () => {
    const want = (content: string): Parameters<typeof plan>[0] => ({
      objects: [wanted('a', content)],
      links: [{ object: 'a', hook: 'npf', origin: 'config' }],
      leave: [],
    });
    const at = '2026-11-22T10:00:00.000Z';
    const there = {
      objects: [object('a', '1')],
      links: [],
      ended: [{ link: link(1, 'a'), reason: 'slow', at }],
    };
    expect(plan(want('1'), there)).toEqual([]);
    expect(endedOf(want('1'), there)).toMatchObject([{ link: { object: 'a', hook: 'npf' }, reason: 'slow' }]);
    expect(plan(want('2'), there).map(stepText)).toEqual(['replace a', 'link a at npf']);
    expect(endedOf(want('2'), there)).toEqual([]);
  });

  test('asks for a link of a NIC in the order that is wanted, and leaves the order alone when none is', () => {
    const there = { ...link(1, 'a', 'tc-egress'), target: 'web', order: 100 };
    const steps = (order?: number): string[] =>
      plan(
        {
          objects: [wanted('a', '1')],
          links: [
            {
              object: 'a',
              hook: 'tc-egress',
              target: 'web',
              ...(order === undefined ? {} : { order }),
              origin: 'command',
            },
          ],
          leave: [],
        },
        { objects: [object('a', '1')], links: [there] },
      ).map(stepText);
    expect(steps()).toEqual([]);
    expect(steps(100)).toEqual([]);
    expect(steps(7)).toEqual(['link a at tc-egress of web']);
  });

  test('asks again for an object with constants until the host has confirmed them', () => {
    const want = { objects: [{ ...wanted('a', '1'), constants: { x: 'AQ==' } }], links: [], leave: [] };
    const there = { objects: [object('a', '1')], links: [] };
    const known = (object: boolean) => ({ object: () => object, policy: () => true });
    expect(plan(want, there, known(false)).map(stepText)).toEqual(['load a']);
    expect(plan(want, there, known(true))).toEqual([]);
  });

  test('puts policies in force after loading and before linking, and wherever that is not known to be so', () => {
    const policy = { firewall: { default: 'allow' as const } };
    const want = {
      objects: [{ ...wanted('a', '1'), policy }],
      links: [{ object: 'a', hook: 'tc-egress', target: 'web', origin: 'config' as const }],
      leave: [],
    };
    const there = (content: string) => ({
      objects: [object('a', content)],
      links: [{ ...link(1, 'a', 'tc-egress'), target: 'web' }],
    });
    expect(plan(want, { objects: [], links: [] }).map(stepText)).toEqual([
      'load a',
      'policy a',
      'link a at tc-egress of web',
    ]);
    expect(plan(want, there('2')).map(stepText)).toEqual(['replace a', 'policy a']);
    expect(plan(want, there('1'))).toEqual([]);
    const unknown = { object: () => true, policy: () => false };
    expect(plan(want, there('1'), unknown).map(stepText)).toEqual(['policy a']);
  });
});

describe('the configuration', () => {
  test('each mistake is told with its line and what was expected', () => {
    const text =
      'l2:\n  regster: true\nmodule:\n  pool: {low: 9, high: 3}\nlinks:\n  - {object: "a b", hook: npf}\n';
    const problems = (): unknown => parseYaml(text, 'guest.yaml', AgentConfig());
    expect(problems).toThrow('guest.yaml:2:3: l2.regster: there is no such setting');
    expect(problems).toThrow(/guest.yaml:4:\d+: module.pool: low must not be above high/);
    expect(problems).toThrow(/guest.yaml:6:\d+: links.0.object: a name of/);
  });

  test('an empty file is all defaults', () => {
    const c = parseYaml('# nothing\n', 'guest.yaml', AgentConfig());
    expect(c.port).toBe('/dev/virtio-ports/org.hyperturtle.v1');
    expect(c.l2.register).toBe(true);
  });
});
