/** Symbols of L2's kernel from whatever file of it there is. */
import { promisify } from 'node:util';
import { gunzip } from 'node:zlib';
import { exec } from '../core/exec.ts';
import { HyperturtleError } from '../core/errors.ts';
import { readInput } from '../core/files.ts';
import { isElf, readElf } from './elf-file.ts';
import { kallsymsOfImage, parseKallsyms } from './kallsyms.ts';
import type { SymbolTable } from './symbol-table.ts';

/** Largest kernel with debug information; also of what a packed one may unpack to. */
const IMAGE_BYTES_MAX = 1 << 30;

/** How a bzImage's payload begins, and what unpacks it. */
const PACKERS = [
  { magic: '1f8b', program: undefined },
  { magic: 'fd377a585a00', program: ['xz', '-dc'] },
  { magic: '28b52ffd', program: ['zstd', '-dc'] },
  { magic: '02214c18', program: ['lz4', '-dc'] },
] as const;

/**
 * `file`: the text of System.map or /proc/kallsyms, an ELF kernel with or without symbols, or a bzImage. Throws
 * HT_NOT_FOUND, HT_UNSUPPORTED.
 */
export async function kernelSymbols(file: string): Promise<SymbolTable> {
  const bytes = readInput(
    file,
    'give the vmlinux, bzImage, System.map or /proc/kallsyms of a kernel',
    IMAGE_BYTES_MAX,
  );
  if (isElf(bytes)) return imageSymbols(bytes, file);
  if (bytes.toString('latin1', 0x202, 0x206) === 'HdrS')
    return imageSymbols(await unpacked(bytes, file), file);
  return parseKallsyms(bytes.toString('latin1'), file);
}

function imageSymbols(elf: Buffer, file: string): SymbolTable {
  const { symbols } = readElf(elf, file);
  return symbols.size > 1000 ? symbols : kallsymsOfImage(elf, file);
}

/** Offsets per Documentation/arch/x86/boot.rst. */
async function unpacked(bzImage: Buffer, file: string): Promise<Buffer> {
  const bad = (e?: unknown): HyperturtleError =>
    new HyperturtleError(
      'HT_UNSUPPORTED',
      `${file}: damaged: give its vmlinux, System.map or /proc/kallsyms`,
      {
        cause: e,
      },
    );
  if (bzImage.length < 0x250) throw bad();
  const start = ((bzImage[0x1f1] || 4) + 1) * 512 + bzImage.readUInt32LE(0x248);
  const payload = bzImage.subarray(start, start + bzImage.readUInt32LE(0x24c));
  const packer = PACKERS.find((p) => payload.toString('hex', 0, p.magic.length / 2) === p.magic);
  if (!packer)
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      `${file}: packed in an unknown way: give its vmlinux, System.map or /proc/kallsyms with --kernel`,
    );
  if (packer.program === undefined)
    return promisify(gunzip)(payload, { maxOutputLength: IMAGE_BYTES_MAX }).catch((e: unknown) => {
      throw bad(e);
    });
  const [program, ...args] = packer.program;
  // the kernel's build appends the unpacked size (4 bytes), which the programs would take for garbage
  const r = await exec(program, args, { input: payload.subarray(0, -4), maxBytes: IMAGE_BYTES_MAX }).catch(
    (e: unknown) => {
      throw new HyperturtleError(
        'HT_UNSUPPORTED',
        `${file}: '${program}' is needed to unpack it: install it, or give its vmlinux, System.map or /proc/kallsyms with --kernel`,
        { cause: e },
      );
    },
  );
  return r.stdout;
}

/** The kernel that a VMM's command line names (QEMU's -kernel, cloud-hypervisor's and others' --kernel). */
export function kernelOfCommandLine(args: readonly string[]): string | undefined {
  const at = args.findIndex((a) => a === '-kernel' || a === '--kernel');
  if (at >= 0) return args[at + 1];
  return args.find((a) => a.startsWith('--kernel='))?.slice('--kernel='.length);
}
