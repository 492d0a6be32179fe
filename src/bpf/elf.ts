/**
 * The little that is read of an eBPF object before libbpf sees it: that it is one, that its tables lie inside the
 * file (libbpf 1.1 trusts some of them), and where a constant of `.rodata` stands.
 */
import { HyperturtleError } from '../core/errors.ts';
import { EM_BPF } from '../kernel/bpf.ts';
import { viewOf } from '../kernel/struct.ts';

export interface ElfSection {
  name: string;
  /** SHT_* */
  type: number;
  /** SHF_* */
  flags: number;
  offset: number;
  size: number;
  link: number;
  info: number;
  entryBytes: number;
}

export interface ElfSymbol {
  name: string;
  /** STT_* */
  type: number;
  /** STB_* */
  binding: number;
  /** Number of its section, or SHN_*. */
  section: number;
  /** Byte offset in its section. */
  value: number;
  size: number;
}

export interface Elf {
  sections: readonly ElfSection[];
  symbols: readonly ElfSymbol[];
}

export const SHT_PROGBITS = 1;
export const SHT_SYMTAB = 2;
export const SHT_STRTAB = 3;
export const SHT_NOBITS = 8;
export const SHT_REL = 9;
export const SHT_LLVM_ADDRSIG = 0x6fff_4c03;
export const SHF_EXECINSTR = 4;
export const SHF_COMPRESSED = 0x800;
export const SHN_UNDEF = 0;
export const SHN_LORESERVE = 0xff00;
export const SHN_ABS = 0xfff1;
export const STT_OBJECT = 1;
export const STT_FUNC = 2;
export const STT_SECTION = 3;
export const STT_FILE = 4;
export const STB_LOCAL = 0;
export const STB_GLOBAL = 1;
export const STB_WEAK = 2;

const EHDR = 64;
const SHDR = 64;
const SYM = 24;

/** Throws HT_BPF when `bytes` is not a well-formed 64-bit little-endian eBPF object. */
export function parseElf(bytes: Uint8Array): Elf {
  const file: ElfFile = { bytes, view: viewOf(bytes) };
  const header = readHeader(file);
  const sections = readSections(file, header);
  return { sections, symbols: readSymbols(file, sections) };
}

interface ElfFile {
  bytes: Uint8Array;
  view: DataView;
}

interface ElfHeader {
  /** Where the section table is. */
  table: number;
  count: number;
  /** Number of the section that has the sections' names. */
  namesIndex: number;
}

function bad(why: string): never {
  throw new HyperturtleError('HT_BPF', `not an eBPF object: ${why}; build it with clang -target bpf`);
}

/** A file offset or size; anything beyond 2^53 is beyond the file as well. */
function u64({ view }: ElfFile, at: number): number {
  return Number(view.getBigUint64(at, true));
}

function isInside({ bytes }: ElfFile, offset: number, size: number): boolean {
  return offset + size <= bytes.length;
}

function readHeader(file: ElfFile): ElfHeader {
  const { bytes, view } = file;
  if (bytes.length < EHDR) bad(`${bytes.length} bytes are too few for an ELF header`);
  if (view.getUint32(0) !== 0x7f454c46) bad('it does not begin with the ELF magic');
  if (view.getUint8(4) !== 2 || view.getUint8(5) !== 1) bad('64-bit little-endian expected');
  const machine = view.getUint16(18, true);
  if (machine !== EM_BPF) bad(`machine ${EM_BPF} (BPF) expected, ${machine} found`);
  const table = u64(file, 40);
  const count = view.getUint16(60, true);
  const namesIndex = view.getUint16(62, true);
  if (view.getUint16(58, true) !== SHDR || count === 0 || namesIndex >= count) bad('bad section table');
  if (!isInside(file, table, count * SHDR)) bad('the section table lies outside the file');
  return { table, count, namesIndex };
}

