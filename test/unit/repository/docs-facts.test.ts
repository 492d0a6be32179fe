/** What several documents say is said alike in each, and as the sources have it. */
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { TRIED_SERIES } from '../../../src/core/nested-kvm.ts';
import { CONSUMERS, CONSUMER_DEFAULTS } from '../../../src/guest/consumers.ts';
import { isPacketHook, HOOK_TABLE } from '../../../src/host/hooks.ts';
import { WITHOUT_DAEMON } from '../../../src/host/packets/chain-pins.ts';

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

it('what becomes of programs on NICs without a daemon is told in host-daemon.md, to which others point', () => {
  const section = read('docs/host-daemon.md').split('### NICs without a daemon')[1] ?? '';
  for (const mode of WITHOUT_DAEMON) expect(section).toContain(`| \`${mode}\``);
  for (const file of documents.filter(
    (f) => !f.endsWith('host-daemon.md') && !f.endsWith('SPECIFICATION.md'),
  ))
    expect(!/nics\.withoutDaemon/.test(read(file)) || /host-daemon\.md/.test(read(file)), file).toBe(true);
});

it('the version of the package has its section in CHANGELOG.md, with a date, and is that of the image', () => {
  const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
  const releases = [...readFileSync('CHANGELOG.md', 'utf8').matchAll(/^## \[(.*?)\](?: - (.*))?$/gm)];
  expect(releases[0]?.[1]).toBe('Unreleased');
  expect(releases[1]?.[1]).toBe(version);
  for (const [, name, date] of releases.slice(1)) expect(date, name).toMatch(/^20\d\d-\d\d-\d\d$/);
  expect(CONSUMER_DEFAULTS.image).toBe(`hyperturtle:${version}`);
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
