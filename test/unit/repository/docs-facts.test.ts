/** What several documents say is said alike in each, and as the sources have it. */
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Summary } from '../../../src/bench/first-touch/schema.ts';
import { BARS } from '../../../src/bench/first-touch/summary.ts';
import { TRIED_SERIES } from '../../../src/core/nested-kvm.ts';
import { CONSUMERS } from '../../../src/guest/consumers.ts';
import { isPacketHook, HOOK_TABLE } from '../../../src/host/hooks.ts';
import { WITHOUT_DAEMON } from '../../../src/host/packets/chain-pins.ts';
import { HT_ARENA_MAX_BYTES, HT_ARENA_MIN_BYTES } from '../../../src/kernel/arena.ts';

const read = (file: string): string => readFileSync(file, 'utf8').replace(/\s+/g, ' ');
const documents = readdirSync('docs', { recursive: true, encoding: 'utf8' })
  .filter((f) => f.endsWith('.md'))
  .map((f) => path.join('docs', f));

describe('kernels', () => {
  const list = (word: string): string =>
    `${TRIED_SERIES.slice(0, -1).join(', ')} ${word} ${TRIED_SERIES.at(-1)}`;

  it('that it has run on are the same in README, install.md and the table of kernel-support.md', () => {
    expect(read('README.md')).toContain(`(${list('and')})`);
    expect(read('docs/install.md')).toContain(`Linux ${list('or')}`);
    const cells = JSON.parse(readFileSync('docs/kernel-support.json', 'utf8')) as { kernel: string }[];
    expect([...new Set(cells.map((c) => c.kernel))].sort()).toEqual([...TRIED_SERIES].sort());
  });

  it('are told for Intel in kernel-support.md alone', () => {
    const intel = read('docs/architecture.md').split('**Intel.**')[1] ?? '';
    expect(intel).toContain('kernel-support.md');
    expect(intel).not.toMatch(/\b[5-9]\.\d+\b/);
  });
});

it('a hook of KVM has one program, one of a NIC several: said with that difference', () => {
  const kvm = HOOK_TABLE.filter((h) => !isPacketHook(h.name)).map((h) => `\`${h.name}\``);
  expect(read('docs/architecture.md')).toContain(`A hook of KVM (${kvm.join(', ')}) has one program`);
  for (const file of documents) expect(/\ba hook has one program/i.test(read(file)), file).toBe(false);
});

it('how large an arena may be is what the module takes', () => {
  const [least, most] = [HT_ARENA_MIN_BYTES >> 20, HT_ARENA_MAX_BYTES >> 20];
  expect(read('docs/host-daemon.md')).toContain(`a power of two, ${least} to ${most}`);
  expect(read('docs/admission.md')).toContain(`the VM's arena, which may have ${most} MiB`);
});

