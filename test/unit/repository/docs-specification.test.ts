/** docs/SPECIFICATION.md: the tests that it names are there. */
import { existsSync, readFileSync } from 'node:fs';
import { expect, it } from 'vitest';

const doc = readFileSync('docs/SPECIFICATION.md', 'utf8');

/** Claims of a part of the document, each with its proof, in one line. */
const claimsOf = (part: string): string[] =>
  part
    .split(/^- /m)
    .slice(1)
    .map((claim) => claim.replace(/\s+/g, ' '));
const brought = claimsOf(doc.slice(doc.indexOf('## What people bring')));

it('names tests of what people bring that there are, one at least for each claim', () => {
  expect(brought).toHaveLength(38);
  for (const row of brought) {
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

it('names every test by its path below test/', () => {
  const files = [...doc.matchAll(/`([\w./-]+\.test\.ts)`/g)];
  expect(files.length).toBeGreaterThan(150);
  for (const [, file = ''] of files) expect(existsSync(`test/${file}`), file).toBe(true);
});

it('has a proof for every claim, or says that it is pending', () => {
  const claims = claimsOf(doc);
  expect(claims.length).toBeGreaterThan(190);
  for (const claim of claims) expect(claim).toMatch(/ - \*\*Proof:\*\* \S/);
});

it('names no test but as code', () => {
  const prose = doc.replace(/`[^`]*`/g, '').replace(/\]\([^)]*\)/g, ']');
  expect(prose.match(/\b(?:unit|integration|lab|intel|packages)\/[\w/-]+/g)).toBeNull();
});
