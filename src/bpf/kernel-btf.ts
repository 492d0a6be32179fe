/**
 * The running kernel's types as it shows them in /sys/kernel/btf: of the kernel, and of a module on top of those. Only what is
 * asked for is decoded, as there are a hundred thousand. What they mean is not checked as an object's is (src/bpf/btf.ts), as
 * the kernel made them; that they lie inside the bytes is. Pure.
 */
import { HyperturtleError } from '../core/errors.ts';
import { viewOf } from '../kernel/struct.ts';
import { BTF_HEADER, BTF_KIND, BTF_MAGIC, BTF_TYPE, extraBytes, kindOf, vlenOf } from './btf-kinds.ts';

const MAX_DEPTH = 32;
/** Bytes of the longest name that a kernel has. */
const MAX_NAME = 512;

function bad(why: string): never {
  throw new HyperturtleError('HT_UNSUPPORTED', `the kernel's type information (BTF) cannot be read: ${why}`);
}

interface Found {
  btf: KernelBtf;
  at: number;
}

export class KernelBtf {
  readonly #view: DataView;
  readonly #strings: Uint8Array;
  readonly #firstString: number;
  readonly #firstType: number;
  /** Where each type begins. */
  readonly #at: Uint32Array;
  readonly #count: number;
  readonly #base: KernelBtf | undefined;

