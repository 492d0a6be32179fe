/** Where the names of a profile come from: what the command was given, and what the VMM's command line names. */
import type { Symbols } from '../profile/symbolize.ts';
import type { Counted } from './profile.ts';

export interface SymbolOptions {
  kernel?: string;
  kernelOffset?: bigint;
  binary: readonly string[];
  root?: string;
}

const FILES_MAX = 2000;
const FILE_BYTES_MAX = 512 << 20;

/** What is missing is said in `notes`, one line each, and names are addresses then. */
export async function findSymbols(
  options: SymbolOptions,
  l2: { number: number; pid: number } | undefined,
  entries: Counted['entries'],
): Promise<{ symbols: Symbols; notes: string[] }> {
  const [{ kernelSymbols }, { kernelOffsetOf }, { messageOf }] = await Promise.all([
    import('../profile/kernel-image.ts'),
    import('../profile/symbolize.ts'),
    import('../core/errors.ts'),
  ]);
  const notes: string[] = [];
  const symbols: Symbols = {
    kernelOffset: options.kernelOffset ?? 0n,
    binaries: await binaries(options, notes),
  };
  const file = options.kernel ?? (l2 ? await kernelFileOf(l2.pid) : undefined);
  if (file === undefined) {
    notes.push(
      'no names for kernels: give --kernel FILE (vmlinux, bzImage, System.map or /proc/kallsyms of it)',
    );
    return { symbols, notes };
  }
  try {
    symbols.kernel = await kernelSymbols(file);
  } catch (e) {
    // given by hand it must be right
    if (options.kernel !== undefined) throw e;
    notes.push(`no names for the kernel: ${messageOf(e)}`);
    return { symbols, notes };
  }
  const entry = entries.get(l2?.number ?? 0) ?? [...entries.values()][0];
  if (options.kernelOffset === undefined && entry !== undefined) {
    const offset = kernelOffsetOf(symbols.kernel, entry);
    if (offset === undefined) {
      notes.push(
        `no names for the kernel: ${file} is not the one that runs: its page fault handler is elsewhere`,
      );
      delete symbols.kernel;
    } else symbols.kernelOffset = offset;
  }
  return { symbols, notes };
}

/** Seen with the VMM's eyes: it may run in a container. */
async function kernelFileOf(pid: number): Promise<string | undefined> {
  const [{ readFile, readlink }, path, { kernelOfCommandLine }] = await Promise.all([
    import('node:fs/promises'),
    import('node:path'),
    import('../profile/kernel-image.ts'),
  ]);
  const text = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
  const kernel = kernelOfCommandLine(text.split('\0'));
  if (kernel === undefined || kernel === '') return undefined;
  const cwd = await readlink(`/proc/${pid}/cwd`).catch(() => '/');
  return path.join(`/proc/${pid}/root`, path.resolve(cwd, kernel));
}

/** Symbols of files that were given, for whatever is profiled later. Throws when one cannot be read. */
export async function givenSymbols(options: SymbolOptions): Promise<{
  kernel?: Symbols['kernel'];
  kernelOffset?: bigint;
  binaries: Symbols['binaries'];
}> {
  const { kernelSymbols } = await import('../profile/kernel-image.ts');
  return {
    binaries: await binaries(options, []),
    ...(options.kernel === undefined ? {} : { kernel: await kernelSymbols(options.kernel) }),
    ...(options.kernelOffset === undefined ? {} : { kernelOffset: options.kernelOffset }),
  };
}

async function binaries(options: SymbolOptions, notes: string[]): Promise<Symbols['binaries']> {
  if (options.binary.length === 0 && options.root === undefined) return [];
  const [{ readFile, stat }, path, { readElf, isElf }, { isHyperturtleError }, { readInput }] =
    await Promise.all([
      import('node:fs/promises'),
      import('node:path'),
      import('../profile/elf-file.ts'),
      import('../core/errors.ts'),
      import('../core/files.ts'),
    ]);
  const found: Symbols['binaries'][number][] = [];
  for (const text of options.binary) {
    const [, file = text, hex] = /^(.*?)(?:@(0x[0-9a-f]+))?$/i.exec(text) ?? [];
    const elf = readElf(
      readInput(file, '--binary: give a program or library of the nested guest', FILE_BYTES_MAX),
      file,
    );
    found.push({ name: path.basename(file), elf, ...(hex === undefined ? {} : { base: BigInt(hex) }) });
  }
  for (const file of options.root === undefined ? [] : await filesBelow(options.root, notes)) {
    if ((await stat(file)).size > FILE_BYTES_MAX) {
      notes.push(`no names of ${file}: it has more than ${FILE_BYTES_MAX >> 20} MiB`);
      continue;
    }
    const bytes = await readFile(file).catch(() => Buffer.alloc(0));
    if (!isElf(bytes)) continue;
    try {
      const elf = readElf(bytes, file);
      if (elf.symbols.size > 0) found.push({ name: path.basename(file), elf });
    } catch (e) {
      if (!isHyperturtleError(e, 'HT_UNSUPPORTED')) throw e; // of another machine
    }
  }
  const { demangled } = await import('../profile/demangle.ts');
  const { names, problem } = await demangled(found.map((b) => b.elf.symbols));
  if (problem !== undefined)
    notes.push(`names of C++ and Rust are as the files have them: c++filt (package binutils): ${problem}`);
  return names.size === 0
    ? found
    : found.map((b) => ({ ...b, elf: { ...b.elf, symbols: b.elf.symbols.renamed(names) } }));
}

/** Executables and libraries: files that may be run, and `*.so*`. Links are not followed. */
async function filesBelow(root: string, notes: string[]): Promise<string[]> {
  const [{ readdir, stat }, path, { HyperturtleError }] = await Promise.all([
    import('node:fs/promises'),
    import('node:path'),
    import('../core/errors.ts'),
  ]);
  const entries = await readdir(root, { recursive: true, withFileTypes: true }).catch((e: unknown) => {
    throw new HyperturtleError('HT_NOT_FOUND', `--root ${root}: cannot be read`, { cause: e });
  });
  const files: string[] = [];
  for (const entry of entries) {
    if (!entry.isFile()) continue;
    const file = path.join(entry.parentPath, entry.name);
    if (!/\.so(\.|$)/.test(entry.name) && ((await stat(file)).mode & 0o111) === 0) continue;
    if (files.length === FILES_MAX) {
      notes.push(
        `--root ${root}: the first ${FILES_MAX} executables and libraries were read, not all: name others by --binary`,
      );
      break;
    }
    files.push(file);
  }
  return files;
}
