/** eBPF instructions as the kernel's documentation numbers them (Documentation/bpf/standardization/instruction-set.rst). */

export const INSN_BYTES = 8;

/** Of two slots: a 64-bit constant, or a reference when the source register says so. */
export const OP_LD_IMM64 = 0x18;
export const OP_CALL = 0x85;
export const OP_ATOMIC32 = 0xc3;
export const OP_ATOMIC64 = 0xdb;

/** Source register of OP_CALL. */
export const CALL_HELPER = 0;
export const CALL_FUNCTION = 1;
export const CALL_KFUNC = 2;

/** Source register of OP_LD_IMM64 by what it then refers to. */
export const PSEUDO_NAMES: Readonly<Record<number, string>> = {
  1: 'a map descriptor number',
  2: 'a value in a map by descriptor number',
  3: 'a kernel variable',
  4: 'a function as callback',
  5: 'a map by index',
  6: 'a value in a map by index',
};

const CLASS_LDX = 1;
const CLASS_ST = 2;
const CLASS_STX = 3;
const CLASS_ALU = 4;
const CLASS_JMP = 5;
const CLASS_JMP32 = 6;
const CLASS_ALU64 = 7;

const JUMPS = [0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xa0, 0xb0, 0xc0, 0xd0];
/** add sub mul div or and lsh rsh neg mod xor mov arsh end */
const ARITHMETIC = [0, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0];
const SIZES = [0x00, 0x08, 0x10, 0x18];
const MODE_MEM = 0x60;
const MODE_MEMSX = 0x80;
const SOURCE_REGISTER = 8;

/**
 * Versions 1 to 4 of the instruction set without what has no place in a hyperupcall: packet access by BPF_LD_ABS/IND,
 * indirect calls and jumps, and `may_goto` (a loop that the verifier does not walk).
 */
export const PLAIN_OPCODES: ReadonlySet<number> = new Set([
  OP_LD_IMM64,
  OP_CALL,
  OP_ATOMIC32,
  OP_ATOMIC64,
  ...SIZES.flatMap((s) => [MODE_MEM | s | CLASS_LDX, MODE_MEM | s | CLASS_ST, MODE_MEM | s | CLASS_STX]),
  ...[0x00, 0x08, 0x10].map((s) => MODE_MEMSX | s | CLASS_LDX),
  ...ARITHMETIC.flatMap((op) => [CLASS_ALU, CLASS_ALU64].flatMap((c) => [op | c, op | c | SOURCE_REGISTER])),
  ...JUMPS.flatMap((op) => [CLASS_JMP, CLASS_JMP32].flatMap((c) => [op | c, op | c | SOURCE_REGISTER])),
  CLASS_JMP, // ja
  CLASS_JMP32, // ja with a 32-bit offset
  0x90 | CLASS_JMP, // exit
]);

/** imm of the atomic instructions: add, or, and, xor, each also with fetch; exchange, compare-and-exchange; load-acquire, store-release. */
export const ATOMICS: ReadonlySet<number> = new Set([
  0x00, 0x40, 0x50, 0xa0, 0x01, 0x41, 0x51, 0xa1, 0xe1, 0xf1, 0x100, 0x110,
]);
