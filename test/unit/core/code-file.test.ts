import { existsSync, readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { codeFile } from '../../../src/core/code-file.ts';

const ROOT = path.resolve(import.meta.dirname, '../../..');
const read = (file: string): string => readFileSync(path.join(ROOT, file), 'utf8');
const sources = readdirSync(path.join(ROOT, 'src'), { recursive: true, encoding: 'utf8' }).filter(
  (f) => f.endsWith('.ts') && !f.startsWith('dashboard/page/'),
);

describe('files of code', () => {
  it('are found from the root of the package, whichever file asks', () => {
    expect(codeFile('../package.json')).toBe(path.join(ROOT, 'package.json'));
    expect(existsSync(codeFile('cli/main.ts'))).toBe(true);
  });

  it('that are started by their path are programs of the bundle, and no others are', () => {
    const [, list = ''] = /^const PROGRAMS = \[$([^\]]*)/m.exec(read('scripts/bundle.mjs')) ?? [];
    const programs = [...list.matchAll(/^ {2}'([a-z/-]+)',$/gm)];
    const named = sources.flatMap((f) =>
      [...read(`src/${f}`).matchAll(/programFile\('([^'.]+)'\)/g)].map((m) => m[1]!),
    );
    const { bin } = JSON.parse(read('package.json')) as { bin: Record<string, string> };
    const started = [...Object.values(bin).map((f) => /^dist\/src\/(.*)\.cjs$/.exec(f)?.[1] ?? f), ...named];
    expect(programs.map((m) => m[1]!).sort()).toEqual([...new Set(started)].sort());
  });

  it('that are started are never named by what only a tree without bundles has', () => {
    expect(sources.filter((f) => /codeFile\('[^']+\.js'\)/.test(read(`src/${f}`)))).toEqual([]);
  });

  it('are named by this function alone: a path beside the module is another one in a bundle', () => {
    const others = sources.filter((f) => read(`src/${f}`).includes('import.meta'));
    // the second looks upwards for package.json
    expect(others.sort()).toEqual(['core/code-file.ts', 'lab/payload-app.ts']);
  });
});
