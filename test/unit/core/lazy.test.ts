/** Schemas are made on first use (src/core/lazy.ts): a command that needs none must not pay for those that it could. */
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { expect, it, vi } from 'vitest';
import type * as Zod from 'zod';
import { lazy } from '../../../src/core/lazy.ts';

const counted = vi.hoisted(() => ({ schemas: 0 }));

/** As zod is, and counts the schemas that are made. */
vi.mock('zod', async (original) => {
  const zod = await original<typeof Zod>();
  const z = new Proxy(zod.z, {
    get(target, key) {
      const found: unknown = Reflect.get(target, key);
      // classes begin with a capital letter
      if (typeof found !== 'function' || !/^[a-z]/.test(String(key))) return found;
      return (...args: unknown[]): unknown => {
        const made: unknown = Reflect.apply(found, target, args);
        if (typeof made === 'object' && made !== null && '_zod' in made) counted.schemas++;
        return made;
      };
    },
  });
  return { ...zod, z };
});

const SRC = path.resolve('src');
const WITH_SCHEMAS = readdirSync(SRC, { recursive: true, encoding: 'utf8' })
  .filter(
    (f) => f.endsWith('.ts') && /^import \{ z \} from 'zod'/m.test(readFileSync(path.join(SRC, f), 'utf8')),
  )
  .sort();

/** Imports the file, and gives the number of schemas that this made. */
async function madeByImport(file: string): Promise<number> {
  const before = counted.schemas;
  await import(pathToFileURL(path.join(SRC, file)).href);
  return counted.schemas - before;
}

it('makes a value when it is first asked for, and once', () => {
  let made = 0;
  const value = lazy(() => {
    made++;
    return undefined;
  });
  expect(made).toBe(0);
  expect([value(), value(), made]).toEqual([undefined, undefined, 1]);
});

it('tries again when making it failed', () => {
  let tries = 0;
  const value = lazy(() => {
    if (++tries === 1) throw new Error('not yet');
    return 'made';
  });
  expect(value).toThrow('not yet');
  expect(value()).toBe('made');
});

it('counts schemas as they are made', async () => {
  const { METHODS } = await import('../../../src/wire/schema.ts');
  const before = counted.schemas;
  METHODS.hello.params();
  expect(counted.schemas - before).toBeGreaterThan(5);
  const after = counted.schemas;
  METHODS.hello.params();
  expect(counted.schemas).toBe(after);
});

it.each(WITH_SCHEMAS)('no schema is made as %s is imported', async (file) => {
  expect(await madeByImport(file)).toBe(0);
});
