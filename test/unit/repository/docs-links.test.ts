/** The documents: what they link to is there, and each is found from docs/README.md. */
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';

const documents = [
  ...readdirSync('docs', { recursive: true, encoding: 'utf8' })
    .filter((f) => f.endsWith('.md'))
    .map((f) => path.join('docs', f)),
  ...['README.md', 'CONTRIBUTING.md', 'SECURITY.md', 'CHANGELOG.md'],
];

const linksOf = (file: string): string[] =>
  [...readFileSync(file, 'utf8').matchAll(/\]\(([^)#\s]+)(?:#[^)]*)?\)/g)]
    .map((m) => m[1] ?? '')
    .filter((to) => !/^https?:/.test(to));

it.each(documents)('%s links only to what is there', (file) => {
  for (const to of linksOf(file)) expect(existsSync(path.join(path.dirname(file), to)), to).toBe(true);
});

it('every document is found from docs/README.md', () => {
  const known = ['docs/README.md', 'docs/decisions/README.md', 'docs/results/README.md'].flatMap((file) =>
    linksOf(file).map((to) => path.normalize(path.join(path.dirname(file), to))),
  );
  for (const file of documents.filter((f) => f.startsWith('docs/') && f !== 'docs/README.md'))
    expect(known, 'docs/README.md').toContain(file);
});
