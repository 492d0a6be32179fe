/** `hyperturtle host packages`: the Debian packages of this very program, for machines without npm. */
import type { Command } from 'commander';
import { codeFile } from '../../core/code-file.ts';
import { writeOut } from '../../core/output.ts';
import type { Texts } from './command.ts';

export function registerPackages(host: Command, version: string, texts: Texts): void {
  host
    .command('packages')
    .argument('<dir>', 'where to put them')
    .description('build the Debian packages hyperturtle and hyperturtle-dkms')
    .addHelpText(
      'after',
      '\nExample:\n  hyperturtle host packages out && apt install ./out/*.deb\n\nThe same sources and SOURCE_DATE_EPOCH give the same packages. DEBFULLNAME and DEBEMAIL: their maintainer.',
    )
    .action(async (dir: string) => {
      const [{ buildDebs }, { abortOnSignals }, path, { makeDirectory }] = await Promise.all([
        import('../../install/deb.ts'),
        import('../../core/lifecycle.ts'),
        import('node:path'),
        import('../../core/files.ts'),
      ]);
      const signals = abortOnSignals();
      try {
        makeDirectory(dir);
        const made = await buildDebs({
          packageRoot: codeFile('../..'),
          version,
          texts: await texts('/usr/share'),
          outDir: path.resolve(dir),
          maintainer: `${process.env['DEBFULLNAME'] ?? 'HyperTurtle'} <${process.env['DEBEMAIL'] ?? 'root@localhost'}>`,
          epochS: Number(process.env['SOURCE_DATE_EPOCH'] ?? Math.floor(Date.now() / 1000)),
          signal: signals.signal,
        });
        for (const deb of made) writeOut(`${deb}\n`);
      } finally {
        signals.dispose();
      }
    });
}
