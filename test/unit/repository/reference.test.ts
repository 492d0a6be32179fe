/** docs/reference.md is what the sources say, and the tables have every variable that is read. */
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import { PLACES } from '../../../src/core/default-paths.ts';
import { VARIABLES } from '../../../src/core/environment.ts';
import { ONE_WHEN_WRONG, referencePage } from '../../support/reference.ts';
import { TEST_VARIABLES } from '../../support/variables.ts';

const read = (...dirs: string[]): string[] => {
  const files = dirs.flatMap((dir) =>
    readdirSync(dir, { recursive: true, encoding: 'utf8' }).map((name) => path.join(dir, name)),
  );
  const texts = files.filter((f) => f.endsWith('.ts')).map((f) => readFileSync(f, 'utf8'));
  return [...new Set([...texts, readFileSync('vitest.config.ts', 'utf8')].flatMap(namesIn))].sort();
};
const namesIn = (text: string): string[] =>
  [...text.matchAll(/(?:process\.)?env\['((?:HT|HYPERTURTLE)_\w+)'\]/g)].map((m) => m[1] ?? '');

it('docs/reference.md is made of the sources as they are (npm run reference)', async () => {
  await expect(referencePage()).toMatchFileSnapshot('../../../docs/reference.md');
});

it('every command that ends with 1 when it found something wrong is told', () => {
  const files = readdirSync('src/cli', { recursive: true, encoding: 'utf8' }).filter((f) =>
    f.endsWith('.ts'),
  );
  const one = files.filter((f) => readFileSync(path.join('src/cli', f), 'utf8').includes('exitCode = 1;'));
  expect(one.filter((f) => f !== 'cni-main.ts').sort()).toEqual(
    [...new Set(Object.values<string>(ONE_WHEN_WRONG))].sort(),
  );
});

it('a program reads a variable of our own through the table only', () => {
  expect(read('src').filter((name) => !(name in TEST_VARIABLES))).toEqual([]);
  for (const name of Object.keys(VARIABLES)) expect(referencePage()).toContain(`\`${name}\``);
});

it('a place has its path in one file', () => {
  const files = readdirSync('src', { recursive: true, encoding: 'utf8' }).filter((f) => f.endsWith('.ts'));
  for (const { path: place } of Object.values(PLACES))
    expect(
      files.filter((f) => readFileSync(path.join('src', f), 'utf8').includes(`'${place}'`)),
      place,
    ).toEqual(['core/default-paths.ts']);
});

it('every variable that a test reads is in its table, and no other', () => {
  const tests = ['unit', 'integration', 'lab', 'intel', 'packages', 'debian13', 'support'];
  expect(read(...tests.map((t) => `test/${t}`))).toEqual(Object.keys(TEST_VARIABLES).sort());
});