  /** `base`: what a module's types stand on. Throws HT_UNSUPPORTED, as all methods do, and nothing else. */
  constructor(bytes: Uint8Array, base?: KernelBtf) {
    this.#view = viewOf(bytes);
    if (bytes.length < BTF_HEADER || this.#view.getUint16(0, true) !== BTF_MAGIC) bad('it has no header');
    if (bytes[2] !== 1) bad(`its version is ${bytes[2]}, expected 1`);
    const header = this.#word(4);
    if (header < BTF_HEADER) bad(`its header has ${header} bytes`);
    const types = header + this.#word(8);
    const end = types + this.#word(12);
    const strings = header + this.#word(16);
    const stringsEnd = strings + this.#word(20);
    if (end > bytes.length || stringsEnd > bytes.length) bad('it is cut off');
    this.#base = base;
    this.#strings = bytes.subarray(strings, stringsEnd);
    this.#firstString = base === undefined ? 0 : base.#firstString + base.#strings.length;
    this.#firstType = base === undefined ? 1 : base.#firstType + base.#count;
    this.#at = new Uint32Array(Math.floor((end - types) / BTF_TYPE));
    let count = 0;
    for (let at = types; at < end; count++) {
      if (at + BTF_TYPE > end) bad('a type is cut off');
      const info = this.#word(at + 4);
      this.#at[count] = at;
      at += BTF_TYPE + (extraBytes(info) ?? bad(`kind ${kindOf(info)} of a type is unknown`));
      if (at > end) bad('a type is cut off');
    }
    this.#count = count;
  }

  /** Parameters and result of a function, as C writes them; undefined: there is none of that name. */
  prototype(name: string): string | undefined {
    const found = this.#find(BTF_KIND.FUNC, name);
    return found && this.#signature(found.btf.#word(found.at + 8));
  }

  /** The same of what a tracepoint calls, without the first parameter, which is the caller's own. */
  tracepoint(name: string): string | undefined {
    const found = this.#find(BTF_KIND.TYPEDEF, `btf_trace_${name}`);
    if (found === undefined) return undefined;
    const pointer = this.#typeOf(BTF_KIND.PTR, found.btf.#word(found.at + 8));
    return this.#signature(pointer.btf.#word(pointer.at + 8)).replace('(void *, ', '(');
  }

  /** `offset+bytes` of a struct's member, in bytes. */
  member(struct: string, member: string): string | undefined {
    const found = this.#find(BTF_KIND.STRUCT, struct);
    if (found === undefined) return undefined;
    const { btf, at } = found;
    const info = btf.#word(at + 4);
    for (let i = 0, m = at + BTF_TYPE; i < vlenOf(info); i++, m += 12) {
      if (this.#string(btf.#word(m)) !== member) continue;
      const bits = info >>> 31 ? btf.#word(m + 8) & 0xffffff : btf.#word(m + 8);
      return `${bits / 8}+${this.#sizeOf(btf.#word(m + 4))}`;
    }
    return undefined;
  }

  /** Bytes of a struct. */
  size(struct: string): number | undefined {
    const found = this.#find(BTF_KIND.STRUCT, struct);
    return found && found.btf.#word(found.at + 8);
  }

  /** `at`: inside the header, or a type, which the constructor has seen to lie inside. */
  #word(at: number): number {
    return this.#view.getUint32(at, true);
  }

  /** In this, or else in what this stands on. */
  #find(kind: number, name: string): Found | undefined {
    const wanted = Buffer.from(`${name}\0`, 'latin1');
    for (let i = 0; i < this.#count; i++) {
      const at = this.#at[i]!;
      if (kindOf(this.#word(at + 4)) === kind && this.#named(this.#word(at), wanted))
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
    const name = this.#strings.subarray(from, from + MAX_NAME);
    const end = name.indexOf(0);
    if (end < 0) bad(`the name at ${offset} has no end`);
    return Buffer.from(name.subarray(0, end)).toString('latin1');
  }

  #type(id: number): Found {
    if (id < this.#firstType && this.#base !== undefined) return this.#base.#type(id);
    const index = id - this.#firstType;
    if (index < 0 || index >= this.#count) bad(`there is no type ${id}`);
    return { btf: this, at: this.#at[index]! };
  }

  #typeOf(kind: number, id: number): Found {
    const found = this.#type(id);
    const is = kindOf(found.btf.#word(found.at + 4));
    if (is !== kind) bad(`type ${id} is of kind ${is}, expected ${kind}`);
    return found;
  }

  #signature(proto: number): string {
    const { btf, at } = this.#typeOf(BTF_KIND.FUNC_PROTO, proto);
    const vlen = vlenOf(btf.#word(at + 4));
    const parameters = Array.from({ length: vlen }, (_, i) =>
      this.#name(btf.#word(at + BTF_TYPE + 8 * i + 4)),
    );
    return `${this.#name(btf.#word(at + 8))} (${parameters.join(', ')})`;
  }

  /** As C writes it, without qualifiers; typedefs by their own name. */
  #name(id: number, depth = 0): string {
    if (id === 0) return 'void';
    if (depth > MAX_DEPTH) bad(`type ${id} refers too far`);
    const { btf, at } = this.#type(id);
    const info = btf.#word(at + 4);
    const name = this.#string(btf.#word(at));
    const to = btf.#word(at + 8);
    switch (kindOf(info)) {
      case BTF_KIND.PTR:
        return `${this.#name(to, depth + 1)} *`.replace('* *', '**');
      case BTF_KIND.VOLATILE:
      case BTF_KIND.CONST:
      case BTF_KIND.RESTRICT:
      case BTF_KIND.TYPE_TAG:
        return this.#name(to, depth + 1);
      case BTF_KIND.STRUCT:
        return `struct ${name}`;
      case BTF_KIND.UNION:
        return `union ${name}`;
      case BTF_KIND.ENUM:
      case BTF_KIND.ENUM64:
        return `enum ${name}`;
      case BTF_KIND.FWD:
        return `${info >>> 31 ? 'union' : 'struct'} ${name}`;
      case BTF_KIND.FUNC_PROTO:
        return 'function';
      case BTF_KIND.ARRAY:
        return `${this.#name(btf.#word(at + BTF_TYPE), depth + 1)} []`;
      default:
        return name;
    }
  }

  #sizeOf(id: number, depth = 0): number {
    if (depth > MAX_DEPTH) bad(`type ${id} refers too far`);
    const { btf, at } = this.#type(id);
    const kind = kindOf(btf.#word(at + 4));
    const to = btf.#word(at + 8);
    if (kind === BTF_KIND.PTR) return 8;
    if (kind === BTF_KIND.ARRAY)
      return btf.#word(at + BTF_TYPE + 8) * this.#sizeOf(btf.#word(at + BTF_TYPE), depth + 1);
    if (kind >= BTF_KIND.TYPEDEF && kind !== BTF_KIND.ENUM64 && kind !== BTF_KIND.FLOAT)
      return this.#sizeOf(to, depth + 1);
    return to;
  }
}
