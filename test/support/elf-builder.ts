/** Builds small eBPF objects byte by byte: also such as no compiler makes. */

export interface SectionSpec {
  name: string;
  type?: number;
  flags?: number;
  content?: Uint8Array;
  /** Of a section without content in the file. */
  size?: number;
  link?: number;
  info?: number;
  entryBytes?: number;
}

export interface SymbolSpec {
  name: string;
  /** Name of its section, or a number. */
  section: string | number;
  value?: number;
  size?: number;
  /** STT_*; default function. */
  type?: number;
  /** STB_*; default global. */
  binding?: number;
}

interface RelocationSpec {
  offset: number;
  symbol: string;
  type?: number;
}

export const HOOK_SECTION = 'raw_tp.w/hyperturtle_npf';

/** One instruction of 8 bytes. */
export function insn(opcode: number, dst = 0, src = 0, offset = 0, imm = 0): Uint8Array {
  const b = new Uint8Array(8);
  const v = new DataView(b.buffer);
  b[0] = opcode;
  b[1] = dst | (src << 4);
  v.setInt16(2, offset, true);
  v.setInt32(4, imm | 0, true);
  return b;
}

export const MOV0 = insn(0xb7);
export const EXIT = insn(0x95);
export const call = (helper: number): Uint8Array => insn(0x85, 0, 0, 0, helper);
/** A 64-bit constant, or a reference of kind `src`. */
export const ldImm64 = (dst: number, src: number, imm: number): Uint8Array =>
  concat([insn(0x18, dst, src, 0, imm), insn(0)]);

export function concat(parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}

export interface ObjectSpec {
  /** Code of the program; default: returns 0. */
  code?: readonly Uint8Array[];
  section?: string;
  sections?: readonly SectionSpec[];
  symbols?: readonly SymbolSpec[];
  /** By section that they are for. */
  relocations?: Readonly<Record<string, readonly RelocationSpec[]>>;
}

/** A program `prog` in the hook's section, and what else is asked for. */
export function buildObject(spec: ObjectSpec = {}): Uint8Array {
  const code = concat(spec.code ?? [MOV0, EXIT]);
  const section = spec.section ?? HOOK_SECTION;
  return buildElf(
    [
      { name: section, flags: 6, content: code },
      { name: 'license', flags: 3, content: Buffer.from('GPL\0') },
      ...(spec.sections ?? []),
    ],
    [{ name: 'prog', section, size: code.length }, ...(spec.symbols ?? [])],
    spec.relocations,
  );
}

/** Programs that take long to walk: each some 70,000 steps in 200 calls of one function. */
export function slowPrograms(count: number): Uint8Array {
  const CALLS = 200;
  const toText = insn(0x85, 0, 1, 0, -1);
  const program = concat([...Array.from({ length: CALLS }, () => toText), MOV0, EXIT]);
  const called = concat([...Array.from({ length: 100 }, () => MOV0), EXIT]);
  const section = HOOK_SECTION;
  const each = <T>(make: (i: number) => T): T[] => Array.from({ length: count }, (_, i) => make(i));
  return buildElf(
    [
      { name: section, flags: 6, content: concat(each(() => program)) },
      { name: '.text', flags: 6, content: called },
      { name: 'license', flags: 3, content: Buffer.from('GPL\0') },
    ],
    [
      ...each((i) => ({ name: `p${i}`, section, value: i * program.length, size: program.length })),
      { name: 'called', section: '.text', size: called.length, binding: 0 },
    ],
    {
      [section]: each((i) =>
        Array.from({ length: CALLS }, (_, n) => ({
          offset: i * program.length + 8 * n,
          symbol: 'called',
          type: 10,
        })),
      ).flat(),
    },
  );
}

