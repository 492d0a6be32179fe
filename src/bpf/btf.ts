/**
 * BTF, the types of an eBPF object: parsed and checked in full, because libbpf before 1.3 trusts type numbers and
 * offsets in it. Pure.
 */
import { HyperturtleError } from '../core/errors.ts';
import { viewOf } from '../kernel/struct.ts';
import { BTF_HEADER, BTF_KIND, BTF_MAGIC, BTF_TYPE, extraBytes, kindOf, vlenOf } from './btf-kinds.ts';

interface BtfMember {
  name: string;
  type: number;
  /** Offset of a variable in a DATASEC, in bytes; else 0. */
  offset: number;
}

export interface BtfType {
  id: number;
  kind: number;
  name: string;
  /** Bytes of types that have a size, else 0. */
  size: number;
  /** The type that it refers to, else 0. */
  type: number;
  /** Raw `vlen`: linkage of functions. */
  vlen: number;
  /** Linkage of VAR: 0 static, 1 global, 2 extern. */
  linkage: number;
  /** Members of STRUCT and UNION; variables of DATASEC. */
  members: BtfMember[];
  /** Elements of ARRAY. */
  elements: number;
}

const MAX_DEPTH = 32;
const FOLLOWED: ReadonlySet<number> = new Set([8, 9, 10, 11, 18]);
const HAS_TYPE: ReadonlySet<number> = new Set([2, 8, 9, 10, 11, 12, 13, 14, 17, 18]);
const HAS_SIZE: ReadonlySet<number> = new Set([1, 4, 5, 6, 15, 16, 19]);

function bad(why: string): never {
  throw new HyperturtleError('HT_BPF', `bad BTF: ${why}; build the object with clang -target bpf -g`);
}

export class Btf {
  /** By number; 0 is void. */
  readonly types: readonly BtfType[];
  readonly #strings: Uint8Array;

  /** Throws HT_BPF. */
  constructor(bytes: Uint8Array) {
    const view = viewOf(bytes);
    if (bytes.length < BTF_HEADER) bad(`${bytes.length} bytes are too few`);
    if (view.getUint16(0, true) !== BTF_MAGIC || view.getUint8(2) !== 1) bad('magic or version');
    const header = view.getUint32(4, true);
    if (header < BTF_HEADER || header > bytes.length) bad('length of the header');
    const section = (at: number, what: string): Uint8Array => {
      const from = header + view.getUint32(at, true);
      const size = view.getUint32(at + 4, true);
      if (from + size > bytes.length) bad(`${what} lie outside`);
      return bytes.subarray(from, from + size);
    };
    if (view.getUint32(8, true) % 4 !== 0) bad('types are not aligned');
    this.#strings = section(16, 'strings');
    if (this.#strings.length === 0 || this.#strings[0] !== 0 || this.#strings.at(-1) !== 0)
      bad('strings do not begin and end with a NUL');
    this.types = this.#parse(section(8, 'types'));
    this.#checkReferences();
  }

  string(offset: number): string {
    if (offset >= this.#strings.length) bad(`string at ${offset} lies outside`);
    const end = this.#strings.indexOf(0, offset);
    return Buffer.from(this.#strings.subarray(offset, end)).toString('latin1');
  }

  type(id: number): BtfType {
    return this.types[id] ?? bad(`there is no type ${id}`);
  }

  /** Without typedefs, const, volatile, restrict. */
  plain(id: number): BtfType {
    let t = this.type(id);
    for (let depth = 0; FOLLOWED.has(t.kind); depth++) {
      if (depth === MAX_DEPTH) bad(`type ${id} refers to itself, or too far`);
      t = this.type(t.type);
    }
    return t;
  }

  /** Bytes of a value of the type. */
  sizeOf(id: number): number {
    let count = 1;
    let t = this.plain(id);
    for (let depth = 0; t.kind === BTF_KIND.ARRAY; depth++) {
      if (depth === MAX_DEPTH) bad(`type ${id}: arrays of arrays too deep`);
      count *= t.elements;
      t = this.plain(t.type);
    }
    const size = t.kind === BTF_KIND.PTR ? 8 : t.size;
    if (!HAS_SIZE.has(t.kind) && t.kind !== BTF_KIND.PTR) bad(`type ${id} has no size`);
    if (size * count > 0xffff_ffff) bad(`type ${id} is larger than 4 GiB`);
    return size * count;
  }

  #parse(raw: Uint8Array): BtfType[] {
    const view = viewOf(raw);
    const types: BtfType[] = [
      { id: 0, kind: 0, name: '', size: 0, type: 0, vlen: 0, linkage: 0, members: [], elements: 0 },
    ];
    for (let at = 0; at < raw.length; ) {
      if (at + BTF_TYPE > raw.length) bad('a type is cut off');
      const info = view.getUint32(at + 4, true);
      const kind = kindOf(info);
      const vlen = vlenOf(info);
      const word = view.getUint32(at + 8, true);
      const extra = extraBytes(info) ?? bad(`kind ${kind} is unknown`);
      const body = at + BTF_TYPE;
      if (body + extra > raw.length) bad(`type ${types.length} is cut off`);
      const u32 = (offset: number): number => view.getUint32(body + offset, true);
      const each = <T>(size: number, f: (offset: number) => T): T[] =>
        Array.from({ length: vlen }, (_, i) => f(i * size));
      const t: BtfType = {
        id: types.length,
        kind,
        name: this.string(view.getUint32(at, true)),
        size: HAS_SIZE.has(kind) ? word : 0,
        type: HAS_TYPE.has(kind) ? word : 0,
        vlen,
        linkage: kind === BTF_KIND.VAR ? u32(0) : 0,
        members: [],
        elements: 0,
      };
      if (kind === BTF_KIND.STRUCT || kind === BTF_KIND.UNION)
        t.members = each(12, (o) => ({ name: this.string(u32(o)), type: u32(o + 4), offset: 0 }));
      else if (kind === BTF_KIND.FUNC_PROTO)
        t.members = each(8, (o) => ({ name: this.string(u32(o)), type: u32(o + 4), offset: 0 }));
      else if (kind === BTF_KIND.DATASEC)
        t.members = each(12, (o) => ({ name: '', type: u32(o), offset: u32(o + 4) }));
      else if (kind === BTF_KIND.ENUM) each(8, (o) => this.string(u32(o)));
      else if (kind === BTF_KIND.ENUM64) each(12, (o) => this.string(u32(o)));
      else if (kind === BTF_KIND.ARRAY) {
        t.type = u32(0);
        t.members = [{ name: '', type: u32(4), offset: 0 }];
        t.elements = u32(8);
      }
      types.push(t);
      at = body + extra;
    }
    return types;
  }

  #checkReferences(): void {
    for (const t of this.types) {
      const to = this.type(t.type);
      for (const m of t.members) {
        const member = this.type(m.type);
        if (t.kind === BTF_KIND.DATASEC && member.kind !== BTF_KIND.VAR && member.kind !== BTF_KIND.FUNC)
          bad(`section ${t.name} holds type ${m.type}, which is no variable`);
      }
      if (t.kind === BTF_KIND.FUNC && to.kind !== BTF_KIND.FUNC_PROTO)
        bad(`function ${t.name} has no prototype`);
      if (FOLLOWED.has(t.kind)) this.plain(t.id);
    }
    this.#checkArrays();
  }

  /** libbpf follows element types without a limit in some places. */
  #checkArrays(): void {
    for (const t of this.types) {
      let e = t;
      for (let depth = 0; e.kind === BTF_KIND.ARRAY; depth++) {
        if (depth === MAX_DEPTH) bad(`type ${t.id}: arrays of arrays too deep`);
        e = this.plain(e.type);
      }
    }
  }
}

