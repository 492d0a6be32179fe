/** What `npm pack` takes, and manual pages of every command. */
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { Command } from 'commander';
import { expect, it } from 'vitest';
import { manPages } from '../../../src/cli/docs/man.ts';
import { registerKeys } from '../../../src/cli/keys/command.ts';
import { registerMaps } from '../../../src/cli/maps/command.ts';

it('the npm package has what is run and what modules and lab are built from, and nothing else', () => {
  const text = execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const [pack] = JSON.parse(text) as { files: { path: string }[] }[];
  const files = pack!.files.map((f) => f.path);
  const expected =
    /^(dist\/src\/.*\.(js|cjs|d\.ts|map)|dist\/src\/programs\/[\w-]+\.bytecode|dist\/src\/licences\.json|dist\/bpf\/[\w-]+\.bpf\.o|dist-files\/.*|c\/.*\.(c|h|S|mk)|c\/\w+\/Kbuild|docs\/.*\.(md|svg|png|json)|LICENSE|LICENSES\/.*\.txt|README\.md|CHANGELOG\.md|package\.json)$/;
  expect(files.filter((f) => !expected.test(f))).toEqual([]);
  const below = (dir: string): string[] =>
    readdirSync(dir, { recursive: true, withFileTypes: true })
      .filter((e) => e.isFile())
      .map((e) => `${e.parentPath}/${e.name}`);
  for (const f of [...below('dist-files'), ...below('c').filter((n) => /\.(c|h|S)$|Kbuild$/.test(n))])
    expect(files).toContain(f);
  // npm itself takes seconds to start where other work goes on
}, 60_000);

it('every command has its place in a manual page, with options and examples, and no line that roff would take', () => {
  const program = new Command('hyperturtle').description('d').version('1.2.3');
  registerMaps(program);
  registerKeys(program);
  program.command('odd').description('.a line\\with -x').addHelpText('after', "\nExample:\n.x\n'y\n  z");
  const pages = manPages(program);
  expect([...pages.keys()].sort()).toEqual(
    ['-keygen', '-map', '-odd', '-sign', '-verify', ''].map((n) => `man1/hyperturtle${n}.1`),
  );
  const map = pages.get('man1/hyperturtle-map.1') ?? '';
  expect(map).toContain('.TH HYPERTURTLE\\-MAP 1');
  for (const c of ['get', 'set', 'delete', 'dump', 'watch'])
    expect(map, c).toContain(`.B hyperturtle map ${c}`);
  expect(map).toContain('.B \\-\\-json');
  const odd = pages.get('man1/hyperturtle-odd.1') ?? '';
  expect(odd).toContain('\\&.a line\\ewith \\-x');
  expect(odd).toContain("\\&.x\n\\&'y\n");
  expect(pages.get('man1/hyperturtle.1')).toContain('.BR hyperturtle\\-map (1)');
});
