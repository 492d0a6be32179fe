/** Damaged copies of an object, the same for the same seed. */
import { parseElf } from '../../src/bpf/elf.ts';

/** mulberry32: 32 bits of state are plenty here. */
export function random(seed: number): (below: number) => number {
  let a = seed >>> 0;
  return (below) => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

const INTERESTING = [0, 1, 2, 4, 7, 8, 0x7f, 0x80, 0xff];

/** Bytes of the file that mean something to libbpf or the kernel: all but what debuggers read. */
function meaningful(elf: Uint8Array): [from: number, to: number][] {
  const { sections } = parseElf(elf);
  const table = Number(new DataView(elf.buffer, elf.byteOffset).getBigUint64(40, true));
  return [
    [0, 64],
    [table, table + 64 * sections.length],
    ...sections
      .filter((s) => s.size > 0 && s.type !== 8 && !/debug|llvm/.test(s.name))
      .map((s): [number, number] => [s.offset, s.offset + s.size]),
  ];
}

/** As mutateIn, in the bytes of an object that mean something. */
export const mutate = (elf: Uint8Array, seed: number): Uint8Array => mutateIn(elf, meaningful(elf), seed);

/** One copy in eight is cut off; the others have 1 to 4 changes of 1, 2 or 4 bytes, each in one of `ranges`. */
export function mutateIn(
  bytes: Uint8Array,
  ranges: readonly (readonly [from: number, to: number])[],
  seed: number,
): Uint8Array {
  const next = random(seed);
  const copy = new Uint8Array(bytes); // a Buffer's slice() would share its memory
  if (next(8) === 0) return copy.subarray(0, next(bytes.length));
  for (let n = 1 + next(4); n > 0; n--) {
    const [from, to] = ranges[next(ranges.length)] ?? [0, 64];
    const at = from + next(to - from);
    const value = next(2) === 0 ? (INTERESTING[next(INTERESTING.length)] ?? 0) : next(256);
    for (let i = 0; i < [1, 1, 2, 4][next(4)]! && at + i < copy.length; i++)
      copy[at + i] = i === 0 ? value : next(256);
  }
  return copy;
}

const INSN_BYTES = 8;
/** Where the code of an object is. */
export function codeRanges(elf: Uint8Array): [from: number, to: number][] {
  const SHF_EXECINSTR = 4;
  return parseElf(elf)
    .sections.filter((s) => s.flags & SHF_EXECINSTR && s.size >= INSN_BYTES)
    .map((s): [number, number] => [s.offset, s.offset + s.size]);
}

/**
 * A copy with 1 to 3 instructions changed: another one of the same code in its place, or its opcode, register, offset or
 * number, mostly where it had one. `code`: of codeRanges, as parsing takes longer than all else here.
 */
export function mutateCode(
  elf: Uint8Array,
  code: readonly (readonly [number, number])[],
  seed: number,
): Uint8Array {
  const next = random(seed);
  const copy = new Uint8Array(elf); // a Buffer's slice() would share its memory
  const view = new DataView(copy.buffer);
  const pick = (): number => {
    const [from, to] = code[next(code.length)]!;
    return from + INSN_BYTES * next((to - from) / INSN_BYTES);
  };
  for (let n = 1 + next(3); n > 0; n--) {
    const at = pick();
    const other = pick();
    const kind = next(12);
    if (kind < 4) copy.set(elf.subarray(other, other + INSN_BYTES), at);
    else if (kind < 6 && (elf[at]! & 7) === (elf[other]! & 7)) copy[at] = elf[other]!;
    else if (kind === 6) copy[at] = next(256);
    else if (kind < 9) copy[at + 1] = (elf[at + 1]! & 0xf0) | next(11);
    else if (kind === 9 && view.getInt16(at + 2, true) !== 0) view.setInt16(at + 2, next(64) - 32, true);
    else if (view.getInt32(at + 4, true) !== 0) view.setInt32(at + 4, next(300) - 8, true);
  }
  return copy;
}
