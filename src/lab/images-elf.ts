/** Reads what images need of 64-bit little-endian ELF files: sections, and the libraries a file asks for. */
import { readFile, realpath } from 'node:fs/promises';
import path from 'node:path';
import { errnoCode, HyperturtleError } from '../core/errors.ts';

interface Section {
  name: string;
  type: number;
  offset: number;
  size: number;
  link: number;
}

export function isElf(file: Buffer): boolean {
  return file.length >= 64 && file.readUInt32BE(0) === 0x7f454c46 && file[4] === 2 && file[5] === 1;
}

function sections(elf: Buffer): Section[] {
  const [table, entry, count, names] = [
    Number(elf.readBigUInt64LE(0x28)),
    elf.readUInt16LE(0x3a),
    elf.readUInt16LE(0x3c),
    elf.readUInt16LE(0x3e),
  ];
  const raw = Array.from({ length: count }, (_, i) => {
    const at = table + i * entry;
    return {
      nameAt: elf.readUInt32LE(at),
      type: elf.readUInt32LE(at + 4),
      offset: Number(elf.readBigUInt64LE(at + 0x18)),
      size: Number(elf.readBigUInt64LE(at + 0x20)),
      link: elf.readUInt32LE(at + 0x28),
    };
  });
  const strings = raw[names];
  return raw.map(({ nameAt, ...s }) => ({
    ...s,
    name: strings === undefined ? '' : cString(elf, strings.offset + nameAt),
  }));
}

function cString(buffer: Buffer, at: number): string {
  return buffer.toString('latin1', at, buffer.indexOf(0, at));
}

export function elfSection(elf: Buffer, name: string): Buffer | undefined {
  if (!isElf(elf)) return undefined;
  const s = sections(elf).find((x) => x.name === name);
  return s && elf.subarray(s.offset, s.offset + s.size);
}

const SHT_DYNAMIC = 6;
const DT_NEEDED = 1n;

/** Names of the shared libraries (`libz.so.1`) a file asks for; none for a static one. */
export function neededLibraries(elf: Buffer): string[] {
  if (!isElf(elf)) return [];
  const all = sections(elf);
  const dynamic = all.find((s) => s.type === SHT_DYNAMIC);
  const strings = dynamic && all[dynamic.link];
  if (!dynamic || !strings) return [];
  const out: string[] = [];
  for (let at = dynamic.offset; at + 16 <= dynamic.offset + dynamic.size; at += 16) {
    if (elf.readBigUInt64LE(at) === DT_NEEDED)
      out.push(cString(elf, strings.offset + Number(elf.readBigUInt64LE(at + 8))));
  }
  return out;
}

/**
 * Every library that `files` need, directly or through others: its name and where it was found, first directory
 * first. Throws HT_NOT_FOUND naming who needs a missing one.
 */
export async function libraryClosure(
  files: readonly string[],
  directories: readonly string[],
): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  const queue = [...files];
  for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
    for (const name of neededLibraries(await readFile(file))) {
      if (found.has(name)) continue;
      const at = await firstOf(directories, name);
      if (at === undefined)
        throw new HyperturtleError(
          'HT_NOT_FOUND',
          `library ${name}, needed by ${file}: in none of our packages`,
        );
      found.set(name, at);
      queue.push(at);
    }
  }
  return found;
}

async function firstOf(directories: readonly string[], name: string): Promise<string | undefined> {
  for (const d of directories) {
    try {
      return await realpath(path.join(d, name));
    } catch (e) {
      if (errnoCode(e) !== 'ENOENT') throw e;
    }
  }
  return undefined;
}
