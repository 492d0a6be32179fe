/**
 * The program that runs a chain of hyperupcalls on a network device: made for the chain's length, so that there is no
 * file to ship and nothing to decide per frame. It calls each of them by a tail call out of a function of its own, from
 * which the kernel returns to it (tail calls mixed with calls: Linux 5.10 on x86-64), and alone decides what an
 * answer means: go on, or drop. So no program can redirect or steal a frame.
 */
import { BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_XDP } from '../../kernel/bpf.ts';
import { INSN_BYTES } from '../../kernel/bpf-insn.ts';
import {
  TC_ACT_OK,
  TC_ACT_PIPE,
  TC_ACT_SHOT,
  TC_ACT_UNSPEC,
  XDP_DROP,
  XDP_PASS,
} from '../../kernel/packet.ts';
import type { FunctionTypes } from '../../bpf/net.ts';
import type { PacketHook } from '../hooks.ts';

/** Programs on one hook of one NIC; the kernel allows 33 tail calls. */
export const MAX_CHAIN = 16;

/** Counters of each program in the chain, per CPU: runs, frames dropped. */
export const COUNT_BYTES = 16;
/** Behind the counters of all: what an empty slot answers, for the verifier a number that may be anything (see below). */
const EMPTY_ANSWER = COUNT_BYTES * MAX_CHAIN;
export const COUNTS_BYTES = EMPTY_ANSWER + 8;

/** The counters as a chain begins with them. `whenEmptied`: what becomes of frames once nobody holds its programs. */
export function firstCounts(hook: PacketHook, whenEmptied: 'pass' | 'drop'): Uint8Array {
  const value = new Uint8Array(COUNTS_BYTES);
  new DataView(value.buffer).setInt32(EMPTY_ANSWER, ANSWERS[hook][whenEmptied], true);
  return value;
}

interface Answers {
  programType: number;
  /** The next program runs. */
  next: readonly number[];
  /** No further program of the chain runs, the frame passes. */
  accept: readonly number[];
  /** What the chain answers: `pass` leaves it to whatever else is attached there. */
  pass: number;
  drop: number;
}

const TC: Answers = {
  programType: BPF_PROG_TYPE_SCHED_CLS,
  next: [TC_ACT_UNSPEC, TC_ACT_PIPE],
  accept: [TC_ACT_OK],
  pass: TC_ACT_UNSPEC,
  drop: TC_ACT_SHOT,
};
export const ANSWERS: Readonly<Record<PacketHook, Answers>> = {
  xdp: { programType: BPF_PROG_TYPE_XDP, next: [XDP_PASS], accept: [], pass: XDP_PASS, drop: XDP_DROP },
  'tc-ingress': TC,
  'tc-egress': TC,
};

const R0 = 0;
const R1 = 1;
const R2 = 2;
const R3 = 3;
const R6 = 6;
const R7 = 7;
const R10 = 10;
const MAP_LOOKUP = 1;
const TAIL_CALL = 12;
const PSEUDO_CALL = 1;
const PSEUDO_MAP_FD = 1;

type Slot = readonly [op: number, dst: number, src: number, offset: number, imm: number];

const moveRegister = (dst: number, src: number): Slot => [0xbf, dst, src, 0, 0];
const moveNumber = (dst: number, imm: number): Slot => [0xb7, dst, 0, 0, imm];
const addNumber = (dst: number, imm: number): Slot => [0x07, dst, 0, 0, imm];
const storeWord = (dst: number, offset: number, imm: number): Slot => [0x62, dst, 0, offset, imm];
const loadInt = (dst: number, src: number, offset: number): Slot => [0x61, dst, src, offset, 0];
const loadLong = (dst: number, src: number, offset: number): Slot => [0x79, dst, src, offset, 0];
const storeLong = (dst: number, offset: number, src: number): Slot => [0x7b, dst, src, offset, 0];
const mapAddress = (dst: number, fd: number): Slot[] => [
  [0x18, dst, PSEUDO_MAP_FD, 0, fd],
  [0, 0, 0, 0, 0],
];
const helper = (number: number): Slot => [0x85, 0, 0, 0, number];
const EXIT: Slot = [0x95, 0, 0, 0, 0];
/** 32-bit comparison: TC answers are ints. */
const jumpIfEqual = (dst: number, imm: number, offset: number): Slot => [0x16, dst, 0, offset, imm];
const jumpIfZero = (dst: number, offset: number): Slot => [0x15, dst, 0, offset, 0];

const increment = (base: number, offset: number): Slot[] => [
  loadLong(R1, base, offset),
  addNumber(R1, 1),
  storeLong(base, offset, R1),
];

interface ChainFds {
  programs: number;
  counts: number;
}