export function buildElf(
  own: readonly SectionSpec[],
  symbols: readonly SymbolSpec[],
  relocations: ObjectSpec['relocations'] = {},
): Uint8Array {
  const names = new Names();
  const all: SectionSpec[] = [{ name: '', type: 0 }, ...own];
  const indexOf = (name: string): number => all.findIndex((s) => s.name === name);
  const symtab = new Uint8Array(24 * (symbols.length + 1));
  const view = new DataView(symtab.buffer);
  symbols.forEach((s, i) => {
    const at = 24 * (i + 1);
    view.setUint32(at, names.add(s.name), true);
    symtab[at + 4] = ((s.binding ?? 1) << 4) | (s.type ?? 2);
    view.setUint16(at + 6, typeof s.section === 'number' ? s.section : indexOf(s.section), true);
    view.setBigUint64(at + 8, BigInt(s.value ?? 0), true);
    view.setBigUint64(at + 16, BigInt(s.size ?? 0), true);
  });
  const symtabIndex = all.length + Object.keys(relocations).length;
  for (const [target, list] of Object.entries(relocations)) {
    const content = new Uint8Array(16 * list.length);
    const v = new DataView(content.buffer);
    list.forEach((r, i) => {
      v.setBigUint64(16 * i, BigInt(r.offset), true);
      v.setUint32(16 * i + 8, r.type ?? 1, true);
      v.setUint32(16 * i + 12, symbols.findIndex((s) => s.name === r.symbol) + 1, true);
    });
    all.push({
      name: `.rel${target}`,
      type: 9,
      content,
      link: symtabIndex,
      info: indexOf(target),
      entryBytes: 16,
    });
  }
  all.push({ name: '.symtab', type: 2, content: symtab, link: symtabIndex + 1, entryBytes: 24 });
  for (const s of all) names.add(s.name);
  names.add('.strtab');
  all.push({ name: '.strtab', type: 3, content: names.bytes() });
  return layOut(all, names);
}

function layOut(all: readonly SectionSpec[], names: Names): Uint8Array {
  const table = new Uint8Array(64 * all.length);
  const view = new DataView(table.buffer);
  const parts: Uint8Array[] = [];
  let at = 64;
  all.forEach((s, i) => {
    const content = s.content ?? new Uint8Array();
    const h = 64 * i;
    view.setUint32(h, names.add(s.name), true);
    view.setUint32(h + 4, s.type ?? 1, true);
    view.setBigUint64(h + 8, BigInt(s.flags ?? 0), true);
    view.setBigUint64(h + 24, BigInt(i === 0 ? 0 : at), true);
    view.setBigUint64(h + 32, BigInt(s.size ?? content.length), true);
    view.setUint32(h + 40, s.link ?? 0, true);
    view.setUint32(h + 44, s.info ?? 0, true);
    view.setBigUint64(h + 48, 8n, true);
    view.setBigUint64(h + 56, BigInt(s.entryBytes ?? 0), true);
    const padded = new Uint8Array(Math.ceil(content.length / 8) * 8);
    padded.set(content);
    parts.push(padded);
    at += padded.length;
  });
  const header = new Uint8Array(64);
  const v = new DataView(header.buffer);
  header.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  v.setUint16(16, 1, true);
  v.setUint16(18, 247, true);
  v.setUint32(20, 1, true);
  v.setBigUint64(40, BigInt(at), true);
  v.setUint16(52, 64, true);
  v.setUint16(58, 64, true);
  v.setUint16(60, all.length, true);
  v.setUint16(62, all.length - 1, true);
  return concat([header, ...parts, table]);
}

class Names {
  readonly #offsets = new Map<string, number>([['', 0]]);
  #length = 1;

  add(name: string): number {
    const known = this.#offsets.get(name);
    if (known !== undefined) return known;
    const at = this.#length;
    this.#offsets.set(name, at);
    this.#length += Buffer.byteLength(name) + 1;
    return at;
  }

  bytes(): Uint8Array {
    return new Uint8Array(Buffer.from(`${Array.from(this.#offsets.keys()).join('\0')}\0`));
  }
}
