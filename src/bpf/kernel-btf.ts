/**
 * The running kernel's types as it shows them in /sys/kernel/btf: of the kernel, and of a module on top of those. Only what is
 * asked for is decoded, as there are a hundred thousand. The kernel made them, so they are not checked as an object's
 * are (src/bpf/btf.ts). Pure.
 */
import { HyperturtleError } from '../core/errors.ts';

const MAGIC = 0xeb9f;
const KIND = { INT: 1, PTR: 2, ARRAY: 3, STRUCT: 4, UNION: 5, ENUM: 6, FWD: 7, TYPEDEF: 8 } as const;
const MORE = {
  VOLATILE: 9,
  CONST: 10,
  RESTRICT: 11,
  FUNC: 12,
  FUNC_PROTO: 13,
  TYPE_TAG: 18,
  ENUM64: 19,
} as const;
const MAX_DEPTH = 32;

/** Bytes behind the twelve that each type has, by kind: fixed, and for each of vlen. */
const EXTRA: Readonly<Record<number, readonly [number, number]>> = {
  1: [4, 0],
  3: [12, 0],
  4: [0, 12],
  5: [0, 12],
  6: [0, 8],
  13: [0, 8],
  14: [4, 0],
  15: [0, 12],
  17: [4, 0],
  19: [0, 12],
};

const bad = (why: string): never => {
  throw new HyperturtleError('HT_UNSUPPORTED', `the kernel's type information (BTF) cannot be read: ${why}`);
};

export class KernelBtf {
  readonly #view: DataView;
  readonly #strings: Uint8Array;
  readonly #firstString: number;
  readonly #firstType: number;
  /** Where each type begins. */
  readonly #at: Uint32Array;
  readonly #count: number;
  readonly #base: KernelBtf | undefined;

