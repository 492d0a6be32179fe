/** `hyperturtle lab images|modules|clean`: what labs are built from, and the cache that has it. */
import type { Command } from 'commander';
import { makeDirectory, writeOutput } from '../../core/files.ts';
import { writeOut } from '../../core/output.ts';
import { kernelOption } from '../shared/kernel-option.ts';

export function registerImages(lab: Command): void {
  lab
    .command('images')
    .description(
      'root file systems for nested guests, built from Debian packages; without names: which there are',
    )
    .argument('[names...]')
    .addOption(kernelOption('whose tools pack them'))
    .option('--output <directory>', 'write them there, each with its NAME.json; default: only into the cache')
    .option('--refresh', 'ask apt for newer packages')
    .action(images);
}

export function registerModules(lab: Command): void {
  lab
    .command('modules')
    .description('compile our kernel modules for a kernel, without a lab')
    .addOption(kernelOption('kernel to compile for'))
    .option('--output <directory>', 'write them there; default: only into the cache')
    .addHelpText(
      'after',
      `
Examples:
  hyperturtle lab modules --kernel 7.3            fetches headers and compiler the first time; no root needed
  hyperturtle lab modules --output /tmp/modules`,
    )
    .action(modules);
}

export function registerClean(lab: Command): void {
  lab
    .command('clean')
    .description('remove what dead labs left, snapshots, and what was not used for a week; running labs stay')
    .option('-a, --all', 'also all that was fetched and built (the next start fetches again)')
    .action(clean);
}

async function images(
  names: string[],
  o: { kernel: string; output?: string; refresh?: boolean },
): Promise<void> {
  const { L2_IMAGES } = await import('../../lab/l2-image-specs.ts');
  if (names.length === 0) {
    for (const [name, { packages, about }] of Object.entries(L2_IMAGES))
      writeOut(
        `${name}: ${packages.join(' ')}; ${about.memMib} MiB; port ${about.service?.port ?? 'none'}\n`,
      );
    return;
  }
  const [{ prepareArtifacts }, { l2ImageSpec }, { createProgress }, { abortOnSignals }, fs, path] =
    await Promise.all([
      import('../../lab/prepare.ts'),
      import('../../lab/l2-image.ts'),
      import('../../core/progress.ts'),
      import('../../core/lifecycle.ts'),
      import('node:fs/promises'),
      import('node:path'),
    ]);
  for (const name of names) l2ImageSpec(name);
  const { signal, dispose } = abortOnSignals();
  try {
    const progress = createProgress();
    if (o.output !== undefined) makeDirectory(o.output);
    const artifacts = await prepareArtifacts({ kernel: o.kernel, progress, signal });
    for (const name of names) {
      const image = await artifacts.buildImage(name, { progress, signal, refresh: o.refresh ?? false });
      if (o.output !== undefined) {
        await fs.copyFile(image.path, path.join(o.output, `${name}.erofs`));
        writeOutput(path.join(o.output, `${name}.json`), JSON.stringify(image.about));
      }
      const where = o.output === undefined ? image.path : path.join(o.output, `${name}.erofs`);
      writeOut(`${name} ${Math.ceil(image.bytes / (1 << 20))} MiB ${where}\n`);
    }
  } finally {
    dispose();
  }
}

async function modules(o: { kernel: string; output?: string }): Promise<void> {
  const [{ buildModules }, { createProgress }, { abortOnSignals }, fs, path] = await Promise.all([
    import('../../lab/prepare.ts'),
    import('../../core/progress.ts'),
    import('../../core/lifecycle.ts'),
    import('node:fs/promises'),
    import('node:path'),
  ]);
  const { signal, dispose } = abortOnSignals();
  try {
    if (o.output !== undefined) makeDirectory(o.output);
    const built = await buildModules({ kernel: o.kernel, progress: createProgress(), signal });
    for (const [name, file] of built) {
      const to = o.output === undefined ? file : path.join(o.output, name);
      if (to !== file) await fs.copyFile(file, to);
      writeOut(`${to}\n`);
    }
  } finally {
    dispose();
  }
}

/** What `clean` leaves, as it may be wanted again: images and trees of kernels and tools. */
const UNUSED_DAYS = 7;

async function clean(o: { all?: boolean }): Promise<void> {
  const [{ cleanDeadLabs }, { removeSnapshots, removeCache }, { cacheRoot, dropUnusedEntries }] =
    await Promise.all([
      import('../../lab/registry.ts'),
      import('../../lab/snapshot.ts'),
      import('../../lab/xdg.ts'),
    ]);
  const dead = await cleanDeadLabs();
  if (dead.length > 0) writeOut(`removed dead labs: ${dead.join(', ')}\n`);
  const root = cacheRoot();
  if (o.all) {
    await removeCache(root);
    writeOut(`removed ${root}\n`);
    return;
  }
  const unused = await dropUnusedEntries(root, UNUSED_DAYS);
  if (unused > 0) writeOut(`removed ${unused} files and trees that were not used for ${UNUSED_DAYS} days\n`);
  const freed = await removeSnapshots(root);
  writeOut(`removed ${freed.count} snapshots (${Math.round(freed.bytes / (1 << 20))} MiB)\n`);
}