/** `programs`: a program array with the chain in its first slots; `counts`: a per-CPU array of one value. */
export function chainCode(
  hook: PacketHook,
  length: number,
  fds: ChainFds,
): { code: Uint8Array; types: FunctionTypes } {
  const main = mainCode(hook, length, fds);
  return {
    code: encode([...main, ...runCode(fds)]),
    types: {
      btf: BTF,
      functions: [
        [0, TYPE_OF_MAIN],
        [main.length, TYPE_OF_RUN],
      ],
    },
  };
}

/** Runs each program by the function behind it, and decides what its answer means. */
function mainCode(hook: PacketHook, length: number, fds: ChainFds): Slot[] {
  const { next, accept, pass, drop } = ANSWERS[hook];
  const code: Slot[] = [
    moveRegister(R6, R1),
    storeWord(R10, -4, 0),
    moveRegister(R2, R10),
    addNumber(R2, -4),
    ...mapAddress(R1, fds.counts),
    helper(MAP_LOOKUP),
  ];
  const toPass: number[] = [code.length];
  code.push(jumpIfZero(R0, 0), moveRegister(R7, R0)); // never: an array has its entry
  const calls: number[] = [];
  for (let i = 0; i < length; i++) {
    code.push(
      ...increment(R7, COUNT_BYTES * i),
      moveRegister(R1, R6),
      moveNumber(R2, i),
      moveRegister(R3, R7),
    );
    calls.push(code.length);
    code.push([0x85, 0, PSEUDO_CALL, 0, 0]);
    const dropping = [...increment(R7, COUNT_BYTES * i + 8), moveNumber(R0, drop), EXIT];
    for (const answer of accept) {
      toPass.push(code.length);
      code.push(jumpIfEqual(R0, answer, 0));
    }
    // over what is left of these comparisons, and the dropping
    next.forEach((answer, n) => code.push(jumpIfEqual(R0, answer, next.length - 1 - n + dropping.length)));
    code.push(...dropping);
  }
  const end = code.length;
  code.push(moveNumber(R0, pass), EXIT);
  for (const at of toPass) code[at] = jumpTo(code[at], end - at - 1);
  for (const at of calls) code[at] = [0x85, 0, PSEUDO_CALL, 0, code.length - at - 1];
  return code;
}

/** The function that tail-calls one program. */
function runCode(fds: ChainFds): Slot[] {
  return [
    moveRegister(R6, R3),
    moveRegister(R3, R2),
    ...mapAddress(R2, fds.programs),
    helper(TAIL_CALL),
    // Only when the slot is empty: the array has been cleared, as its owner has died. The answer is read from memory, as
    // verifiers before 6.13 or so take what stands here for all that this function can return, and cut off the rest:
    // with a constant, no answer of a program counted on 6.1.
    loadInt(R0, R6, EMPTY_ANSWER),
    EXIT,
  ];
}

const TYPE_OF_MAIN = 5;
const TYPE_OF_RUN = 6;
/** `int chain(void *ctx)` and `static int run(void *ctx, int n, void *counts)`: the kernel wants to know that they return numbers. */
const BTF = ((): Uint8Array => {
  const names = '\0int\0ctx\0n\0counts\0chain\0run\0';
  const name = (text: string): number => names.indexOf(`\0${text}\0`) + 1;
  const [INT, PTR, FUNC, FUNC_PROTO] = [1, 2, 12, 13].map((kind) => kind << 24) as [
    number,
    number,
    number,
    number,
  ];
  const [STATIC, GLOBAL] = [0, 1];
  const types = [
    ...[name('int'), INT, 4, (1 << 24) | 32], // 1
    ...[0, PTR, 0], // 2
    ...[0, FUNC_PROTO | 1, 1, name('ctx'), 2], // 3
    ...[0, FUNC_PROTO | 3, 1, name('ctx'), 2, name('n'), 1, name('counts'), 2], // 4
    ...[name('chain'), FUNC | GLOBAL, 3], // 5
    ...[name('run'), FUNC | STATIC, 4], // 6
  ];
  const HEADER_BYTES = 24;
  const header = [0x0001_eb9f, HEADER_BYTES, 0, 4 * types.length, 4 * types.length, names.length];
  return Buffer.concat([
    Buffer.from(Uint32Array.from([...header, ...types]).buffer),
    Buffer.from(names, 'latin1'),
  ]);
})();

function jumpTo(slot: Slot | undefined, offset: number): Slot {
  const [op, dst, src, , imm] = slot ?? EXIT;
  return [op, dst, src, offset, imm];
}

function encode(code: readonly Slot[]): Uint8Array {
  const bytes = new Uint8Array(code.length * INSN_BYTES);
  const view = new DataView(bytes.buffer);
  code.forEach(([op, dst, src, offset, imm], n) => {
    const at = n * INSN_BYTES;
    view.setUint8(at, op);
    view.setUint8(at + 1, dst | (src << 4));
    view.setInt16(at + 2, offset, true);
    view.setInt32(at + 4, imm, true);
  });
  return bytes;
}
