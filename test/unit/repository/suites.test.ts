/** `npm run test:soak` runs every test that has a larger number for it. */
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import config from '../../../vitest.config.ts';

interface Project {
  test: { name: string; include: string[] };
}

it('every file that asks soak() for a number is in the soak suite', () => {
  const files = ['integration', 'lab', 'intel'].flatMap((dir) =>
    readdirSync(path.join('test', dir)).map((name) => path.join('test', dir, name)),
  );
  const asking = files.filter((f) => readFileSync(f, 'utf8').includes('support/scale.ts'));
  expect(asking.length).toBeGreaterThan(8);
  const projects = (config as { test: { projects: Project[] } }).test.projects;
  const soak = projects.find(({ test }) => test.name === 'soak')?.test.include ?? [];
  expect(asking.filter((f) => !soak.includes(f))).toEqual([]);
});
