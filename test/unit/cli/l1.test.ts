import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { Command } from 'commander';
import { elsewhereText, statusText } from '../../../src/cli/guest/status.ts';
import { completionNodes, completionScript, registerCompletion } from '../../../src/cli/docs/completion.ts';
import { doctorText } from '../../../src/cli/doctor/command.ts';
import { columns } from '../../../src/cli/shared/columns.ts';
import { registerEvents } from '../../../src/cli/events/command.ts';
import { registerMaps } from '../../../src/cli/maps/command.ts';
import { limitsText, registerObjects } from '../../../src/cli/objects/command.ts';
import { bytesText, formatBytes, formatPerCpu, objectNameOf, parseBytes } from '../../../src/client/bytes.ts';
import { rates, topText } from '../../../src/cli/top/command.ts';
import type { TopSample } from '../../../src/cli/top/command.ts';
import { exec } from '../../../src/core/exec.ts';
import { hasNoAddress, collectFacts, judge } from '../../../src/guest/agent/doctor.ts';
import type { Facts } from '../../../src/guest/agent/doctor.ts';
import { Name } from '../../../src/wire/schema.ts';

describe('keys and values', () => {
  test('numbers are little-endian and as long as the map says, bytes are taken as they stand', () => {
    expect(parseBytes('1', 4, 'key').toString('hex')).toBe('01000000');
    expect(parseBytes('0xff00', 2, 'key').toString('hex')).toBe('00ff');
    expect(parseBytes('-1', 8, 'key').toString('hex')).toBe('ff'.repeat(8));
    expect(parseBytes('hex:0a0b', 2, 'key').toString('hex')).toBe('0a0b');
    expect(parseBytes('base64:Cgs=', 2, 'key').toString('hex')).toBe('0a0b');
    expect(parseBytes('text:ab', 4, 'key').toString('hex')).toBe('61620000');
  });

  test.each([
    ['256', 1],
    ['-129', 1],
    ['18446744073709551616', 8],
    ['1', 16],
    ['hex:0a', 2],
    ['hex:0', 1],
    ['base64:????', 3],
    ['text:abc', 2],
    ['1.5', 4],
    ['', 4],
  ])('%s is refused for %d bytes', (text, bytes) => {
    expect(() => parseBytes(text, bytes, 'key')).toThrow(/key '.*give a number, hex:/);
  });

  test('what is printed can be read again', () => {
    for (const [text, bytes] of [
      ['255', 1],
      ['4294967295', 4],
      ['18446744073709551615', 8],
      ['hex:0102030405', 5],
    ] as const)
      expect(formatBytes(parseBytes(text, bytes, 'v').toString('base64'))).toBe(text);
    expect(formatBytes(Buffer.from('hi\x07\0\0').toString('base64'), 'text')).toBe('hi.');
    expect(
      formatPerCpu(
        [parseBytes('3', 8, 'v'), parseBytes('0', 8, 'v'), parseBytes('4', 8, 'v')].map((b) =>
          b.toString('base64'),
        ),
      ),
    ).toBe('sum=7 cpu0=3 cpu2=4');
  });

  test("an object's name is its file's, made to fit the protocol", () => {
    expect(objectNameOf('/usr/lib/npf.bpf.o')).toBe('npf');
    for (const file of ['.bpf.o', 'a b(1).o', '..o', `${'x'.repeat(99)}.o`, '/', 'ü.o'])
      expect(Name().safeParse(objectNameOf(file)).success, file).toBe(true);
    expect([bytesText(512), bytesText(1536), bytesText(16 << 20)]).toEqual(['512 B', '1.5 KiB', '16 MiB']);
  });

  test('columns are aligned, numbers to the right', () => {
    expect(
      columns(
        ['A', 'N'],
        [
          ['x', '5'],
          ['long', '10'],
        ],
      ),
    ).toBe('A      N\nx      5\nlong  10');
  });
});

const status = (over: object = {}): TopSample['status'] => ({
  version: '0.1.0',
  port: '/dev/port',
  host: {
    state: 'connected',
    since: '2026-01-01T00:00:00Z',
    sessions: 1,
    lastError: null,
    vm: 'one',
    daemon: { version: '0.1.0', kernel: '6.1.0', instance: 'x' },
  },
  desired: { objects: 1, links: 1, reached: true, checked: '2026-01-01T00:00:00Z', problems: [] },
  module: {
    state: 'present',
    turtlefs: '/run/hyperturtle/ram',
    arenaBound: true,
    arenaBytes: 16 << 20,
    enabled: true,
    groupMax: 64,
    pool: { level: 800, low: 100, high: 1000, entries: 4096, refills: 3, shrunk: 0 },
    index: { words: 1000, used: 10 },
    frames: { allocated: 1, freed: 1 },
    faults: { total: 1, found: 1, lost: 0 },
    gracePeriods: 0,
  },
  l2s: [],
  l2Problems: [],
  ...over,
});

const l2 = (faults: number) => ({
  pid: 42,
  name: 'web',
  number: 1,
  since: '2026-01-01T00:00:00Z',
  pages: 1024,
  pagesHeld: 20,
  framesCharged: 30,
  framesCredit: 10,
  cgroup: '/machine/a',
  pagesUnused: 1,
  framesTaken: 9,
  faults,
  mappedExisting: 1,
  mappedNew: faults,
  mappedAhead: 0,
  passes: 2,
  slotChanges: 0,
});

const look = (atMs: number, runs: number, handled: number, reasons: Record<string, number>): TopSample => ({
  atMs,
  hooks: [
    {
      hook: 'npf',
      linked: true,
      object: 'a',
      program: 'p',
      runs,
      handled,
      entries: handled,
      learned: 0,
      passed: runs - handled,
      reasons,
    },
  ],
  status: status({ l2s: [l2(runs)] }),
});

describe('top', () => {
  test('shows rates since the last look, and why faults were passed on since then', () => {
    const before = look(0, 1000, 800, { POOL_EMPTY: 200 });
    const now = look(2000, 3000, 2600, { POOL_EMPTY: 210, NO_TEMPLATE: 190 });
    const r = rates(before, now);
    expect(r.hooks[0]).toMatchObject({
      runs: 1000,
      handled: 900,
      reasons: { POOL_EMPTY: 10, NO_TEMPLATE: 190 },
    });
    expect(r.l2s[0]).toMatchObject({ name: 'web', faults: 1000, passed: 0 });
    const text = topText(before, now).join('\n');
    expect(text).toMatch(/npf +a\/p +1000 +900 +0 +100 +10.0% +900 +NO_TEMPLATE 190, POOL_EMPTY 10/);
    expect(text).toContain('pool 800 of 4096 frames (100..1000)');
  });

  test('counters that began again do not show as negative rates', () => {
    const now = look(1000, 10, 5, { RACE: 5 });
    expect(rates(look(0, 1000, 800, { POOL_EMPTY: 200 }), now).hooks[0]).toMatchObject({
      runs: 0,
      reasons: { RACE: 5 },
    });
    expect(rates(undefined, now).hooks[0]).toMatchObject({ runs: 10, handled: 5 });
  });

  test('counters that a new daemon began are not taken for the old ones, however high they are', () => {
    const before = { ...look(0, 1000, 800, {}), since: '2026-01-01T00:00:00Z' };
    const now = { ...look(1000, 5000, 4000, {}), since: '2026-01-01T00:00:09Z' };
    expect(rates(before, now).hooks[0]).toMatchObject({ runs: 0, handled: 0, toL1: 0 });
    expect(rates(before, { ...now, since: before.since }).hooks[0]).toMatchObject({ runs: 4000 });
  });

  test('without host and module it says so', () => {
    const text = topText(undefined, {
      atMs: 0,
      hooks: [],
      status: status({ module: null, host: { ...status().host, state: 'waiting', vm: null } }),
    }).join('\n');
    expect(text).toContain('waiting for the host; module left alone');
    expect(text).toContain('no hooks linked');
  });
});

describe('status', () => {
  test('MAPPED of an L2 has the pages mapped ahead of their faults, and how many for a fault', () => {
    const web = { ...l2(973), mappedNew: 973, mappedExisting: 27, mappedAhead: 50_252 };
    const row = statusText(status({ l2s: [web] }))
      .split('\n')
      .find((l) => l.startsWith('web'));
    expect(row?.trim().split(/ {2,}/)).toEqual(
      expect.arrayContaining(['973', '51252', '51.3', '2026-01-01T00:00:00Z']),
    );
  });

  test('names VMMs whose memory is elsewhere', () => {
    expect(elsewhereText({ pid: 7, name: 'web', turtlefs: 'private', memory: undefined, kata: false })).toBe(
      'not accelerated: web (process 7): its RAM is a private copy of turtlefs; hyperturtle doctor says how',
    );
  });

  test('names each problem and since when', () => {
    const problem = {
      step: 'load npf',
      kind: 'QUOTA',
      message: 'too many objects',
      since: '2026-01-01T00:00:00Z',
    };
    const text = statusText(
      status({ desired: { ...status().desired, reached: false, problems: [problem] } }),
    );
    expect(text).toContain('load npf: too many objects (QUOTA, since 2026-01-01T00:00:00Z)');
  });
});

const facts = (over: Partial<Facts> = {}): Facts => ({
  kernel: { release: '6.1.0-50-amd64', version: '#1 SMP Debian 6.1.180-1 (2026-09-01)' },
  cpu: { svm: true, vmx: false, hypervisor: true },
  devKvm: true,
  npt: '1',
  ept: undefined,
  tdpMmu: 'Y',
  nohzFull: '',
  ftrace: '1',
  numa: { nodes: 1, balancing: '0' },
  sleep: 'freeze mem disk',
  otherHypervisors: [],
  signing: { lockdown: 'none', secureBoot: false, enforced: false, certificate: undefined },
  guestDevice: true,
  kvm: { differences: [], untyped: [], taken: [] },
  turtlefs: '/run/hyperturtle/ram',
  unplacedArenas: [],
  channel: true,
  port: '/dev/port',
  vms: [],
  agent: status(),
  agentProblem: undefined,
  ...over,
});

const NOWHERE = { memory: undefined, kata: false };

describe('doctor', () => {
  test.each([
    [
      '0x00000000fe800000 0x00000000fe8000ff 0x0000000000040200\n0x0 0x0 0x0\n0x0000000000000000 0x0000000000000000 0x0000000000000000\n',
      true,
    ],
    [
      '0x00000000fe800000 0x00000000fe8000ff 0x0000000000040200\n0x0 0x0 0x0\n0x0000000000000000 0x0000000000ffffff 0x000000000014220c\n',
      true,
    ],
    [
      '0x00000000fe800000 0x00000000fe8000ff 0x0000000000040200\n0x0 0x0 0x0\n0x0000007f00000000 0x0000007f00ffffff 0x000000000014220c\n',
      false,
    ],
    ['', false],
  ])('reads off where the memory of an ivshmem device is: %#', (resource, nowhere) => {
    expect(hasNoAddress(resource)).toBe(nowhere);
  });

  test("says where a VMM's memory is, and of Kata's what sets it up", () => {
    const memory = { bytes: 2 ** 31, where: 'files in /dev/shm' };
    const vm = { pid: 7, name: 'sandbox-0a', turtlefs: 'none', memory, kata: true } as const;
    const [found] = judge(facts({ vms: [vm] })).filter((f) => f.level !== 'ok');
    expect(found?.what).toContain('(its largest is 2048 MiB of files in /dev/shm)');
    expect(found?.mend).toContain('hyperturtle kata status');
  });

  test.each([
    [{ faults: 10, mappedNew: 6, mappedExisting: 2 }, '8 of 10 faults answered in the host'],
    [{ faults: 10, mappedNew: 0, mappedExisting: 0 }, 'no fault answered in the host'],
  ])('says since when a VMM is accelerated, and what shows it: %o', (counts, said) => {
    const here = { ...l2(3), ...counts, since: '2026-11-30T18:31:43.000Z' };
    const found = judge(
      facts({
        vms: [{ pid: here.pid, name: 'web', turtlefs: 'shared', ...NOWHERE }],
        agent: status({ l2s: [here] }),
      }),
    );
    expect(found.find((f) => f.what.startsWith('VMM'))).toMatchObject({
      level: 'ok',
      what: `VMM web (process ${here.pid}): RAM on turtlefs, registered since 2026-11-30T18:31:43.000Z, ${said}`,
    });
  });

  test('finds nothing wrong with a machine that is set up', () => {
    expect(judge(facts()).filter((f) => f.level !== 'ok')).toEqual([]);
  });

  test.each<[string, Partial<Facts>, RegExp]>([
    [
      'an old kernel',
      { kernel: { release: '6.1.0-40-amd64', version: 'Debian 6.1.150-1' } },
      /CVE-2026-53359/,
    ],
    ['no extension', { cpu: { svm: false, vmx: false, hypervisor: true } }, /no virtualization extension/],
    ['no KVM', { devKvm: false }, /KVM is not loaded/],
    ['no nested paging', { npt: '0' }, /nested paging is off/],
    ['no EPT', { ept: 'N' }, /nested paging is off \(kvm_intel.ept=N\)/],
    ['the old MMU', { tdpMmu: 'N' }, /TDP MMU/],
    ['nohz_full', { nohzFull: '1-3' }, /nohz_full=1-3/],
    ['ftrace off', { ftrace: '0' }, /ftrace is off: hyperturtle_guest does not load/],
    [
      'a NUMA node without a pool',
      {
        numa: { nodes: 2, balancing: '0' },
        agent: status({
          module: {
            ...status().module,
            pool: {
              level: 800,
              low: 100,
              high: 1000,
              entries: 4096,
              refills: 3,
              shrunk: 0,
              nodes: [{ node: 0, level: 800, low: 100, high: 1000 }],
            },
          },
        }),
      },
      /1 of 2 NUMA nodes have no pool/,
    ],
    ['another hypervisor', { otherHypervisors: ['vboxdrv'] }, /another hypervisor .*vboxdrv/],
    ['another kernel', { kernel: { release: '6.6.150', version: '#1' } }, /not been tried on kernel 6.6.150/],
    [
      'a machine started by Secure Boot',
      {
        guestDevice: false,
        signing: { lockdown: 'none', secureBoot: true, enforced: false, certificate: '/k/mok.pub' },
      },
      /hyperturtle_guest.ko is not loaded/,
    ],
    [
      'a KVM that differs',
      { kvm: { differences: ['kvm has no kvm_cpuid()'], untyped: [], taken: [] } },
      /relies on: kvm has no kvm_cpuid\(\)/,
    ],
    [
      'a kernel without BTF',
      { kvm: { differences: [], untyped: ['vmlinux'], taken: [] } },
      /hyperturtle_guest knows cannot be told/,
    ],
    [
      'a BPF program on what is to be hooked',
      { kvm: { differences: [], untyped: [], taken: ['kvm_arch_destroy_vm'] } },
      /^kvm_arch_destroy_vm: hooked by .*hyperturtle_guest\.ko does not load beside it$/,
    ],
    ['no module', { guestDevice: false }, /hyperturtle_guest.ko is not loaded/],
    ['another ABI', { agent: status({ module: { ...status().module, state: 'mismatch' } }) }, /another ABI/],
    ['no mount', { turtlefs: undefined }, /turtlefs is not mounted/],
    ['no arena', { agent: status({ module: { ...status().module, arenaBound: false } }) }, /no arena/],
    [
      'an arena without an address',
      {
        unplacedArenas: ['0000:01:00.0'],
        agent: status({ module: { ...status().module, arenaBound: false } }),
      },
      /no address \(0000:01:00\.0\)/,
    ],
    ['disabled', { agent: status({ module: { ...status().module, enabled: false } }) }, /pass every fault/],
    ['no port', { channel: false }, /channel \/dev\/port is not there/],
    ['no agent', { agent: undefined, agentProblem: 'none' }, /agent does not answer: none/],
    [
      'no host',
      { agent: status({ host: { ...status().host, state: 'waiting', lastError: 'nobody listens' } }) },
      /not connected to the host: nobody listens/,
    ],
    [
      'nothing loaded',
      { agent: status({ desired: { ...status().desired, objects: 0, links: 0 } }) },
      /nothing is loaded/,
    ],
    [
      'other RAM',
      { vms: [{ pid: 7, name: 'web', turtlefs: 'none', ...NOWHERE }] },
      /web \(process 7\).*not on turtlefs/,
    ],
    ['private RAM', { vms: [{ pid: 7, name: 'web', turtlefs: 'private', ...NOWHERE }] }, /as a private copy/],
    [
      'no index',
      {
        vms: [{ pid: 42, name: 'web', turtlefs: 'shared' }],
        agent: status({ l2s: [{ ...l2(3), slots: 0, noIndex: 'no page has a place' }] }),
      },
      /web \(process 42\): registered, but no page has a place/,
    ],
    ['not registered', { vms: [{ pid: 7, name: 'web', turtlefs: 'shared' }] }, /not registered/],
  ])('%s is found, with a fix', (_, over, what) => {
    const found = judge(facts(over)).filter((f) => f.level !== 'ok');
    expect(found.map((f) => f.what).join('\n')).toMatch(what);
    for (const f of found) expect(f.mend, f.what).toBeTruthy();
  });

  test('a guest that gets no 2 MiB frames is right, and the reason is told', () => {
    const small = 'it gets pages of 4 KiB alone for a while';
    const agent = status({ l2s: [{ ...l2(3), small }] });
    const found = judge(facts({ vms: [{ pid: 42, name: 'web', turtlefs: 'shared' }], agent }));
    expect(found.find((f) => f.what.includes(small))).toMatchObject({ level: 'ok' });
    expect(statusText(agent as never)).toContain(`  web: ${small}`);
  });

  test('looks at this machine without failing, and prints both levels', () => {
    const here = judge(collectFacts('/dev/none', undefined, 'no agent'));
    const text = doctorText([
      { title: 'L1', findings: here },
      { title: 'L0', findings: [{ level: 'ok', what: 'host: fine' }] },
    ]);
    expect(text).toContain('channel /dev/none is not there');
    expect(text).toContain('OK      host: fine');
  });
});

test('limits are numbers in a table; what is there by hook stands with its hook', () => {
  const numbers = { objects: 4, programs: 8, links: 8, maps: 16, mapBytes: 1024, elfBytes: 4096 };
  const more = { instructions: 100, watches: 4, nics: 2, requestsPerSecond: 50, maxInProgress: 4 };
  const text = limitsText({
    limits: { ...numbers, ...more, runUs: { sample: 5 } },
    used: { objects: 1 },
    signature: 'optional',
    hooks: [
      { name: 'sample', instructions: 9, runNs: 5000, programTypes: ['p'], mapTypes: ['m'], helpers: ['h'] },
    ],
  } as unknown as Parameters<typeof limitsText>[0]);
  expect(text).toMatch(/^objects +1 +4$/m);
  expect(text).toContain('hook sample: p; a run of at most 5 us; maps m; 1 helpers: h');
  expect(text).not.toMatch(/runUs|object Object/);
});

describe('completion', () => {
  const program = (): Command => {
    const p = new Command('hyperturtle');
    registerObjects(p);
    registerMaps(p);
    registerEvents(p);
    registerCompletion(p, () => Promise.resolve(p));
    return p;
  };

  test('knows every command, option, and where files go', () => {
    const nodes = completionNodes(program());
    expect(nodes.find((n) => n.path === 'map')?.subcommands.map((s) => s.name)).toContain('watch');
    expect(nodes.find((n) => n.path === 'load')).toMatchObject({ takesFiles: true });
    expect(nodes.find((n) => n.path === 'events')?.options).toContainEqual(
      expect.objectContaining({ flag: '-f', takesValue: false }),
    );
  });

  test('knows what an argument and the value of an option may be', () => {
    const nodes = completionNodes(program());
    expect(nodes.find((n) => n.path === 'completion')?.choices).toEqual(['bash', 'zsh', 'fish']);
    const watch = nodes.find((n) => n.path === 'map watch' || n.path === 'map dump');
    expect(watch?.options.find((o) => o.choices.length > 0)?.choices).toEqual(['auto', 'hex', 'text']);
    expect(completionScript(program(), 'fish')).toContain(" -f -a 'zsh'");
  });

  test('words are taken as they are: names of every object, of files with blanks and stars, and commands of a shell', async () => {
    const dir = mkdtempSync(path.join(tmpdir(), 'ht-completion-'));
    try {
      for (const name of ['a b.o', 'a*.o', "a'c.o", '$(touch b)']) writeFileSync(path.join(dir, name), '');
      const script = completionScript(program(), 'bash');
      // all in one shell, as each start of one costs on a busy machine
      const ask =
        `${script}\nask() { COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _hyperturtle; printf '%s\\0' "\${COMPREPLY[@]}"; }` +
        `\nfor w in "$@"; do if [ "$w" = NEXT ]; then (ask "\${q[@]}"); printf '\\n'; q=(); else q+=("$w"); fi; done`;
      const complete = async (queries: readonly (readonly string[])[]): Promise<string[][]> => {
        const words = queries.flatMap((q) => ['hyperturtle', ...q, 'NEXT']);
        const r = await exec('bash', ['-c', ask, 'bash', ...words], { cwd: dir });
        const answers = r.stdout.toString().split('\n').slice(0, -1);
        return answers.map((answer) =>
          answer
            .split('\0')
            .filter((w) => w !== '')
            .sort(),
        );
      };
      const words = ['__proto__', 'constructor', 'toString', '*', '$(touch b)'];
      // the last two: the name of an object, and the value of an option
      const queries = words.flatMap((w) => [
        ...[[w], [w, 'lo'], ['map', w, '']],
        ...[
          ['unlink', w, '--js'],
          ['load', '--name', w, '--js'],
        ],
      ]);
      expect(await complete(queries)).toEqual(words.flatMap(() => [[], [], [], ['--json'], ['--json']]));
      const [files, shell, commands] = await complete([
        ['load', 'a'],
        ['load', '$'],
        ['map', ''],
      ]);
      expect(files).toEqual(['a b.o', "a'c.o", 'a*.o'].sort());
      expect(shell).toEqual(['$(touch b)']);
      expect(commands).toContain('watch');
      expect(readdirSync(dir)).not.toContain('b');
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  test('the bash script has no syntax error', async () => {
    await exec('bash', ['-n'], { input: completionScript(program(), 'bash') });
    expect(completionScript(program(), 'fish')).toContain("-n '__fish_seen_subcommand_from map; and not");
  });
});
