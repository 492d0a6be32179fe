/**
 * Rules about instructions: every call, every reference and every opcode. Calls in eBPF are constants, so what is
 * allowed here is all that a program can do; the kernel's verifier then proves that it does it within bounds.
 */
import { sectionBytes } from '../../bpf/elf.ts';
import type { Elf, ElfSymbol } from '../../bpf/elf.ts';
import {
  ATOMICS,
  CALL_FUNCTION,
  CALL_HELPER,
  CALL_KFUNC,
  FRAME_POINTER,
  INSN_BYTES,
  LAST_REGISTER,
  OP_ATOMIC32,
  OP_ATOMIC64,
  OP_CALL,
  OP_LD_IMM64,
  PLAIN_OPCODES,
  PSEUDO_NAMES,
  decodeInsn,
  writtenRegister,
} from '../../kernel/bpf-insn.ts';
import type { Insn } from '../../kernel/bpf-insn.ts';
import { helperName } from '../../kernel/helper-names.ts';
import { viewOf } from '../../kernel/struct.ts';
import type { HelperSpec, HookSpec } from '../hooks.ts';
import { REBUILD } from './findings.ts';
import type { Findings } from './findings.ts';
import { TEXT, functionAt } from './layout.ts';
import type { CodeSection, Layout } from './layout.ts';
import type { Rule } from './verdict.ts';

const R_BPF_64_64 = 1;
const R_BPF_64_32 = 10;

interface Relocation {
  type: number;
  symbol: ElfSymbol;
}

export interface CodeContext {
  bytes: Uint8Array;
  elf: Elf;
  layout: Layout;
  f: Findings;
}

/** One slot of code with what it refers to. */
export interface Instruction extends Insn {
  relocation: Relocation | undefined;
}

export type Instructions = ReadonlyMap<CodeSection, readonly Instruction[]>;

/** Returns the helpers that are called at all, and the code that it has read. */
export function checkCode(c: CodeContext): { used: Set<HelperSpec>; instructions: Instructions } {
  const used = new Set<HelperSpec>();
  // functions of .text may be called by any program of the object: all hooks must allow what they do
  const hooks = c.layout.code.flatMap((s) => (s.hook ? [s.hook] : []));
  const instructions = new Map<CodeSection, readonly Instruction[]>();
  for (const code of c.layout.code)
    instructions.set(code, checkSection(code, code.hook ? [code.hook] : hooks, c, used));
  return { used, instructions };
}

function checkSection(
  code: CodeSection,
  hooks: readonly HookSpec[],
  c: CodeContext,
  used: Set<HelperSpec>,
): readonly Instruction[] {
  const { f } = c;
  const relocations = readRelocations(code, c);
  const instructions = readInstructions(sectionBytes(c.bytes, code.section), relocations);
  for (let n = 0; n < instructions.length; n++) {
    const instruction = instructions[n]!;
    const { op: opcode, dst, src: source, imm, relocation } = instruction;
    relocations.delete(n * INSN_BYTES);
    const where = (): { program?: string; instruction: number } => {
      const fn = functionAt(code, n * INSN_BYTES);
      return fn ? { program: fn.name, instruction: n - fn.from / INSN_BYTES } : { instruction: n };
    };
    const refuse: Refuse = (rule, message, mend) => f.refuse(rule, message, mend, where());

    if (PLAIN_OPCODES.has(opcode) && writtenRegister(instruction) === FRAME_POINTER)
      refuse('opcode', 'it writes to r10, the frame pointer, which programs may only read', REBUILD);
    if (dst > LAST_REGISTER || (source > LAST_REGISTER && opcode !== OP_LD_IMM64)) {
      refuse(
        'opcode',
        `register ${Math.max(dst, source)} does not exist: at most ${LAST_REGISTER} expected`,
        REBUILD,
      );
      // of two slots whatever its registers are: its second half is no instruction
      if (opcode === OP_LD_IMM64) n++;
    } else if (!PLAIN_OPCODES.has(opcode)) {
      refuse(
        'opcode',
        `opcode 0x${opcode.toString(16)} has no place in a hyperupcall`,
        'no packet access, indirect calls or jumps, or may_goto loops',
      );
    } else if (opcode === OP_LD_IMM64) {
      checkConstant(instruction, instructions[n + 1], c, refuse);
      n++;
    } else if (opcode === OP_CALL) {
      checkCall({ source, imm, relocation, inText: code.hook === undefined }, hooks, used, refuse);
    } else {
      if (relocation) refuse('relocation', 'of an instruction that refers to nothing', REBUILD);
      if ((opcode === OP_ATOMIC32 || opcode === OP_ATOMIC64) && !ATOMICS.has(imm))
        refuse('opcode', `atomic operation 0x${(imm >>> 0).toString(16)} is unknown`, REBUILD);
    }
  }
  if (relocations.size > 0)
    f.refuse('relocation', `section '.rel${code.section.name}' points between instructions`, REBUILD);
  return instructions;
}

/** `4 (probe_read)` */
function helperText(number: number): string {
  return `${number} (${helperName(number) ?? 'no helper of any kernel'})`;
}

type Refuse = (rule: Rule, message: string, mend: string) => void;

