/** The configuration file: what is filled in, and what is said about mistakes. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { isHyperturtleError } from '../../../src/core/errors.ts';
import { parseYaml } from '../../../src/core/yaml.ts';
import { AgentConfig, checkAgentConfig } from '../../../src/guest/agent/config.ts';
import { adminSocketOf, checkVm, parseConfig, readConfig } from '../../../src/host/config.ts';

const problemsOf = (text: string): string[] => {
  try {
    parseConfig(text, 'host.yaml');
  } catch (e) {
    if (isHyperturtleError(e, 'HT_CONFIG')) return e.message.split('\n');
    throw e;
  }
  return [];
};

describe('a configuration', () => {
  it('may be empty: a daemon without VMs', () => {
    const config = parseConfig('', 'host.yaml');
    expect(config.vms).toEqual({});
    expect(config.state).toBe('/var/lib/hyperturtle');
    expect(adminSocketOf(config)).toBe('/run/hyperturtle/host.sock');
  });

  it('needs two sockets of a VM and fills in the rest', () => {
    const config = parseConfig(
      'vms:\n  one:\n    qmp: /run/one/qmp.sock\n    agent: {socket: /run/one/agent.sock}\n',
      'host.yaml',
    );
    const vm = config.vms['one'];
    expect(vm).toMatchObject({ arenaMib: 16, signature: 'none', keys: [], policy: { forbiddenHelpers: [] } });
    expect(vm?.quotas).toMatchObject({ objects: 16, mapBytes: 64 << 20, requestsPerSecond: 1000 });
    expect(vm?.bus).toBeUndefined();
  });

  it('may set some quotas and leave the others', () => {
    const config = parseConfig(
      'vms:\n  one: {qmp: /q, agent: {hotplug: true}, quotas: {objects: 2}}',
      'host.yaml',
    );
    expect(config.vms['one']?.quotas).toMatchObject({ objects: 2, programs: 64 });
  });
});

describe('a mistake is told with its line and column', () => {
  it('when it is not YAML', () => {
    expect(problemsOf('vms: {one: [')[0]).toMatch(/^host\.yaml:1:\d+: /);
  });

  it('when a setting does not exist, at the setting', () => {
    expect(problemsOf('vms:\n  one:\n    qmp: /q\n    agent: {socket: /a}\n    arenaMiB: 16\n')).toEqual([
      'host.yaml:5:5: vms.one.arenaMiB: there is no such setting',
    ]);
  });

  it('when a value has the wrong type, with what was expected and found', () => {
    expect(
      problemsOf('vms:\n  one:\n    qmp: /q\n    agent: {socket: /a}\n    quotas:\n      objects: many\n'),
    ).toEqual(['host.yaml:6:7: vms.one.quotas.objects: expected number, received string']);
  });

  it('when a setting is missing, at what it is missing from', () => {
    const [problem] = problemsOf('vms:\n  one:\n    agent: {socket: /a}\n');
    expect(problem).toMatch(/^host\.yaml:2:3: vms\.one\.qmp: missing: expected string/);
  });

  it('when an arena is no power of two', () => {
    expect(problemsOf('vms:\n  one: {qmp: /q, agent: {socket: /a}, arenaMib: 12}\n')[0]).toContain(
      'a power of two expected (it becomes a PCI BAR), 12 MiB found',
    );
  });

  it('when a policy names no hook, or no helper: that would forbid nothing', () => {
    const policy = '{hooks: [npf, nope], forbiddenHelpers: [ktime_get_ns, zzz]}';
    const problems = problemsOf(`vms:\n  one: {qmp: /q, agent: {socket: /a}, policy: ${policy}}\n`);
    expect(problems).toEqual([
      expect.stringMatching(/^host\.yaml:2:\d+: vms\.one\.policy\.hooks\.1: no hook; there are: npf, exit,/),
      expect.stringMatching(/policy\.forbiddenHelpers\.1: no helper .*; there are: .*ktime_get_ns/),
    ]);
  });

  it('when two VMs share a socket by two of its spellings', () => {
    const vm = (name: string, socket: string): string =>
      `  ${name}: {qmp: /${name}, agent: {socket: ${socket}}}\n`;
    const problems = problemsOf(
      `vms:\n${vm('one', '/run/a')}${vm('two', '/run//a')}${vm('three', '/run/./a')}`,
    );
    expect(problems.map((p) => p.replace(/^.*: \//, '/'))).toEqual([
      '/run//a is vms.one.agent.socket already',
      '/run/./a is vms.two.agent.socket already',
    ]);
  });

  it('when a key is there twice', () => {
    expect(problemsOf('run: /a\nrun: /b\n')[0]).toMatch(/^host\.yaml:2:1: .*unique/);
  });

  it('for all mistakes at once', () => {
    expect(problemsOf('rum: /a\nlog: {level: loud}\n')).toHaveLength(2);
  });

  it('when two VMs share a socket: one would speak with the rights of the other', () => {
    expect(
      problemsOf(
        'vms:\n  one: {qmp: /q1, agent: {socket: /a}}\n  two:\n    qmp: /q2\n    agent:\n      socket: /a\n',
      ),
    ).toEqual(['host.yaml:6:7: vms.two.agent.socket: /a is vms.one.agent.socket already']);
  });

  it.each([
    [
      'admin: {socket: /run/a}\nmetrics: {socket: /run/a}',
      'host.yaml:2:11: metrics.socket: /run/a is admin.socket already',
    ],
    [
      'metrics: {socket: /run/hyperturtle/host.sock}',
      'host.yaml:1:11: metrics.socket: /run/hyperturtle/host.sock is run already',
    ],
    [
      'run: /r\nvms:\n  one: {qmp: /r/host.sock, agent: {hotplug: true}}',
      'host.yaml:3:9: vms.one.qmp: /r/host.sock is run already',
    ],
    [
      `run: /${'r'.repeat(104)}`,
      `host.yaml:1:1: run: its socket /${'r'.repeat(104)}/host.sock is too long: at most 107 bytes for a socket`,
    ],
    [`admin: {socket: /${'r'.repeat(107)}}`, 'host.yaml:1:9: admin.socket: at most 107 bytes for a socket'],
  ])("when one of the daemon's own sockets is taken or has too long a name (%#)", (text, problem) => {
    expect(problemsOf(text)).toEqual([problem]);
  });

  it.each([
    ['socket: /a\nmetrics: {socket: /a}', 'guest.yaml:2:11: metrics.socket: /a is socket already'],
    ['socket: /a\nport: /a', 'guest.yaml:2:1: port: /a is socket already'],
    ['state: /s\nsocket: /s/agent.lock', 'guest.yaml:1:1: state: /s/agent.lock is socket already'],
    [
      `state: /${'s'.repeat(104)}`,
      `guest.yaml:1:1: state: its lock /${'s'.repeat(104)}/agent.lock is too long: at most 107 bytes for a socket`,
    ],
  ])("when one of the agent's own sockets is taken or has too long a name (%#)", (text, problem) => {
    expect(() => parseYaml(text, 'guest.yaml', AgentConfig())).toThrow(
      expect.objectContaining({ detail: { problems: [problem] } }),
    );
  });

  it.each(['..', 'a:b', 'ht%d', 'br0/x', '\u00e4'.repeat(8)])(
    'when a bridge cannot be called %s',
    (bridge) => {
      expect(problemsOf(`networks:\n  n: {bridge: "${bridge}"}`)).toEqual([
        expect.stringMatching(
          /^host\.yaml:2:7: networks\.n\.bridge: the name of a bridge expected, at most 15 bytes/,
        ),
      ]);
    },
  );

  it('when a list or a mapping stands for a name, and when another document follows', () => {
    expect(problemsOf('vms:\n  ? [a, b]\n  : {qmp: /x}\n  ? {c: d}\n  : {}\n')).toEqual([
      'host.yaml:2:5: a plain name expected as a key',
      'host.yaml:4:5: a plain name expected as a key',
    ]);
    expect(problemsOf('vms: {}\n---\nvms: {}\n')).toEqual([
      'host.yaml:2:1: one document expected, another one begins',
    ]);
  });

  it('when signatures are required and nobody could have signed', () => {
    expect(problemsOf('vms:\n  one: {qmp: /q, agent: {socket: /a}, signature: required}\n')[0]).toContain(
      'there are no keys',
    );
  });

  it('when a name would not be one for a path', () => {
    expect(problemsOf('vms:\n  ../x: {qmp: /q, agent: {socket: /a}}\n')[0]).toMatch(
      /vms\.\.\.\/x: a name of/,
    );
  });

  it('when aliases multiply', () => {
    const bomb = Array.from({ length: 12 }, (_, i) =>
      i === 0 ? 'a0: &a0 [x,x,x,x]' : `a${i}: &a${i} [*a${i - 1},*a${i - 1},*a${i - 1},*a${i - 1}]`,
    ).join('\n');
    expect(problemsOf(bomb)).not.toEqual([]);
  });
});

it('the example of docs/host-daemon.md is one', () => {
  const doc = readFileSync(path.resolve(import.meta.dirname, '../../../docs/host-daemon.md'), 'utf8');
  const example = /```yaml\n([\s\S]*?)```/.exec(doc)?.[1] ?? '';
  const config = parseConfig(example, 'docs/host-daemon.md');
  expect(Object.keys(config.vms)).toEqual(['build1', 'build2']);
  const said = Object.fromEntries(
    [...doc.matchAll(/`(instructions|watches|requestsPerSecond)` \| (\d+) /g)].map(
      (m) => [m[1] ?? '', Number(m[2])] as const,
    ),
  );
  expect(config.vms['build2']?.quotas).toMatchObject(said);
});

it('a VM from the command line is checked by the same rules', () => {
  expect(checkVm('one', { qmp: '/q', agent: { socket: '/a' } })).toMatchObject({ arenaMib: 16 });
  expect(() => checkVm('one', { qmp: 'q', agent: { socket: '/a' } })).toThrow(
    /qmp: an absolute path expected/,
  );
  expect(() => checkVm('a/b', { qmp: '/q', agent: { socket: '/a' } })).toThrow(/a name of letters/);
});

describe('a file with several mistakes', () => {
  it('tells them in the order of their lines, and missing settings as such', () => {
    expect(
      problemsOf('vms:\n  one:\n    arenaMiB: 1\n    quotas: {objects: many}\nlog: {level: loud}\nrum: /a\n'),
    ).toEqual([
      'host.yaml:2:3: vms.one.qmp: missing: expected string',
      'host.yaml:2:3: vms.one.agent: missing: either socket: PATH or hotplug: true expected',
      'host.yaml:3:5: vms.one.arenaMiB: there is no such setting',
      expect.stringMatching(/^host\.yaml:4:14: vms\.one\.quotas\.objects: expected number/),
      expect.stringMatching(/^host\.yaml:5:7: log\.level: /),
      'host.yaml:6:1: rum: there is no such setting',
    ]);
  });

  it('tells keys of signatures and objects that cannot be read with line and column too, as errors of the file', () => {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'ht-config-'));
    try {
      const file = path.join(dir, 'f.yaml');
      writeFileSync(
        file,
        'vms:\n  one:\n    qmp: /q\n    agent: {hotplug: true}\n    keys:\n      - /none.pub\n',
      );
      expect(() => readConfig(file)).toThrow(
        expect.objectContaining({
          code: 'HT_CONFIG',
          message: expect.stringMatching(
            /f\.yaml:6:9: vms\.one\.keys\.0: \/none\.pub: no such file: make a key with 'hyperturtle keygen'/,
          ) as string,
        }),
      );
      writeFileSync(file, 'objects:\n  npf:\n    file: /none.o\n');
      expect(() => checkAgentConfig(file)).toThrow(
        expect.objectContaining({
          code: 'HT_CONFIG',
          message: expect.stringMatching(
            /f\.yaml:3:5: objects\.npf\.file: \/none\.o: no such file/,
          ) as string,
        }),
      );
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});
