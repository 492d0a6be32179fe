/** What an Intel lab needs besides the images of all labs: Bochs and its ROMs, a relay for its ports, a disc to boot from. */
import { copyFile, mkdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { HyperturtleError } from '../core/errors.ts';
import { exec } from '../core/exec.ts';
import { apartSet, apartTree } from './apart.ts';
import type { BochsParts } from './artifacts.ts';
import { BOCHS_MODEL, isolinuxConfig } from './bochs-config.ts';
import type { BootImages, ImageContext } from './images.ts';
import { kernelArgs } from './init-scripts.ts';
import { BOCHS_SET } from './packages.ts';
import { toolEnv, toolPath, TRIPLET } from './tools.ts';
import type { ToolsTree } from './tools.ts';
import { cacheEntry, contentKey } from './xdg.ts';

export async function bochsParts(
  c: ImageContext,
  images: BootImages,
  { model = BOCHS_MODEL, refresh }: { model: string | undefined; refresh: boolean },
): Promise<BochsParts> {
  if (c.kernel !== c.l2Kernel)
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      'an Intel lab runs stock kernels: with sanitizers a boot takes more than half an hour there',
    );
  const apart = { cacheRoot: c.cacheRoot, progress: c.progress, signal: c.signal, refresh };
  const { set, tree } = await apartTree(apart, await apartSet(apart, BOCHS_SET));
  const at = (p: string): string => path.join(tree.root, p);
  const env = {
    ...toolEnv(tree),
    // from its directory (`cwd`): it copies the path into a buffer that a long one overflows
    LTDL_LIBRARY_PATH: `usr/lib/${TRIPLET}/bochs/plugins`,
    BXSHARE: 'usr/share/bochs',
    // its screen is drawn for nobody, into a file
    TERM: 'vt100',
    TERMINFO: at('usr/lib/terminfo'),
  };
  return {
    cwd: tree.root,
    bochs: { bin: toolPath(tree, 'bochs-bin'), args: [], env },
    relay: { bin: toolPath(tree, 'socat'), args: [], env: toolEnv(tree) },
    biosRom: at('usr/share/bochs/BIOS-bochs-latest'),
    vgaRom: at('usr/share/vgabios/vgabios.bin'),
    iso: await bootDisc(c, images, { tree, model }),
    version: set.debs.find((d) => d.name === 'bochs')?.version ?? 'unknown',
  };
}

async function bootDisc(
  c: ImageContext,
  images: BootImages,
  { tree, model }: { tree: ToolsTree; model: string },
): Promise<string> {
  const config = isolinuxConfig(kernelArgs(0), c.kernel.kernelVersion, model);
  const key = contentKey([tree.key, images.key, config]);
  const spec = { folder: 'images', name: `disc-${c.kernel.kernelVersion}`, key, suffix: '.iso', keep: 3 };
  return cacheEntry(c.cacheRoot, { ...spec, signal: c.signal }, async (staging) => {
    const files = `${staging}.tree`;
    const to = (p: string): string => path.join(files, p);
    try {
      await rm(files, { recursive: true, force: true });
      await mkdir(to('isolinux'), { recursive: true });
      await copyFile(path.join(tree.root, 'usr/lib/ISOLINUX/isolinux.bin'), to('isolinux/isolinux.bin'));
      await copyFile(
        path.join(tree.root, 'usr/lib/syslinux/modules/bios/ldlinux.c32'),
        to('isolinux/ldlinux.c32'),
      );
      await writeFile(to('isolinux/isolinux.cfg'), config);
      await copyFile(path.join(c.kernel.root, 'boot', `vmlinuz-${c.kernel.kernelVersion}`), to('vmlinuz'));
      await copyFile(await images.ataInitramfs(), to('initrd'));
      const boot = ['-b', 'isolinux/isolinux.bin', '-c', 'isolinux/boot.cat', '-no-emul-boot'];
      const table = ['-boot-load-size', '4', '-boot-info-table'];
      await exec(
        toolPath(tree, 'xorriso'),
        ['-as', 'mkisofs', '-quiet', '-o', staging, ...boot, ...table, files],
        {
          env: toolEnv(tree),
          timeoutMs: 120_000,
          signal: c.signal,
        },
      );
    } finally {
      await rm(files, { recursive: true, force: true });
    }
  });
}