function readSections(file: ElfFile, { table, count, namesIndex }: ElfHeader): ElfSection[] {
  const { view } = file;
  const nameOffsets: number[] = [];
  const sections: ElfSection[] = [];
  for (let i = 0; i < count; i++) {
    const at = table + i * SHDR;
    const s = {
      name: '',
      type: view.getUint32(at + 4, true),
      flags: u64(file, at + 8),
      offset: u64(file, at + 24),
      size: u64(file, at + 32),
      link: view.getUint32(at + 40, true),
      info: view.getUint32(at + 44, true),
      entryBytes: u64(file, at + 56),
    };
    if (s.type !== SHT_NOBITS && !isInside(file, s.offset, s.size)) bad(`section ${i} lies outside the file`);
    nameOffsets.push(view.getUint32(at, true));
    sections.push(s);
  }
  sections.forEach((s, i) => (s.name = nameIn(file, sections[namesIndex], nameOffsets[i] ?? 0)));
  return sections;
}

function readSymbols(file: ElfFile, sections: readonly ElfSection[]): ElfSymbol[] {
  const { view } = file;
  const symbols: ElfSymbol[] = [];
  for (const s of sections) {
    if (s.type !== SHT_SYMTAB) continue;
    for (let at = s.offset; at + SYM <= s.offset + s.size; at += SYM)
      symbols.push({
        name: nameIn(file, sections[s.link], view.getUint32(at, true)),
        type: view.getUint8(at + 4) & 15,
        binding: view.getUint8(at + 4) >> 4,
        section: view.getUint16(at + 6, true),
        value: u64(file, at + 8),
        size: u64(file, at + 16),
      });
  }
  return symbols;
}

/** The name at offset `at` of a table of names. */
function nameIn({ bytes }: ElfFile, table: ElfSection | undefined, at: number): string {
  if (table === undefined || table.type === SHT_NOBITS || at >= table.size)
    return bad('a name lies outside its table');
  const from = table.offset + at;
  const end = bytes.indexOf(0, from);
  if (end < 0 || end >= table.offset + table.size) bad('a name without an end');
  return Buffer.from(bytes.buffer, bytes.byteOffset + from, end - from).toString('latin1');
}

/** The bytes of a section in the file: a view, empty for one that has none there. */
export function sectionBytes(bytes: Uint8Array, s: ElfSection): Uint8Array {
  return s.type === SHT_NOBITS ? new Uint8Array() : bytes.subarray(s.offset, s.offset + s.size);
}

/**
 * The content of `.rodata` with constants replaced: `{ arena_bytes: 16777216 }` for
 * `const volatile __u64 arena_bytes`. Throws HT_BPF when there is no such constant or the value does not fit.
 */
export function patchConstants(
  bytes: Uint8Array,
  elf: Elf,
  constants: Readonly<Record<string, bigint | number>>,
): Uint8Array {
  const index = elf.sections.findIndex((s) => s.name === '.rodata');
  const section = elf.sections[index];
  if (section === undefined || section.type === SHT_NOBITS)
    throw new HyperturtleError(
      'HT_BPF',
      `the object has no .rodata to set ${Object.keys(constants).join(', ')} in: declare it 'const volatile'`,
    );
  const out = bytes.slice(section.offset, section.offset + section.size);
  const view = viewOf(out);
  for (const [name, value] of Object.entries(constants)) {
    const symbol = elf.symbols.find((s) => s.name === name && s.section === index);
    if (symbol === undefined)
      throw new HyperturtleError(
        'HT_BPF',
        `the object has no constant '${name}' in .rodata: declare it 'const volatile'`,
      );
    const { value: at, size } = symbol;
    if (![1, 2, 4, 8].includes(size) || at + size > out.length)
      throw new HyperturtleError(
        'HT_BPF',
        `constant '${name}': ${size} bytes at ${at} of .rodata do not make sense`,
      );
    const v = BigInt(value);
    if (v < 0n || v >> BigInt(8 * size) !== 0n)
      throw new HyperturtleError('HT_BPF', `constant '${name}': ${v} does not fit ${size} bytes`);
    for (let i = 0; i < size; i++) view.setUint8(at + i, Number((v >> BigInt(8 * i)) & 0xffn));
  }
  return out;
}
