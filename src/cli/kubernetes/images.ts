/** `hyperturtle kubernetes images`: container images of this very program, made without a daemon. */
import type { Command } from 'commander';
import { codeFile } from '../../core/code-file.ts';
import { writeOut } from '../../core/output.ts';
import { printJson } from '../shared/values.ts';

interface Options {
  node?: string;
  debs?: string;
  modules?: string;
  json?: boolean;
}

export function registerImages(kubernetes: Command, version: string): void {
  kubernetes
    .command('images')
    .argument('<directory>', 'is made: an OCI image layout')
    .description('build the images hyperturtle-agent and hyperturtle-device-plugin, without a daemon')
    .option('--node <file>', 'Node.js for the images, an official build; default: the one that runs this')
    .option(
      '--debs <directory>',
      '.deb files of libc6, libgcc-s1, libstdc++6, busybox-static; default: apt gets them',
    )
    .option(
      '--modules <directory>',
      'KERNEL/hyperturtle_guest.ko below it, for an image hyperturtle-module too',
    )
    .option('--json', 'what the images consist of, as one line of JSON')
    .addHelpText(
      'after',
      `
The same sources, Node.js, packages and SOURCE_DATE_EPOCH give the same bytes.

Example:
  hyperturtle kubernetes images images && skopeo copy oci:images:hyperturtle-agent:${version} docker://registry.example/hyperturtle-agent:${version}`,
    )
    .action((directory: string, o: Options) => run(directory, o, version));
}

async function run(directory: string, o: Options, version: string): Promise<void> {
  const [{ buildImages }, { abortOnSignals }, { existsSync }, path, { HyperturtleError }] = await Promise.all(
    [
      import('../../install/images/build.ts'),
      import('../../core/lifecycle.ts'),
      import('node:fs'),
      import('node:path'),
      import('../../core/errors.ts'),
    ],
  );
  if (existsSync(directory))
    throw new HyperturtleError('HT_EXISTS', `${directory} is there already: name a directory to be made`);
  const signals = abortOnSignals();
  try {
    const made = await buildImages({
      packageRoot: codeFile('../..'),
      version,
      outDir: path.resolve(directory),
      node: o.node ?? process.execPath,
      debs: o.debs === undefined ? undefined : path.resolve(o.debs),
      modules: o.modules === undefined ? undefined : path.resolve(o.modules),
      epochS: Number(process.env['SOURCE_DATE_EPOCH'] ?? Math.floor(Date.now() / 1000)),
      signal: signals.signal,
    });
    if (o.json) printJson(made);
    else {
      const { debian, node, npm, layers } = made.contents;
      for (const l of layers) writeOut(`${l.digest} ${(l.size / 2 ** 20).toFixed(1)} MiB: ${l.from}\n`);
      writeOut(
        `${debian.map((d) => `${d.name} ${d.version}`).join(', ')}, Node.js ${node.version}, ${npm.length} npm packages\n`,
      );
      for (const name of made.names) writeOut(`oci:${directory}:${name}\n`);
    }
  } finally {
    signals.dispose();
  }
}
