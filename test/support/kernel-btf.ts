/** Type information as a kernel shows it, made from prototypes and structs written as C. */

interface Described {
  /** Name to prototype: `int (struct kvm *, u32)`. */
  functions: Record<string, string>;
  tracepoints?: Record<string, string>;
  /** Name to bytes and members: name, offset, bytes. */
  structs: Record<string, { size: number; members: [string, number, number][] }>;
}

/** `base`: what a module's types stand on. */
export class BtfBytes {
  readonly #types: number[] = [];
  #strings = '\0';
  #count = 0;
  readonly #firstType: number;
  readonly #firstString: number;
  readonly #ids = new Map<string, number>();

  constructor(base?: BtfBytes) {
    this.#firstType = base === undefined ? 1 : base.#firstType + base.#count;
    this.#firstString = base === undefined ? 0 : base.#firstString + base.#strings.length;
    for (const [name, id] of base === undefined ? [] : base.#ids) this.#ids.set(name, id);
    if (base !== undefined) this.#strings = '';
  }

  add({ functions, tracepoints = {}, structs }: Described): this {
    for (const [name, { size, members }] of Object.entries(structs)) {
      const fields = members.flatMap(([m, offset, bytes]) => [
        this.#string(m),
        this.#once(`bytes${bytes}`, () => this.#type('', 4, 0, bytes)),
        offset * 8,
      ]);
      this.#ids.set(`struct ${name}`, this.#type(name, 4, members.length, size, fields));
    }
    for (const [name, prototype] of Object.entries(functions))
      this.#type(name, 12, 0, this.#proto(prototype));
    for (const [name, prototype] of Object.entries(tracepoints)) {
      const proto = this.#proto(prototype.replace('(', '(void *, '));
      this.#type(`btf_trace_${name}`, 8, 0, this.#type('', 2, 0, proto));
    }
    return this;
  }

  bytes(): Uint8Array {
    const header = new Uint32Array([
      0x0001eb9f,
      24,
      0,
      this.#types.length * 4,
      this.#types.length * 4,
      this.#strings.length,
    ]);
    return Buffer.concat([
      Buffer.from(header.buffer),
      Buffer.from(Uint32Array.from(this.#types).buffer),
      Buffer.from(this.#strings, 'latin1'),
    ]);
  }

  #string(text: string): number {
    if (text === '') return 0;
    this.#strings += `${text}\0`;
    return this.#firstString + this.#strings.length - text.length - 1;
  }

  #type(name: string, kind: number, vlen: number, word: number, extra: number[] = []): number {
    this.#types.push(this.#string(name), (kind << 24) | vlen, word, ...extra);
    return this.#firstType + this.#count++;
  }

  #once(key: string, make: () => number): number {
    const id = this.#ids.get(key) ?? make();
    this.#ids.set(key, id);
    return id;
  }

  #proto(text: string): number {
    const [, result = '', parameters = ''] = /^(.*) \((.*)\)$/.exec(text) ?? [];
    const each = parameters === '' ? [] : parameters.split(', ').map((p) => this.#named(p));
    return this.#type(
      '',
      13,
      each.length,
      this.#named(result),
      each.flatMap((id) => [0, id]),
    );
  }

  #named(text: string): number {
    if (text === 'void') return 0;
    if (text.endsWith(' *')) {
      const to = this.#named(text.slice(0, -2));
      return this.#once(text, () => this.#type('', 2, 0, to));
    }
    const [kind, name = ''] = text.split(' ');
    return this.#once(text, () => {
      if (kind === 'struct') return this.#type(name, 7, 0, 0);
      if (kind === 'enum') return this.#type(name, 6, 0, 4);
      return this.#type(text, 1, 0, 8, [64]);
    });
  }
}
