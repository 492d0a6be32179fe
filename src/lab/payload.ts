/**
 * The payload disk: all of our code that L0, L1 and L2 run, as one erofs image. It is no part of a snapshot, so a
 * changed line costs a compile and no boot. Built from the sources in use; cached by content.
 */
import { chmod, cp, mkdir, readdir, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { HyperturtleError } from '../core/errors.ts';
import { IN_GUEST, PAYLOAD_DISK_BYTES } from './artifacts.ts';
import type { BuiltPayload } from './artifacts.ts';
import { MODULE_SIDES, buildFuzzPrograms, buildL2Programs, buildModule, buildPrograms } from './build.ts';
import type { Built, BuildContext } from './build.ts';
import { busybox, makeErofs } from './images.ts';
import type { ImageContext } from './images.ts';
import { cpioArchive, cpioDevice, cpioDir, cpioFile, cpioLink } from '../core/cpio.ts';
import { ModuleTree } from './kernel.ts';
import { L2_APPLETS, L2_MODULES, L2_NET_MODULES, L2_PLUG_MODULES, l2Init, l2Net } from './l2-init.ts';
import { startNode } from './node-files.ts';
import { copyDependencies } from '../install/dependencies.ts';
import { buildApp, findProjectRoot } from './payload-app.ts';
import { withStep } from '../core/progress.ts';
import { cacheEntry, contentKey, withWorkDirectory } from './xdg.ts';

/** Raised when the way of packing changes. */
const PAYLOAD_VERSION = 1;

/** Programs of c/l2 that run L2s rather than in them: an emulated L2 would unpack them for nothing. */
const L1_ONLY = ['tiny_vmm', 'slot_vmm', 'touch_guest', 'fuzz_vmm', 'guest_info'];

/** Deadlines in the guests are as long as ours; a kernel that we built of a tried one's sources has no types. */
const wrapper = ({
  patience,
  l2Kernel,
  kernel,
}: Pick<ImageContext, 'patience' | 'kernel' | 'l2Kernel'>): string => `#!/bin/sh
${patience === 1 ? '' : `export HYPERTURTLE_PATIENCE=${patience}\n`}${kernel.key === l2Kernel.key ? '' : 'export HYPERTURTLE_UNTYPED_KVM=1\n'}${startNode(IN_GUEST.node, `${IN_GUEST.payload}/app/dist/src/cli/main.cjs`)}`;

/** What is compiled by clang and gcc. */
type CompiledC = Record<'programs' | 'fuzzPrograms' | 'l2', Built> & { modules: Built[] };

async function compileC(c: BuildContext): Promise<CompiledC> {
  const ends = await endsVmsOnVectoring(c);
  const modules: Built[] = [];
  for (const side of MODULE_SIDES)
    if (side !== 'redelivery' && (side !== 'vectoring' || ends)) modules.push(await buildModule(c, side));
  return {
    modules,
    programs: await buildPrograms(c),
    fuzzPrograms: await buildFuzzPrograms(c),
    l2: await buildL2Programs(c),
  };
}

export async function buildPayload(context: ImageContext): Promise<BuiltPayload> {
  const c: BuildContext = { ...context, projectRoot: await findProjectRoot() };
  // each keeps a processor busy
  const [{ modules, programs, fuzzPrograms, l2 }, app] = await Promise.all([compileC(c), buildApp(c)]);
  const key = contentKey([
    PAYLOAD_VERSION,
    ...[...modules, programs, fuzzPrograms, l2, app].map((b) => b.key),
    ...[
      c.tools.key,
      c.kernel.key,
      c.l2Kernel.key,
      wrapper(c),
      l2Init([]),
      l2Net([]),
      L2_MODULES,
      L2_NET_MODULES,
      L2_PLUG_MODULES,
      L2_APPLETS,
    ],
    await readFile(path.join(c.projectRoot, 'package-lock.json'), 'utf8').catch(() => ''),
  ]);
  const spec = {
    folder: 'images',
    name: `payload-${c.kernel.kernelVersion}`,
    key,
    suffix: '.erofs',
    keep: 4,
  };
  const image = await cacheEntry(c.cacheRoot, { ...spec, signal: c.signal }, (staging) =>
    withStep(c.progress, 'packing the payload', () =>
      withWorkDirectory(staging, 'tree', async (tree) => {
        await packTree(c, tree, { modules, programs, fuzzPrograms, l2, app });
        await makeErofs(c.tools, tree, staging, c.signal);
      }),
    ),
  );
  const { size } = await stat(image);
  if (size > PAYLOAD_DISK_BYTES)
    throw new HyperturtleError(
      'HT_BUILD',
      `payload: ${Math.ceil(size / (1 << 20))} MiB do not fit on its disk of ${PAYLOAD_DISK_BYTES >> 20} MiB`,
    );
  return { path: image, key, bytes: size };
}

/** Whether KVM on AMD ends a VM that it finds in an exit while an event was being delivered: see c/vectoring. */
async function endsVmsOnVectoring(c: BuildContext): Promise<boolean> {
  const exported = await readFile(path.join(c.kernel.headers, 'Module.symvers'), 'utf8');
  return exported.includes('\tkvm_prepare_event_vectoring_exit\t');
}

async function packTree(
  c: BuildContext,
  tree: string,
  parts: Record<'programs' | 'fuzzPrograms' | 'l2' | 'app', Built> & { modules: readonly Built[] },
): Promise<void> {
  const at = (p: string): string => path.join(tree, p);
  const copy = (from: string, to: string): Promise<void> => cp(from, at(to), { recursive: true });
  await mkdir(at('bin'), { recursive: true });
  for (const module of parts.modules) await copy(module.dir, 'modules');
  await copy(parts.programs.dir, 'bpf');
  await copy(parts.fuzzPrograms.dir, 'fuzz');
  await copy(parts.app.dir, 'app/dist/src');
  await copyDependencies(c.projectRoot, at('app/node_modules'));
  await cp(path.join(c.projectRoot, 'package.json'), at('app/package.json'));
  await writeFile(at('bin/hyperturtle'), wrapper(c));
  await chmod(at('bin/hyperturtle'), 0o755);
  await mkdir(at('l2'));
  // the base image has it
  await symlink(c.l2Kernel === c.kernel ? IN_GUEST.vmlinux : IN_GUEST.l2Vmlinux, at('l2/vmlinux'));
  await copy(parts.l2.dir, 'l2/programs');
  await writeFile(at('l2/initramfs.cpio'), await l2Initramfs(c, parts.l2));
  await writeFile(at('l2/plug.cpio'), await plugInitramfs(c));
}

async function plugInitramfs(c: BuildContext): Promise<Buffer> {
  const modules = await ModuleTree.open(c.l2Kernel, c.tools);
  const own = new Set((await modules.loadOrder(L2_MODULES, true)).map((m) => m.name));
  const more = (await modules.loadOrder(L2_PLUG_MODULES, true)).filter((m) => !own.has(m.name));
  return cpioArchive(
    await Promise.all(more.map(async (m) => cpioFile(`modules/${m.name}.ko`, await modules.elf(m)))),
  );
}

/** Busybox, the few modules L2 needs, and its programs in /bin. */
async function l2Initramfs(c: BuildContext, programs: Built): Promise<Buffer> {
  const modules = await ModuleTree.open(c.l2Kernel, c.tools);
  const order = await modules.loadOrder(L2_MODULES, true);
  const net = (await modules.loadOrder(L2_NET_MODULES, true)).filter(
    (m) => !order.some((o) => o.name === m.name),
  );
  const names = (await readdir(programs.dir)).filter((n) => !L1_ONLY.includes(n));
  return cpioArchive([
    ...['bin', 'dev', 'proc', 'sys', 'tmp', 'modules'].map((d) => cpioDir(d)),
    cpioDevice('dev/console', 5, 1),
    cpioFile('init', l2Init(order.map((m) => `/modules/${m.name}.ko`)), 0o755),
    cpioFile('bin/busybox', await busybox(c.tools), 0o755),
    ...L2_APPLETS.map((a) => cpioLink(`bin/${a}`, 'busybox')),
    cpioFile('bin/l2-net', l2Net(net.map((m) => `/modules/${m.name}.ko`)), 0o755),
    ...(await Promise.all(
      [...order, ...net].map(async (m) => cpioFile(`modules/${m.name}.ko`, await modules.elf(m))),
    )),
    ...(await Promise.all(
      names.map(async (n) => cpioFile(`bin/${n}`, await readFile(path.join(programs.dir, n)), 0o755)),
    )),
  ]);
}
