/** `hyperturtle kubernetes manifests|chart`: what a cluster is given, printed or written. */
import type { Command } from 'commander';
import { writeOut } from '../../core/output.ts';

interface Options {
  values?: string;
  namespace: string;
}

const NAMESPACE = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/;

export function registerManifests(kubernetes: Command, version: string): void {
  kubernetes
    .command('manifests')
    .description('print plain manifests: agent, device plugin, CNI plugin, runtime class, as a DaemonSet')
    .option('--values <file>', 'values other than the defaults, as for the chart (YAML)')
    .option('--namespace <name>', 'where it is to run', 'hyperturtle')
    .addHelpText('after', '\nExample:\n  hyperturtle kubernetes manifests | kubectl apply --server-side -f -')
    .action(async (o: Options) => {
      const { manifestsOf } = await import('../../kubernetes/manifests/objects.ts');
      const { yamlOf } = await import('../../kubernetes/manifests/template.ts');
      if (!NAMESPACE.test(o.namespace)) {
        const { HyperturtleError } = await import('../../core/errors.ts');
        throw new HyperturtleError(
          'HT_USAGE',
          `--namespace: lower-case letters, digits and dashes expected, '${o.namespace}' found`,
        );
      }
      writeOut(yamlOf(manifestsOf(await valuesOf(version, o.values), o.namespace)));
    });
  kubernetes
    .command('chart')
    .argument('<directory>', 'is made')
    .description('write a chart for Helm, of the same objects')
    .addHelpText(
      'after',
      '\nExample:\n  hyperturtle kubernetes chart chart && helm install hyperturtle chart --namespace hyperturtle --create-namespace',
    )
    .action((directory: string) => writeChart(directory, version));
}

async function valuesOf(version: string, file: string | undefined) {
  const { chartValues } = await import('../../kubernetes/manifests/values.ts');
  if (file === undefined) return chartValues(version, {});
  const [{ parse }, { readInput }, { HyperturtleError, messageOf }] = await Promise.all([
    import('yaml'),
    import('../../core/files.ts'),
    import('../../core/errors.ts'),
  ]);
  const text = readInput(file, 'values as YAML expected').toString('utf8');
  try {
    return chartValues(version, parse(text));
  } catch (e) {
    throw new HyperturtleError('HT_CONFIG', `${file}: ${messageOf(e)}`, { cause: e });
  }
}

async function writeChart(directory: string, version: string): Promise<void> {
  const [{ chartFiles }, { existsSync, mkdirSync, writeFileSync }, path, { HyperturtleError }] =
    await Promise.all([
      import('../../kubernetes/manifests/chart.ts'),
      import('node:fs'),
      import('node:path'),
      import('../../core/errors.ts'),
    ]);
  if (existsSync(directory))
    throw new HyperturtleError('HT_EXISTS', `${directory} is there already: name a directory to be made`);
  for (const [name, text] of chartFiles(version)) {
    const file = path.join(directory, name);
    mkdirSync(path.dirname(file), { recursive: true });
    writeFileSync(file, text);
  }
  writeOut(`${directory}: chart hyperturtle ${version}\n`);
}