/** A 64-bit constant, in two slots: a number, or what it refers to. */
function checkConstant(
  { src: source, relocation }: Instruction,
  second: Instruction | undefined,
  c: CodeContext,
  refuse: Refuse,
): void {
  if (!second || second.op || second.dst || second.src || second.offset)
    refuse('opcode', 'the second half of a 64-bit constant is wrong', REBUILD);
  if (second?.relocation) refuse('relocation', 'into the middle of an instruction', REBUILD);
  if (relocation) checkReference(relocation, c, refuse);
  if (source !== 0)
    refuse(
      source === 4 ? 'callback' : 'raw-reference',
      `it names ${PSEUDO_NAMES[source] ?? `a reference of kind ${source}`} by itself`,
      source === 4
        ? 'no callbacks: the verified instructions would not bound how long they run'
        : 'refer to maps and variables of this object only, by name',
    );
}

/** The target of a 64-bit constant: a map or a global variable of this object. */
function checkReference(r: Relocation, c: CodeContext, refuse: Refuse): void {
  const section = c.elf.sections[r.symbol.section]?.name ?? '';
  if (r.type !== R_BPF_64_64) return refuse('relocation', `type ${r.type} is unknown here`, REBUILD);
  if (r.symbol.section === c.layout.maps || c.layout.variables.has(r.symbol.section)) return;
  if (c.layout.code.some((s) => s.index === r.symbol.section))
    return refuse(
      'callback',
      `it takes the address of function '${r.symbol.name}'`,
      'no callbacks: the verified instructions would not bound how long they run',
    );
  if (r.symbol.section !== 0) refuse('relocation', `it refers to section '${section}'`, REBUILD);
}

interface Call {
  source: number;
  imm: number;
  relocation: Relocation | undefined;
  inText: boolean;
}

function checkCall(call: Call, hooks: readonly HookSpec[], used: Set<HelperSpec>, refuse: Refuse): void {
  const { source, imm, relocation } = call;
  if (source === CALL_KFUNC)
    return refuse(
      'kernel-function',
      relocation?.symbol.name
        ? `it calls '${relocation.symbol.name}' of the kernel`
        : `it calls kernel function ${imm} (its number in the BTF of one kernel)`,
      'use helpers that the hook allows',
    );
  if (source === CALL_FUNCTION) {
    if (relocation && relocation.type !== R_BPF_64_32)
      refuse('relocation', `type ${relocation.type} is unknown here`, REBUILD);
    else if (relocation?.symbol.section === 0 && relocation.symbol.name !== '')
      refuse(
        'kernel-function',
        `it calls '${relocation.symbol.name}' of the kernel`,
        'use helpers that the hook allows',
      );
    else if (relocation ? relocation.symbol.section === 0 : !call.inText)
      refuse('call', 'it calls no function of this object', REBUILD);
    return;
  }
  if (source !== CALL_HELPER) return refuse('opcode', `call of unknown kind ${source}`, REBUILD);
  if (relocation)
    return refuse(
      relocation.symbol.section === 0 ? 'kernel-function' : 'relocation',
      `call of '${relocation.symbol.name}', which is no function of this object`,
      'use helpers that the hook allows',
    );
  for (const hook of hooks) {
    const helper = hook.helpers.find((h) => h.number === imm);
    if (helper) used.add(helper);
    else
      refuse(
        'helper',
        `helper ${helperText(imm)} is not allowed for hook ${hook.name}`,
        `allowed: ${hook.helpers.map((h) => h.name).join(', ')}`,
      );
  }
}

/** What is left of a last one that is cut off is not looked at: a rule of its own refuses it. */
function readInstructions(
  code: Uint8Array,
  relocations: ReadonlyMap<number, Relocation>,
): readonly Instruction[] {
  const view = viewOf(code);
  return Array.from({ length: Math.floor(code.length / INSN_BYTES) }, (_, n) => ({
    ...decodeInsn(view, n * INSN_BYTES),
    relocation: relocations.get(n * INSN_BYTES),
  }));
}

/** By byte offset in the section. */
function readRelocations(code: CodeSection, c: CodeContext): Map<number, Relocation> {
  const found = new Map<number, Relocation>();
  if (!code.relocations) return found;
  const raw = sectionBytes(c.bytes, code.relocations);
  const view = viewOf(raw);
  const refuse = (why: string): void =>
    c.f.refuse('relocation', `section '${code.relocations?.name}': ${why}`, REBUILD);
  for (let at = 0; at + 16 <= raw.length; at += 16) {
    const offset = Number(view.getBigUint64(at, true));
    const symbol = c.elf.symbols[view.getUint32(at + 12, true)];
    const type = view.getUint32(at + 8, true);
    if (symbol === undefined) refuse('it names a symbol that is not there');
    else if (offset % INSN_BYTES !== 0 || offset >= code.section.size) refuse('it points outside the code');
    else if (found.has(offset)) refuse('two for one instruction');
    else {
      found.set(offset, { type, symbol });
      const target = c.elf.sections[symbol.section]?.name;
      if (type === R_BPF_64_32 && target !== TEXT && symbol.section !== 0)
        c.f.refuse(
          'call',
          `it calls into section '${target}'`,
          `functions to call are in ${TEXT}: make them static`,
        );
    }
  }
  return found;
}