it('docs/architecture.md has every folder of sources, in the order in which they may import', () => {
  const text = readFileSync('docs/architecture.md', 'utf8').split('**Source layout**')[1] ?? '';
  const layers = readFileSync('eslint.config.mjs', 'utf8').split('const LAYERS = [')[1]?.split(']')[0] ?? '';
  const named = [...text.matchAll(/^ {4}src\/(\w+)\//gm)].map((m) => m[1]);
  expect(named).toEqual([...layers.matchAll(/'(\w+)'/g)].map((m) => m[1]));
  const folders = (dir: string): string[] =>
    readdirSync(dir, { withFileTypes: true }).flatMap((e) => (e.isDirectory() ? [e.name] : []));
  expect([...named].sort()).toEqual(folders('src').sort());
  for (const side of ['host', 'guest']) {
    const part = text.split(`    src/${side}/ `)[1]?.split('\n    src/')[0] ?? '';
    for (const name of folders(`src/${side}`)) expect(part, side).toContain(` ${name}/`);
  }
  for (const name of folders('c')) expect(text).toContain(`c/${name}/`);
});

it('programs are compiled in a clone by one set of flags, from files that are there', () => {
  const flags = '-target bpf -mcpu=v3 -O2 -g -Ic/include -I/usr/include/$(uname -m)-linux-gnu';
  const commands = documents.flatMap((file) =>
    [...read(file).matchAll(/clang (-target bpf [^`]*?)(?: \\)? -c (\S+\.bpf\.c)/g)].map((m) =>
      m.slice(1, 3),
    ),
  );
  expect(commands.length).toBeGreaterThan(3);
  for (const [given, source = ''] of commands) {
    expect(given, source).toBe(flags);
    expect(existsSync(source), source).toBe(true);
  }
});

it('what becomes of programs on NICs without a daemon is told in host-daemon.md, to which others point', () => {
  const section = read('docs/host-daemon.md').split('### NICs without a daemon')[1] ?? '';
  for (const mode of WITHOUT_DAEMON) expect(section).toContain(`| \`${mode}\``);
  for (const file of documents.filter(
    (f) => !f.endsWith('host-daemon.md') && !f.endsWith('SPECIFICATION.md'),
  ))
    expect(!/nics\.withoutDaemon/.test(read(file)) || /host-daemon\.md/.test(read(file)), file).toBe(true);
});

it('the version of the package has its section in CHANGELOG.md, with a date', () => {
  const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
  const releases = [...readFileSync('CHANGELOG.md', 'utf8').matchAll(/^## \[(.*?)\](?: - (.*))?$/gm)];
  expect(releases[0]?.[1]).toBe('Unreleased');
  expect(releases[1]?.[1]).toBe(version);
  for (const [, name, date] of releases.slice(1)) expect(date, name).toMatch(/^20\d\d-\d\d-\d\d$/);
});

it('docs/vmms.md says of every VMM and runtime that config knows whether it works, and names no other kind', () => {
  const text = read('docs/vmms.md');
  const vmms = {
    qemu: 'QEMU',
    libvirt: 'libvirt',
    'cloud-hypervisor': 'cloud-hypervisor',
    firecracker: 'Firecracker',
  };
  const katas = {
    'kata-qemu': 'Kata with QEMU',
    'kata-clh': 'Kata with cloud-hypervisor',
    'kata-fc': 'Kata with Firecracker',
  };
  for (const [kind, name] of Object.entries({ ...vmms, ...katas })) {
    expect(CONSUMERS).toHaveProperty(kind);
    expect(text, kind).toContain(`| ${name}`);
  }
  for (const [, kind = ''] of text.matchAll(/`(?:hyperturtle )?config ([a-z-]+)`/g))
    expect(CONSUMERS).toHaveProperty(kind);
});

describe('docs/benchmarks.md', () => {
  const rows = readFileSync('docs/benchmarks.md', 'utf8')
    .split('\n')
    .map((l) => l.split('|').map((c) => c.trim()))
    .filter((c) => c.length === 7 && /^[\d.,]+$/.test(c[2] ?? ''));

  it('says of each bar whether it was reached, as the figure has it', () => {
    expect(rows.length).toBeGreaterThan(25);
    for (const [, what, figure = '', bar = '', reached] of rows) {
      const [, sign, limit] = /^([<>]=) ([\d.]+)$/.exec(bar) ?? [];
      const n = Number(figure.replaceAll(',', ''));
      const expected = { '<=': n <= Number(limit), '>=': n >= Number(limit) }[sign ?? ''];
      expect(reached, what).toBe(expected === undefined ? '' : expected ? 'yes' : 'no');
    }
  });

  it('has the figures that README.md shows', () => {
    const shown = read('README.md').split('## Results')[1]?.split('## See it work')[0] ?? '';
    const figures = [...shown.matchAll(/\| ([\d.]+(?:%|; [\d.]+)?)[^|]*\| `hyperturtle bench/g)].map(
      (m) => m[1] ?? '',
    );
    expect(figures.length).toBeGreaterThan(6);
    for (const figure of figures.flatMap((f) => f.split('; '))) {
      const number = figure.endsWith('%') ? String(Number.parseInt(figure, 10) / 100) : figure;
      expect(
        rows.some(([, , f = '']) => f.startsWith(number)),
        figure,
      ).toBe(true);
    }
  });

  it('has the goals of bench all where it has some, else its bars, and says what its bars are', () => {
    const labels: Partial<Record<keyof Summary, [row: string, short: string]>> = {
      firstTouchSpeedup: ['first touch in order, times as fast as vanilla', 'first touch in order'],
      firstTouchSpeedupGroup1: ['in order with one page for each fault', 'one page for each fault'],
      medianVsL1: ["median first touch, as a multiple of L1's own", 'median'],
      switchesPerPageSequential: ['world switches a page, in order (vanilla: 6.00)', 'switches in order'],
      switchesPerPageRandom: ['world switches a page, at random (vanilla: 6.00)', 'switches at random'],
      bootReduction: ['boot of a nested guest, shorter by a share of', 'boot'],
      handledInL0: ['share of faults answered without entering L1', 'share of faults'],
      firstTouchSpeedupOverThp: ["the same against memory of the VMM's own, huge pages", ''],
      averageVsL1: ["the same, time as a multiple of L1's own", ''],
      firstVsSecondTouch: ['the same, time as a multiple of a second touch', ''],
      randomTouchSpeedupOverThp: ['at random, against that', ''],
      secondTouchVsVanilla: ['second touch of reused memory, time against vanilla', ''],
    };
    for (const { key, atLeast, atMost, goal } of BARS) {
      const [row, short] = labels[key] ?? [];
      if (row === undefined) continue;
      const words = (b: { atLeast?: number | undefined; atMost?: number | undefined }): string =>
        `${b.atLeast === undefined ? '<=' : '>='} ${b.atLeast ?? b.atMost}`;
      const found = rows.find(([, what]) => what === row)?.[3];
      expect(found, row).toBe(words(goal ?? { atLeast, atMost }));
      if (goal !== undefined && (atLeast ?? atMost) !== undefined)
        expect(read('docs/benchmarks.md'), row).toContain(`${short} ${words({ atLeast, atMost })}`);
    }
  });

  it('has only figures that the notes have', () => {
    let notes = '';
    for (const [, what, figure = '', , , link = ''] of rows) {
      const file = /\((results\/[\w-]+\.md)\)/.exec(link)?.[1];
      if (file !== undefined) notes = read(path.join('docs', file));
      // shares are percents there, and a count of nothing is a word
      const percent = `${Number((Number(figure) * 100).toFixed(2))}%`;
      if (figure !== '0')
        expect(
          [figure, percent].some((f) => notes.includes(f)),
          `${what}: ${figure}`,
        ).toBe(true);
    }
  });
});
