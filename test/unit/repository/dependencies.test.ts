import { readFileSync } from 'node:fs';
import path from 'node:path';
import { satisfies, minVersion } from 'semver';
import { expect, it } from 'vitest';

const ROOT = path.resolve(import.meta.dirname, '../../..');

interface Engines {
  engines?: { node?: string };
}
const read = (file: string): unknown => JSON.parse(readFileSync(path.join(ROOT, file), 'utf8'));

it('no package in the lock file asks for a newer Node.js than we do', () => {
  const { engines } = read('package.json') as Engines;
  const oldest = minVersion(engines!.node!)!;
  const { packages } = read('package-lock.json') as { packages: Record<string, Engines> };
  const asking = Object.entries(packages).filter(([, p]) => p.engines?.node !== undefined);
  expect(asking.length).toBeGreaterThan(100);
  const newer = asking.filter(([, p]) => !satisfies(oldest, p.engines!.node!));
  expect(newer.map(([name, p]) => `${name} ${p.engines!.node}`)).toEqual([]);
});
