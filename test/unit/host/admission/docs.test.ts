/** docs/admission.md says all that the code does: each rule, each hook with its helpers and limits. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { RULES } from '../../../../src/host/admission/verdict.ts';
import { HOOK_TABLE } from '../../../../src/host/hooks.ts';

const text = readFileSync(path.resolve(import.meta.dirname, '../../../../docs/admission.md'), 'utf8');

describe('docs/admission.md', () => {
  it('has each rule, and no other', () => {
    const documented = Array.from(text.matchAll(/^\| `([a-z-]+)` \| (?!`)/gm), (m) => m[1]);
    expect(documented.sort()).toEqual([...RULES].sort());
  });

  it('has each hook with its section, maps, helpers and limits', () => {
    for (const h of HOOK_TABLE) {
      const row = text.split('\n').find((line) => line.startsWith(`| \`${h.name}\` | \`${h.section}\``));
      const cells = row?.split('|').map((c) => c.trim()) ?? [];
      const list = (cell: string | undefined): string[] => (cell ?? '').split(', ').sort();
      expect(list(cells[4])).toEqual(h.mapTypes.map((m) => m.name).sort());
      expect(list(cells[5])).toEqual(h.helpers.map((x) => x.name).sort());
      expect([cells[6], cells[7]]).toEqual([String(h.instructions), String(h.verifiedInstructions)]);
    }
  });
});