  /** Throws HT_UNSUPPORTED. `base`: what a module's types stand on. */
  constructor(bytes: Uint8Array, base?: KernelBtf) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    if (bytes.length < 24 || view.getUint16(0, true) !== MAGIC) bad('it has no header');
    const word = (at: number): number => view.getUint32(at, true);
    const [types, end] = [word(4) + word(8), word(4) + word(8) + word(12)];
    const strings = word(4) + word(16);
    if (end > bytes.length || strings + word(20) > bytes.length) bad('it is cut off');
    this.#view = view;
    this.#base = base;
    this.#strings = bytes.subarray(strings, strings + word(20));
    this.#firstString = base === undefined ? 0 : base.#firstString + base.#strings.length;
    this.#firstType = base === undefined ? 1 : base.#firstType + base.#count;
    this.#at = new Uint32Array((end - types) / 12);
    let count = 0;
    for (let at = types; at < end; count++) {
      this.#at[count] = at;
      const info = word(at + 4);
      const [fixed, each] = EXTRA[(info >>> 24) & 0x1f] ?? [0, 0];
      at += 12 + fixed + each * (info & 0xffff);
    }
    this.#count = count;
  }

  /** Parameters and result of a function, as C writes them; undefined: there is none of that name. */
  prototype(name: string): string | undefined {
    const at = this.#find(MORE.FUNC, name);
    return at && this.#signature(at.btf.#word(at.at + 8));
  }

  /** The same of what a tracepoint calls, without the first parameter, which is the caller's own. */
  tracepoint(name: string): string | undefined {
    const found = this.#find(KIND.TYPEDEF, `btf_trace_${name}`);
    if (found === undefined) return undefined;
    const pointer = this.#type(found.btf.#word(found.at + 8));
    return this.#signature(pointer.btf.#word(pointer.at + 8)).replace('(void *, ', '(');
  }

  /** `offset+bytes` of a struct's member, in bytes. */
  member(struct: string, member: string): string | undefined {
    const found = this.#find(KIND.STRUCT, struct);
    if (found === undefined) return undefined;
    const { btf, at } = found;
    const info = btf.#word(at + 4);
    for (let i = 0, m = at + 12; i < (info & 0xffff); i++, m += 12) {
      if (this.#string(btf.#word(m)) !== member) continue;
      const bits = info >>> 31 ? btf.#word(m + 8) & 0xffffff : btf.#word(m + 8);
      return `${bits / 8}+${this.#sizeOf(btf.#word(m + 4))}`;
    }
    return undefined;
  }

  /** Bytes of a struct. */
  size(struct: string): number | undefined {
    const found = this.#find(KIND.STRUCT, struct);
    return found && found.btf.#word(found.at + 8);
  }

  #word(at: number): number {
    return this.#view.getUint32(at, true);
  }

  /** In this, or else in what this stands on. */
  #find(kind: number, name: string): { btf: KernelBtf; at: number } | undefined {
    const wanted = Buffer.from(`${name}\0`, 'latin1');
    for (let i = 0; i < this.#count; i++) {
      const at = this.#at[i]!;
      if (((this.#word(at + 4) >>> 24) & 0x1f) === kind && this.#named(this.#word(at), wanted))
        return { btf: this, at };
    }
    return this.#base === undefined ? undefined : this.#base.#find(kind, name);
  }

  #named(offset: number, wanted: Uint8Array): boolean {
    if (this.#base !== undefined && offset < this.#firstString) return this.#base.#named(offset, wanted);
    const from = offset - this.#firstString;
    for (let i = 0; i < wanted.length; i++) if (this.#strings[from + i] !== wanted[i]) return false;
    return true;
  }

  #string(offset: number): string {
    if (this.#base !== undefined && offset < this.#firstString) return this.#base.#string(offset);
    const from = offset - this.#firstString;
    return Buffer.from(this.#strings.subarray(from, this.#strings.indexOf(0, from))).toString('latin1');
  }

  #type(id: number): { btf: KernelBtf; at: number } {
    if (id < this.#firstType && this.#base !== undefined) return this.#base.#type(id);
    const at = this.#at[id - this.#firstType];
    if (id === 0 || at === undefined || id - this.#firstType >= this.#count) bad(`there is no type ${id}`);
    return { btf: this, at: at! };
  }

  #signature(proto: number): string {
    const { btf, at } = this.#type(proto);
    const vlen = btf.#word(at + 4) & 0xffff;
    const parameters = Array.from({ length: vlen }, (_, i) => this.#name(btf.#word(at + 12 + 8 * i + 4)));
    return `${this.#name(btf.#word(at + 8))} (${parameters.join(', ')})`;
  }

  /** As C writes it, without qualifiers; typedefs by their own name. */
  #name(id: number, depth = 0): string {
    if (id === 0) return 'void';
    if (depth > MAX_DEPTH) bad(`type ${id} refers too far`);
    const { btf, at } = this.#type(id);
    const name = this.#string(btf.#word(at));
    const to = btf.#word(at + 8);
    switch ((btf.#word(at + 4) >>> 24) & 0x1f) {
      case KIND.PTR:
        return `${this.#name(to, depth + 1)} *`.replace('* *', '**');
      case MORE.VOLATILE:
      case MORE.CONST:
      case MORE.RESTRICT:
      case MORE.TYPE_TAG:
        return this.#name(to, depth + 1);
      case KIND.STRUCT:
        return `struct ${name}`;
      case KIND.UNION:
        return `union ${name}`;
      case KIND.ENUM:
      case MORE.ENUM64:
        return `enum ${name}`;
      case KIND.FWD:
        return `${btf.#word(at + 4) >>> 31 ? 'union' : 'struct'} ${name}`;
      case MORE.FUNC_PROTO:
        return 'function';
      case KIND.ARRAY:
        return `${this.#name(btf.#word(at + 12), depth + 1)} []`;
      default:
        return name;
    }
  }

  #sizeOf(id: number, depth = 0): number {
    if (depth > MAX_DEPTH) bad(`type ${id} refers too far`);
    const { btf, at } = this.#type(id);
    const kind = (btf.#word(at + 4) >>> 24) & 0x1f;
    if (kind === KIND.PTR) return 8;
    if (kind === KIND.ARRAY) return btf.#word(at + 20) * this.#sizeOf(btf.#word(at + 12), depth + 1);
    if (kind >= KIND.TYPEDEF && kind !== MORE.ENUM64 && kind !== 16)
      return this.#sizeOf(btf.#word(at + 8), depth + 1);
    return btf.#word(at + 8);
  }
}
