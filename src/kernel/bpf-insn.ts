/** eBPF instructions as the kernel's documentation numbers them (Documentation/bpf/standardization/instruction-set.rst). */

export const INSN_BYTES = 8;

/** r0 to r10; the four bits of an instruction can name five more, which do not exist. */
export const LAST_REGISTER = 10;
/** r10: where the stack ends. Programs read it only. */
export const FRAME_POINTER = 10;

/** One slot of 8 bytes; a 64-bit constant takes two. */
export interface Insn {
  op: number;
  dst: number;
  src: number;
  offset: number;
  imm: number;
}

/** The slot at byte offset `at`. */
export function decodeInsn(code: DataView, at: number): Insn {
  const registers = code.getUint8(at + 1);
  return {
    op: code.getUint8(at),
    dst: registers & 15,
    src: registers >> 4,
    offset: code.getInt16(at + 2, true),
    imm: code.getInt32(at + 4, true),
  };
}

/** Bits 0 to 2 of an opcode. */
export const CLASS_MASK = 0x07;
export const CLASS_LDX = 1;
export const CLASS_ST = 2;
export const CLASS_STX = 3;
export const CLASS_ALU = 4;
export const CLASS_JMP = 5;
export const CLASS_JMP32 = 6;
export const CLASS_ALU64 = 7;

/** Bits 4 to 7 of the opcodes of arithmetic. */
export const ALU_ADD = 0x00;
export const ALU_SUB = 0x10;
export const ALU_NEG = 0x80;
export const ALU_MOV = 0xb0;
export const ALU_END = 0xd0;
/** Bits 4 to 7 of the opcodes of jumps. */
export const JMP_JA = 0x00;
export const JMP_JEQ = 0x10;
export const JMP_JNE = 0x50;
export const OPERATION_MASK = 0xf0;
/** Arithmetic and jumps: the second operand is a register, not imm. */
export const SOURCE_REGISTER = 0x08;

/** Instruction of two slots: a 64-bit constant, or a reference when the source register says so. */
export const OP_LD_IMM64 = 0x18;
export const OP_CALL = 0x80 | CLASS_JMP;
export const OP_EXIT = 0x90 | CLASS_JMP;
/** Jumps by imm, not by the offset. */
export const OP_JA32 = JMP_JA | CLASS_JMP32;
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

const JUMPS = [0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xa0, 0xb0, 0xc0, 0xd0];
/** add sub mul div or and lsh rsh neg mod xor mov arsh end */
const ARITHMETIC = [0, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0];
const SIZES = [0x00, 0x08, 0x10, 0x18];
const MODE_MEM = 0x60;
const MODE_MEMSX = 0x80;

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
  JMP_JA | CLASS_JMP,
  OP_JA32,
  OP_EXIT,
]);

/** Bit of an atomic instruction's imm: the old value goes into the source register. */
export const ATOMIC_FETCH = 0x01;
export const ATOMIC_COMPARE_EXCHANGE = 0xf1;
export const ATOMIC_LOAD_ACQUIRE = 0x100;
export const ATOMIC_STORE_RELEASE = 0x110;

/** imm of the atomic instructions: add, or, and, xor, each also with fetch; exchange; and the ones above. */
export const ATOMICS: ReadonlySet<number> = new Set([
  ...[0x00, 0x40, 0x50, 0xa0].flatMap((op) => [op, op | ATOMIC_FETCH]),
  0xe1,
  ATOMIC_COMPARE_EXCHANGE,
  ATOMIC_LOAD_ACQUIRE,
  ATOMIC_STORE_RELEASE,
]);

/** The register that this instruction writes by its own fields; undefined: none, or r0 (calls, compare-and-exchange). */
export function writtenRegister({ op, dst, src, imm }: Insn): number | undefined {
  const cls = op & CLASS_MASK;
  if (op === OP_LD_IMM64 || cls === CLASS_LDX || cls === CLASS_ALU || cls === CLASS_ALU64) return dst;
  if (op !== OP_ATOMIC32 && op !== OP_ATOMIC64) return undefined;
  if (imm === ATOMIC_LOAD_ACQUIRE) return dst;
  return imm & ATOMIC_FETCH && imm !== ATOMIC_COMPARE_EXCHANGE ? src : undefined;
}
