/**
 * Small typed codecs for C structs on x86-64: natural alignment, little-endian, fields in declaration order. The
 * layouts built from them are compared with the compiler's by test/unit/kernel/abi.test.ts.
 */

/** Reads and writes one C type. `at` is a byte offset into the view. */
export interface Codec<T> {
  readonly size: number;
  readonly align: number;
  read(view: DataView, at: number): T;
  write(view: DataView, at: number, value: T): void;
}

export type ValueOf<C> = C extends Codec<infer T> ? T : never;

function scalar<T>(
  size: number,
  read: (view: DataView, at: number) => T,
  write: (view: DataView, at: number, value: T) => void,
): Codec<T> {
  return { size, align: size, read, write };
}

export const u32 = scalar<number>(
  4,
  (v, at) => v.getUint32(at, true),
  (v, at, x) => v.setUint32(at, x, true),
);
export const s32 = scalar<number>(
  4,
  (v, at) => v.getInt32(at, true),
  (v, at, x) => v.setInt32(at, x, true),
);
/** For addresses, table entries and masks, which use all 64 bits. */
export const u64 = scalar<bigint>(
  8,
  (v, at) => v.getBigUint64(at, true),
  (v, at, x) => v.setBigUint64(at, x, true),
);
/** A u64 that counts or measures something: a plain number, exact below 2^53. */
export const count = scalar<number>(
  8,
  (v, at) => Number(v.getBigUint64(at, true)),
  (v, at, x) => v.setBigUint64(at, BigInt(x), true),
);

/** `char name[size]`, ended by a NUL. Longer text is an error: the kernel would take a cut name for another one. */
export function text(size: number): Codec<string> {
  return {
    size,
    align: 1,
    read(view, at) {
      let s = '';
      for (let i = 0; i < size; i++) {
        const c = view.getUint8(at + i);
        if (c === 0) break;
        s += String.fromCharCode(c);
      }
      return s;
    },
    write(view, at, value) {
      if (value.length >= size)
        throw new RangeError(`'${value}' has ${value.length} characters; at most ${size - 1} fit`);
      for (let i = 0; i < size; i++) {
        const c = i < value.length ? value.charCodeAt(i) : 0;
        if (c > 0x7e || (i < value.length && c < 0x20))
          throw new RangeError(`'${value}': only printable ASCII is allowed`);
        view.setUint8(at + i, c);
      }
    },
  };
}

export function array<T>(of: Codec<T>, length: number): Codec<T[]> {
  return {
    size: of.size * length,
    align: of.align,
    read: (view, at) => Array.from({ length }, (_, i) => of.read(view, at + i * of.size)),
    write(view, at, value) {
      if (value.length > length) throw new RangeError(`${value.length} elements; at most ${length} fit`);
      value.forEach((x, i) => of.write(view, at + i * of.size, x));
    },
  };
}

/** Memory whose layout depends on something else; a shorter value is filled up with zeros. */
export function bytes(size: number, align = 8): Codec<Uint8Array> {
  return {
    size,
    align,
    read: (view, at) => new Uint8Array(view.buffer, view.byteOffset + at, size).slice(),
    write(view, at, value) {
      if (value.length > size) throw new RangeError(`${value.length} bytes; at most ${size} fit`);
      new Uint8Array(view.buffer, view.byteOffset + at, size).set(value);
    },
  };
}

/** The same type at a coarser alignment, as `__attribute__((aligned(n)))`. */
export function aligned<T>(align: number, of: Codec<T>): Codec<T> {
  return { size: of.size, align, read: of.read.bind(of), write: of.write.bind(of) };
}

const nothing = (): undefined => undefined;

/** Space for later versions: not part of the value; zero when encoded. */
export function reserved(words: number): Codec<undefined> {
  return { size: words * 8, align: 8, read: nothing, write: nothing };
}

export type Fields = Readonly<Record<string, Codec<unknown>>>;
export type StructValue<F extends Fields> = {
  [K in keyof F as F[K] extends Codec<undefined> ? never : K]: ValueOf<F[K]>;
};

export interface StructCodec<F extends Fields> extends Codec<StructValue<F>> {
  readonly cName: string;
  readonly fields: F;
  /** Byte offset of each field. */
  readonly offsets: Readonly<Record<keyof F, number>>;
  /** A new buffer of exactly `size` bytes; fields left out are zero. */
  encode(value: Partial<StructValue<F>>): Uint8Array;
  /** Throws RangeError when `bytes` is shorter than the struct. */
  decode(bytes: Uint8Array): StructValue<F>;
}

/** `cName` is the C type's full name (`struct ht_run`), for messages and for the test of the layout. */
export function struct<F extends Fields>(cName: string, fields: F): StructCodec<F> {
  let end = 0;
  let align = 1;
  const offsets = {} as Record<keyof F, number>;
  const entries = Object.entries(fields) as [keyof F, Codec<unknown>][];
  for (const [name, field] of entries) {
    end = Math.ceil(end / field.align) * field.align;
    offsets[name] = end;
    end += field.size;
    align = Math.max(align, field.align);
  }
  const size = Math.ceil(end / align) * align;
  const named = entries.filter(([, field]) => field.read !== nothing);
  const read = (view: DataView, at: number): StructValue<F> => {
    const value: Partial<Record<keyof F, unknown>> = {};
    for (const [name, field] of named) value[name] = field.read(view, at + offsets[name]);
    // the mapped type is not resolved while F is open: every named field was just read
    return value as unknown as StructValue<F>;
  };
  const write = (view: DataView, at: number, value: object): void => {
    const given: Partial<Record<keyof F, unknown>> = value;
    for (const [name, field] of named)
      if (given[name] !== undefined) field.write(view, at + offsets[name], given[name]);
  };
  return {
    cName,
    fields,
    offsets,
    size,
    align,
    read,
    write,
    encode(value) {
      const bytes = new Uint8Array(size);
      write(viewOf(bytes), 0, value);
      return bytes;
    },
    decode(bytes) {
      if (bytes.length < size)
        throw new RangeError(`${cName}: ${size} bytes expected, ${bytes.length} found`);
      return read(viewOf(bytes), 0);
    },
  };
}

/** A view of exactly these bytes: a Buffer is often a window into a larger pool. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