interface FunctionRecord {
  section: string;
  /** Byte offset in its section. */
  offset: number;
  type: number;
}

export interface BtfExt {
  functions: FunctionRecord[];
  /** Number of CO-RE relocations. */
  coreRelocations: number;
}

/** The tables beside BTF: which function begins where, source lines, CO-RE relocations. Throws HT_BPF. */
export function parseBtfExt(bytes: Uint8Array, btf: Btf): BtfExt {
  const view = viewOf(bytes);
  if (bytes.length < BTF_HEADER) bad(`.BTF.ext of ${bytes.length} bytes`);
  if (view.getUint16(0, true) !== BTF_MAGIC || view.getUint8(2) !== 1) bad('magic or version of .BTF.ext');
  const header = view.getUint32(4, true);
  if (header < BTF_HEADER || header > bytes.length || header % 4 !== 0)
    bad('length of the header of .BTF.ext');
  const functions: FunctionRecord[] = [];
  const each = (at: number, minBytes: number, use: (section: string, record: number) => void): void => {
    const offset = view.getUint32(at, true);
    const size = view.getUint32(at + 4, true);
    if (size === 0) return;
    let p = header + offset;
    const end = p + size;
    if (offset % 4 !== 0 || size % 4 !== 0 || end > bytes.length || size < 4)
      bad('a table of .BTF.ext lies outside');
    const record = view.getUint32(p, true);
    if (record < minBytes || record % 4 !== 0 || record > 1024) bad(`records of ${record} bytes in .BTF.ext`);
    for (p += 4; p < end; ) {
      if (p + 8 > end) bad('a table of .BTF.ext is cut off');
      const section = btf.string(view.getUint32(p, true));
      const n = view.getUint32(p + 4, true);
      p += 8;
      if (n === 0 || p + n * record > end) bad('a table of .BTF.ext is cut off');
      for (let i = 0; i < n; i++, p += record) use(section, p);
    }
  };
  each(8, 8, (section, p) => {
    const type = view.getUint32(p + 4, true);
    if (btf.type(type).kind !== BTF_KIND.FUNC) bad(`type ${type} of .BTF.ext is no function`);
    functions.push({ section, offset: view.getUint32(p, true), type });
  });
  each(16, 16, (_, p) => {
    btf.string(view.getUint32(p + 4, true));
    btf.string(view.getUint32(p + 8, true));
  });
  let coreRelocations = 0;
  if (header >= 32) each(24, 16, () => coreRelocations++);
  return { functions, coreRelocations };
}
