/** docs/troubleshooting.md: what it says that doctor says is what doctor says, and reasons are those that hooks have. */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { EXIT_REASON } from '../../../src/kernel/exit.ts';
import { NPF_REASON } from '../../../src/kernel/npf.ts';

const doc = readFileSync('docs/troubleshooting.md', 'utf8');
const said = [
  'bpf/kvm-abi.ts',
  'core/nested-kvm.ts',
  'guest/agent/doctor.ts',
  'guest/agent/fixes.ts',
  'guest/agent/no-index.ts',
  'host/daemon/doctor.ts',
  'host/daemon/doctor-host.ts',
]
  .map((f) => readFileSync(`src/${f}`, 'utf8'))
  .join('\n');

const rows = doc
  .slice(doc.indexOf('## Nothing is accelerated'), doc.indexOf('## What went wrong'))
  .split('\n')
  .filter((l) => l.startsWith('| ') && !l.startsWith('| symptom'))
  .map((l) => l.slice(1, -1).split('|'));

const quoted = (text: string): string[] => [...text.matchAll(/`([^`]+)`/g)].map((m) => m[1] ?? '');

it('quotes doctor as it speaks', () => {
  const all = rows.flatMap(([, doctor = '']) => quoted(doctor));
  expect(all.length).toBeGreaterThan(12);
  // names and values are in between; 'host: ' is said in one place for all
  for (const finding of all)
    for (const part of finding
      .replace(/^host: /, '')
      .split(/\.\.\.| is off| \(/)
      .map((p) => p.replace(/^\W+|\W+$/g, '')))
      if (part.length > 3) expect(said, finding).toContain(part);
});

it('names reasons that there are', () => {
  const all = rows
    .flatMap(([symptom = '']) => quoted(symptom))
    .filter((q) => /^[A-Z][A-Z0-9_]+$/.test(q) && q !== 'EVENTS');
  expect(all.length).toBeGreaterThan(6);
  for (const reason of all) expect({ ...NPF_REASON, ...EXIT_REASON }, reason).toHaveProperty(reason);
});
