/** `npm run check` with its real configuration, on a project of a few lines: one plant for each gate. */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const ROOT = path.resolve(import.meta.dirname, '../..');
const CONFIGURATION = [
  'tsconfig.json',
  'eslint.config.mjs',
  'biome.json',
  'knip.json',
  'cspell.json',
  'cspell-words.txt',
  '.markdownlint-cli2.jsonc',
  'scripts/check.mjs',
  'scripts/document-lines.mjs',
  'scripts/structure.mjs',
  'scripts/words.mjs',
  'src/dashboard/page/tsconfig.json',
];
const CLEAN: Readonly<Record<string, string>> = {
  'README.md': '# A project\n\nIt says hello.\n',
  'src/core/hello.ts':
    "/** A greeting. */\nexport const hello = (): Promise<string> => Promise.resolve('hello');\n",
  'src/cli/main.ts':
    "import { hello } from '../core/hello.ts';\n\nawait hello();\n\nexport const started = true;\n",
  'src/dashboard/page/main.ts': 'document.title = String(1);\n',
};

/** What `unused` would rightly miss in a project of three files. */
const NOT_USED = [
  '@types/semver',
  '@kubernetes/client-node',
  '@opentelemetry/exporter-trace-otlp-http',
  '@opentelemetry/resources',
  '@opentelemetry/sdk-trace',
  'fast-check',
  'kubernetes-models',
  'playwright-core',
  'rolldown',
  'semver',
];
const manifest = (): string => {
  const whole = JSON.parse(readFileSync(path.join(ROOT, 'package.json'), 'utf8')) as {
    devDependencies: Record<string, string>;
  };
  const devDependencies = Object.fromEntries(
    Object.entries(whole.devDependencies).filter(([name]) => !NOT_USED.includes(name)),
  );
  return JSON.stringify({ ...whole, dependencies: {}, devDependencies }, null, 2) + '\n';
};

let dir = '';
const write = (file: string, text: string): void => {
  mkdirSync(path.dirname(path.join(dir, file)), { recursive: true });
  writeFileSync(path.join(dir, file), text);
};

beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), 'hyperturtle-gates-'));
  for (const file of CONFIGURATION) cpSync(path.join(ROOT, file), path.join(dir, file));
  for (const [file, text] of Object.entries(CLEAN)) write(file, text);
  write('package.json', manifest());
  symlinkSync(path.join(ROOT, 'node_modules'), path.join(dir, 'node_modules'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function check(...args: string[]): { status: number | null; said: string } {
  const r = spawnSync(process.execPath, ['scripts/check.mjs', ...args], { cwd: dir, encoding: 'utf8' });
  return { status: r.status, said: r.stdout + r.stderr };
}

// type checks and lint on a machine that runs other tests
describe('npm run check', { timeout: 300_000 }, () => {
  it('passes what is as it should be', () => {
    const { status, said } = check('--except', 'unit');
    expect(said).not.toContain('FAILED');
    expect(status).toBe(0);
  });

  // put together here, as the gates read this file too
  it.each([
    ['a type error', 'types', 'src/core/hello.ts', "export const hello = (): number => 'x';\n", /TS2322/],
    [
      'a lint error',
      'lint',
      'src/cli/main.ts',
      "import { hello } from '../core/hello.ts';\n\nhello();\n",
      /no-floating-promises/,
    ],
    [
      'an upward import',
      'lint',
      'src/core/hello.ts',
      "import { started } from '../cli/main.ts';\n\nexport const hello = (): Promise<boolean> => Promise.resolve(started);\n",
      /core must not import cli/,
    ],
    [
      'an unused export',
      'unused',
      'src/core/hello.ts',
      `${CLEAN['src/core/hello.ts']}\nexport const nobodyAsks = 1;\n`,
      /nobodyAsks/,
    ],
    [
      'a misspelt word',
      'spelling',
      'README.md',
      `# A project\n\nIt ${'get'.replace('et', 'ett')} packets.\n`,
      /Unknown word/,
    ],
    ['a banned word', 'words', 'README.md', `# A project\n\nIt starts ${'an' + 'ew'}.\n`, /write: again/],
    [
      'an import circle',
      'structure',
      'src/core/hello.ts',
      "import { started } from '../cli/main.ts';\n\nexport const hello = (): boolean => started;\n",
      /import circle: src\/cli\/main.ts, src\/core\/hello.ts/,
    ],
    [
      'a function of 61 lines',
      'structure',
      'src/cli/main.ts',
      `export function long(): void {\n${'  void 0;\n'.repeat(59)}}\n`,
      /src\/cli\/main.ts: long: function of 61 lines, 60 at most/,
    ],
    [
      'a file of 401 lines',
      'structure',
      'src/cli/main.ts',
      '// more\n'.repeat(401),
      /src\/cli\/main.ts: file of 401 lines, 400 at most/,
    ],
    [
      'a unit test in no room of src',
      'structure',
      'test/unit/kitchen/soup.test.ts',
      '// none\n',
      /test\/unit\/kitchen: there is no src\/kitchen/,
    ],
    ['a heading with no text before the next', 'markdown', 'README.md', '# A project\n### Parts\n', /MD001/],
    [
      'a line of prose that is too long',
      'markdown',
      'README.md',
      `# A project\n\nIt says ${'hello '.repeat(20).trim()}.\n`,
      /README.md:3: 128 columns, 100 at most/,
    ],
    [
      'tables with long rows alone',
      'markdown',
      'README.md',
      `# A project\n\n| a |\n|---|\n${`| ${'word '.repeat(30)}|\n`.repeat(9)}`,
      /documents: 90% of all lines have up to 153 columns/,
    ],
    ['another layout', 'format', 'src/cli/main.ts', 'export  const started = true\n', /started/],
  ])('fails on %s', (_, step, file, text, message) => {
    write(file, text);
    const { status, said } = check(step);
    expect(said).toMatch(message);
    expect(said).toContain(`* ${step}: FAILED`);
    expect(status).toBe(1);
  });

  it('refuses a name that is no gate, with those that there are', () => {
    const { status, said } = check('spell');
    expect(said).toMatch(/^usage: npm run check .*unit, lint, types, spelling/);
    expect(status).toBe(2);
  });
});
