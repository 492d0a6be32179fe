/**
 * Programs of another Debian release than the machine's, made to run here as they are: each is told to be started by
 * the dynamic loader of its own tree. So kernel modules can be compiled with the compiler of the kernel's release with
 * no root, no container and no user namespace, of which an unprivileged container has none.
 *
 * A program names its loader by an absolute path, a stretch of the file that only the kernel reads (load_elf_binary in
 * fs/binfmt_elf.c): another path is appended to the file, and the program header is pointed there. Its libraries
 * follow from LD_LIBRARY_PATH relative to the program ($ORIGIN), so that the host's programs, started from the same
 * makefiles, go on to find the host's.
 */
import { open, readdir } from 'node:fs/promises';
import path from 'node:path';

const PT_INTERP = 3;
const HEADER_BYTES = 64;

/** Points every program below `root` to `loader`, an absolute path. Returns how many there were. */
export async function setLoader(root: string, loader: string): Promise<number> {
  let changed = 0;
  for (const e of await readdir(root, { recursive: true, withFileTypes: true }))
    if (e.isFile() && (await setLoaderOf(path.join(e.parentPath, e.name), loader))) changed++;
  return changed;
}

/** One program. False for a file that is none. */
export async function setLoaderOf(file: string, loader: string): Promise<boolean> {
  const f = await open(file, 'r+');
  try {
    const header = Buffer.alloc(HEADER_BYTES);
    const { bytesRead } = await f.read(header, 0, HEADER_BYTES, 0);
    // 64 bits, little-endian
    if (bytesRead < HEADER_BYTES || header.readUInt32BE(0) !== 0x7f454c46) return false;
    if (header[4] !== 2 || header[5] !== 1) return false;
    const [table, size] = [Number(header.readBigUInt64LE(0x20)), header.readUInt16LE(0x36)];
    for (let i = 0; i < header.readUInt16LE(0x38); i++) {
      const at = table + i * size;
      const entry = Buffer.alloc(size);
      await f.read(entry, 0, size, at);
      if (entry.readUInt32LE(0) !== PT_INTERP) continue;
      const end = (await f.stat()).size;
      const text = Buffer.from(`${loader}\0`);
      await f.write(text, 0, text.length, end);
      entry.writeBigUInt64LE(BigInt(end), 0x08); // p_offset; the address that the loader reads itself by stays
      entry.writeBigUInt64LE(BigInt(text.length), 0x20); // p_filesz
      await f.write(entry, 0, size, at);
      return true;
    }
    return false;
  } finally {
    await f.close();
  }
}

/** LD_LIBRARY_PATH for programs as deep below `usr` as /usr/bin or as kbuild's and the compiler's own are. */
export function librariesBesidePrograms(triplet: string): string {
  return [1, 2, 3, 4, 5].map((up) => `$ORIGIN${'/..'.repeat(up)}/lib/${triplet}`).join(':');
}
