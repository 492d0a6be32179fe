/** docs/SPECIFICATION.md: the tests that it names are there. */
import { existsSync, readFileSync } from 'node:fs';
import { expect, it } from 'vitest';

const doc = readFileSync('docs/SPECIFICATION.md', 'utf8');
const brought = doc.slice(doc.indexOf('## What people bring'));

it('names tests of what people bring that there are, one at least for each claim', () => {
  const rows = brought.split('\n').filter((l) => l.startsWith('| ') && !l.startsWith('| claim'));
  expect(rows).toHaveLength(38);
  for (const row of rows) {
    const named = [...row.matchAll(/`([\w./-]+\.test\.ts)`: "([^"]+)"/g)];
    expect(named.length, row).toBeGreaterThan(0);
    for (const [, file = '', name = ''] of named) {
      const path = `test/${file}`;
      expect(existsSync(path), path).toBe(true);
      // quoted as they are in the file, in one of three ways
      const text = readFileSync(path, 'utf8').replaceAll("\\'", "'");
      expect(
        ["'", '"', '`'].some((q) => text.includes(`${q}${name}${q}`)),
        `${file}: ${name}`,
      ).toBe(true);
    }
  }
});

it('names files of tests that there are', () => {
  const files = [...doc.matchAll(/`((?:unit|integration|intel|lab|packages)\/[\w./-]+\.test\.ts)`/g)];
  expect(files.length).toBeGreaterThan(100);
  for (const [, file = ''] of files) expect(existsSync(`test/${file}`), file).toBe(true);
});
