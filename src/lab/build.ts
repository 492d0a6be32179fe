/**
 * Compiles what is in c/ with the packaged compilers: two kernel modules, the eBPF programs, and L2's programs.
 * Each part is rebuilt only when its sources, the common headers, or the tools changed. Warnings are errors.
 */
import { createHash } from 'node:crypto';
import { cp, mkdir, readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { exec } from '../core/exec.ts';
import { HyperturtleError, isHyperturtleError } from '../core/errors.ts';
import type { ImageContext } from './images.ts';
import { toolEnv, TRIPLET } from './tools.ts';
import { withStep } from '../core/progress.ts';
import { cacheEntry, contentKey, withWorkDirectory } from './xdg.ts';

/** Raised when the way of compiling changes. */
const BUILD_VERSION = 3;

export interface BuildContext extends ImageContext {
  /** The project's directory: has `c/`. */
  projectRoot: string;
}

/** What is in c/SIDE becomes hyperturtle_SIDE.ko. */
export const MODULE_SIDES = ['host', 'guest', 'fuzz', 'livepatch', 'vectoring', 'redelivery'] as const;
export type ModuleSide = (typeof MODULE_SIDES)[number];

/** A directory of compiled files and the hash of what went in. */
export interface Built {
  dir: string;
  key: string;
}

/** What this one is built from is in every snapshot: a change of headers shall not cost a new one. */
const WITHOUT_HEADERS: ReadonlySet<ModuleSide> = new Set(['redelivery']);

/** `hyperturtle_host.ko` and `hyperturtle_guest.ko`, for tests and the lab the others, for the kernel of the context. */
export function buildModule(c: BuildContext, side: ModuleSide): Promise<Built> {
  const name = `module-${side}-${c.kernel.kernelVersion}`;
  const kit = c.kernel.kit ?? c.tools;
  const sources = WITHOUT_HEADERS.has(side) ? [`c/${side}`] : [`c/${side}`, 'c/include'];
  return built(c, name, sources, [c.kernel.key], async (src, out) => {
    const dir = path.join(src, 'c', side);
    const make = [
      ...['-C', c.kernel.headers, `M=${dir}`, '-j2', 'KCFLAGS=-Werror', 'modules'],
      ...(c.kernel.cc === undefined ? [] : [`CC=${c.kernel.cc}`]),
    ];
    const output = await compile(c, `hyperturtle_${side}.ko`, 'make', make, kit);
    // modpost and objtool warn without failing
    const warnings = output.split('\n').filter((l) => /\bwarning:/i.test(l));
    if (warnings.length > 0) throw buildError(`hyperturtle_${side}.ko`, warnings.join('\n'));
    // debugging data is 97% of the file, and the emulated CPU would read it at every insmod
    const ko = `hyperturtle_${side}.ko`;
    await compile(c, ko, 'strip', ['--strip-debug', '-o', path.join(out, ko), path.join(dir, ko)], kit);
  });
}

/** Every `NAME.bpf.c` of c/bpf and examples to `NAME.bpf.o`, with BTF. */
export function buildPrograms(c: BuildContext): Promise<Built> {
  return compilePrograms(c, 'bpf', ['c/bpf', 'examples'], ['c/include']);
}

/** The same for the hostile ones of c/fuzz, which are for tests and in no package. */
export function buildFuzzPrograms(c: BuildContext): Promise<Built> {
  return compilePrograms(c, 'bpf-fuzz', ['c/fuzz'], ['c/bpf', 'c/include']);
}

function compilePrograms(
  c: BuildContext,
  name: string,
  folders: readonly string[],
  headers: readonly string[],
): Promise<Built> {
  return built(c, name, [...folders, ...headers], [], async (src, out) => {
    const include = path.join(c.tools.root, 'usr/include');
    const flags = [
      // v3: 32-bit arithmetic and compare-and-exchange; the kernels in question all have it
      ...['-target', 'bpf', '-mcpu=v3', '-O2', '-g', '-Wall', '-Werror'],
      ...[
        '-D__TARGET_ARCH_x86',
        '-nostdlibinc',
        '-isystem',
        include,
        '-isystem',
        path.join(include, TRIPLET),
      ],
      `-I${path.join(src, 'c/include')}`,
    ];
    const files = await Promise.all(folders.map((f) => filesBelow(path.join(src, f), /\.bpf\.c$/)));
    for (const file of files.flat()) {
      const object = path.basename(file).replace(/\.c$/, '.o');
      await compile(c, object, 'clang', [...flags, '-c', file, '-o', path.join(out, object)]);
    }
  });
}

/** A kernel of its own for PVH: a note that names the entry, everything from 1 MiB on. */
const BARE_FLAGS = [
  ...['-m32', '-nostdlib', '-static', '-no-pie', '-Wl,--build-id=none', '-Wl,-e,start'],
  ...['-Wl,-N,--no-warn-rwx-segments', '-Wl,-Ttext=0x100000', '-Wl,--section-start=.note.pvh=0x100800'],
];

/** The same, written in C: more than what fits before the note; no library, and no vector registers, which nobody has switched on. */
const BARE_C_FLAGS = [
  ...[
    '-Wl,-Ttext=0x101000',
    '-std=gnu11',
    '-O2',
    '-ffreestanding',
    '-fno-pic',
    '-fno-stack-protector',
    '-fcf-protection=none',
  ],
  ...[
    '-mgeneral-regs-only',
    '-fno-builtin',
    '-fno-asynchronous-unwind-tables',
    '-Wall',
    '-Wextra',
    '-Werror',
  ],
];

/** What profilers are measured with keeps its symbols and frame pointers. */
const PROFILED: ReadonlySet<string> = new Set(['shares']);

/** Every `c/l2/NAME.c` to a static program `NAME`, every `c/l2/NAME.S` or `NAME.bare.c` to a kernel `NAME`. */
export function buildL2Programs(c: BuildContext): Promise<Built> {
  return built(c, 'l2-programs', ['c/l2', 'c/include'], [], async (src, out) => {
    const gcc = await compiler(c);
    const flags = [
      ...[`--sysroot=${c.tools.root}`, '-std=gnu11', '-O2', '-static', '-pthread'],
      ...['-Wall', '-Wextra', '-Werror', `-I${path.join(src, 'c/include')}`],
    ];
    for (const file of await filesBelow(path.join(src, 'c/l2'), /(?<!\.bare)\.c$/)) {
      const program = path.basename(file, '.c');
      const symbols = PROFILED.has(program)
        ? ['-fno-omit-frame-pointer', '-mno-omit-leaf-frame-pointer', '-no-pie']
        : ['-s'];
      await compile(c, program, gcc, [...flags, ...symbols, file, '-o', path.join(out, program)]);
    }
    for (const file of await filesBelow(path.join(src, 'c/l2'), /\.(S|bare\.c)$/)) {
      const kernel = path.basename(file).replace(/\.(S|bare\.c)$/, '');
      const flags = file.endsWith('.c') ? [...BARE_FLAGS, ...BARE_C_FLAGS] : BARE_FLAGS;
      await compile(c, kernel, gcc, [...flags, file, '-o', path.join(out, kernel)]);
    }
  });
}

/** The compiler that the kernel's headers brought along. */
async function compiler(c: BuildContext): Promise<string> {
  const all = await readdir(path.join(c.tools.root, 'usr/bin'));
  const versions = all.flatMap((f) => /^gcc-(\d+)$/.exec(f)?.[1] ?? []).map(Number);
  if (versions.length === 0) throw new HyperturtleError('HT_PACKAGES', 'no gcc-N among the packages');
  return `gcc-${Math.max(...versions)}`;
}

async function built(
  c: BuildContext,
  name: string,
  folders: readonly string[],
  keys: readonly string[],
  make: (src: string, out: string) => Promise<void>,
): Promise<Built> {
  const files = await Promise.all(folders.map((f) => hashTree(path.join(c.projectRoot, f))));
  const key = contentKey([BUILD_VERSION, c.tools.key, ...keys, ...files]);
  const spec = { folder: 'builds', name, key, keep: 4, signal: c.signal };
  const dir = await cacheEntry(c.cacheRoot, spec, (staging) =>
    withStep(c.progress, `compiling ${name}`, () =>
      withWorkDirectory(staging, 'src', async (src) => {
        for (const f of folders)
          await cp(path.join(c.projectRoot, f), path.join(src, f), { recursive: true });
        await mkdir(staging, { recursive: true });
        await make(src, staging);
      }),
    ),
  );
  return { dir, key };
}

async function compile(
  c: BuildContext,
  what: string,
  program: string,
  args: string[],
  tools = c.tools,
): Promise<string> {
  const env = toolEnv(tools);
  const bin = path.join(tools.root, 'usr/bin', program);
  try {
    const r = await exec(bin, args, { env, timeoutMs: 600_000, signal: c.signal });
    return `${r.stdout.toString('utf8')}${r.stderr.toString('utf8')}`;
  } catch (e) {
    if (!isHyperturtleError(e, 'HT_COMMAND_FAILED')) throw e;
    const { tail } = e.detail;
    const text = typeof tail === 'string' ? tail : e.message;
    // compiled is a copy: name the file that its author knows
    throw buildError(what, text.replaceAll(/\S*\.staging\.src\//g, ''), e);
  }
}

function buildError(what: string, text: string, cause?: unknown): HyperturtleError {
  return new HyperturtleError('HT_BUILD', `${what} does not compile without warnings:\n${text}`, { cause });
}

async function filesBelow(dir: string, pattern: RegExp): Promise<string[]> {
  const all = await readdir(dir, { recursive: true, withFileTypes: true });
  const files = all.filter((e) => e.isFile() && pattern.test(e.name));
  return files.map((e) => path.join(e.parentPath, e.name)).sort();
}

/** Hash of names and contents of all files below `dir`. */
export async function hashTree(dir: string, pattern = /./): Promise<string> {
  const hash = createHash('sha256');
  for (const file of await filesBelow(dir, pattern)) {
    const content = await readFile(file);
    hash.update(`${path.relative(dir, file)}\0${content.length}\0`);
    hash.update(content);
  }
  return hash.digest('hex');
}
