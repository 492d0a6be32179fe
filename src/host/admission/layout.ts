/**
 * Rules about the file: which sections there may be, and that each means the same to us as to libbpf. What is not
 * known to be harmless is refused.
 */
import {
  SHF_COMPRESSED,
  SHF_EXECINSTR,
  SHN_ABS,
  SHN_LORESERVE,
  SHN_UNDEF,
  SHT_LLVM_ADDRSIG,
  SHT_NOBITS,
  SHT_PROGBITS,
  SHT_REL,
  SHT_STRTAB,
  SHT_SYMTAB,
  STB_GLOBAL,
  STB_LOCAL,
  STB_WEAK,
  STT_FILE,
  STT_FUNC,
} from '../../bpf/elf.ts';
import type { Elf, ElfSection, ElfSymbol } from '../../bpf/elf.ts';
import { INSN_BYTES } from '../../kernel/bpf-insn.ts';
import { hookOfSection } from '../hooks.ts';
import type { HookSpec } from '../hooks.ts';
import { REBUILD } from './findings.ts';
import type { Findings } from './findings.ts';

export interface FunctionRange {
  name: string;
  /** Byte offsets in its section. */
  from: number;
  to: number;
}

export interface CodeSection {
  index: number;
  section: ElfSection;
  /** Undefined: `.text`, functions that programs call. */
  hook: HookSpec | undefined;
  /** In order of their offsets. */
  functions: FunctionRange[];
  relocations: ElfSection | undefined;
}

export interface Layout {
  code: CodeSection[];
  /** Sections of code that belong to no hook: they are refused, and nothing else is said of them. */
  strange: Set<number>;
  /** Section numbers of global variables. */
  variables: Set<number>;
  maps: number | undefined;
  license: ElfSection | undefined;
  btf: ElfSection | undefined;
  btfExt: ElfSection | undefined;
}

/** The section of functions that programs call. */
export const TEXT = '.text';
const SECTION_COUNT = 256;
/** Descriptions for debuggers, which libbpf skips. */
const IGNORED = /^\.(debug_[a-z_]+|eh_frame)$/;
const RELOCATABLE = /^\.(debug_[a-z_]+|eh_frame|BTF|BTF\.ext)$/;
const VARIABLES = /^\.(rodata|data|bss)(\.[A-Za-z0-9_.]+)?$/;
/** What compilers make of names: `fn.variable`, `switch.table.fn`, mangled ones. */
const SYMBOL_NAME = /^[A-Za-z0-9_.$@]*$/;
/** A name that a C program can give, and the wire can carry. */
export const C_NAME = /^[A-Za-z_][A-Za-z0-9_]{0,62}$/;

export function checkLayout(elf: Elf, hooks: readonly HookSpec[], f: Findings): Layout {
  const layout: Layout = {
    code: [],
    strange: new Set(),
    variables: new Set(),
    maps: undefined,
    license: undefined,
    btf: undefined,
    btfExt: undefined,
  };
  if (elf.sections.length > SECTION_COUNT)
    f.refuse('elf', `at most ${SECTION_COUNT} sections expected, ${elf.sections.length} found`, REBUILD);
  checkOverlap(elf, f);
  const names = new Set<string>();
  elf.sections.slice(0, SECTION_COUNT).forEach((s, index) => {
    if (index === 0) {
      if (s.type !== 0) f.refuse('elf', 'the first section is not empty', REBUILD);
      return;
    }
    if (names.has(s.name)) f.refuse('section', `two sections are named '${s.name}'`, REBUILD);
    names.add(s.name);
    if (s.flags & SHF_COMPRESSED || s.flags > 0xffff_ffff)
      f.refuse('section', `section '${s.name}' is compressed or has unknown flags`, REBUILD);
    classify(s, index, elf, hooks, layout, f);
  });
  elf.sections.forEach((s) => {
    if (s.type === SHT_REL) checkRelocationSection(s, elf, layout, f);
  });
  if (elf.sections.filter((s) => s.type === SHT_SYMTAB).length !== 1)
    f.refuse('elf', 'one symbol table expected', REBUILD);
  checkSymbols(elf, f);
  for (const c of layout.code) findFunctions(c, elf.symbols, f);
  // of a program in a section of no hook it was said where programs go
  if (layout.strange.size === 0 && !layout.code.some((c) => c.hook && c.functions.length > 0))
    f.refuse(
      'program',
      'the object has no program',
      `put one into SEC("${hooks.map((h) => h.section).join('" or "')}")`,
    );
  return layout;
}

/** The function that has byte `offset` of its section, if any. */
export function functionAt(code: CodeSection, offset: number): FunctionRange | undefined {
  return code.functions.find((fn) => fn.from <= offset && offset < fn.to);
}

/** Sections that share bytes could be read as one thing here and as another in libbpf. */
function checkOverlap(elf: Elf, f: Findings): void {
  const inFile = elf.sections.filter((s) => s.type !== SHT_NOBITS && s.type !== 0 && s.size > 0);
  inFile.sort((a, b) => a.offset - b.offset);
  inFile.forEach((s, i) => {
    const before = inFile[i - 1];
    if (before && before.offset + before.size > s.offset)
      f.refuse('elf', `sections '${before.name}' and '${s.name}' overlap`, REBUILD);
  });
}

function classify(
  s: ElfSection,
  index: number,
  elf: Elf,
  hooks: readonly HookSpec[],
  layout: Layout,
  f: Findings,
): void {
  const { name } = s;
  const refuse = (why: string, mend: string): void => f.refuse('section', `section '${name}': ${why}`, mend);
  const code = (s.flags & SHF_EXECINSTR) !== 0;
  switch (s.type) {
    case SHT_SYMTAB:
      if (
        name !== '.symtab' ||
        s.entryBytes !== 24 ||
        s.size % 24 !== 0 ||
        elf.sections[s.link]?.type !== SHT_STRTAB
      )
        f.refuse('elf', 'bad symbol table', REBUILD);
      return;
    case SHT_STRTAB:
      if (name !== '.strtab' && name !== '.shstrtab') refuse('unknown table of names', REBUILD);
      return;
    case SHT_LLVM_ADDRSIG:
      if (name !== '.llvm_addrsig') refuse('unknown', 'leave it out');
      return;
    case SHT_REL:
      return; // later, when all targets are known
    case SHT_NOBITS:
      if (!/^\.bss(\.|$)/.test(name) || code) return refuse('content expected', REBUILD);
      layout.variables.add(index);
      return;
    case SHT_PROGBITS:
      break;
    default:
      return refuse(`type ${s.type} is unknown`, REBUILD);
  }
  if (code) classifyCode(s, index, hooks, layout, f);
  else classifyData(s, index, hooks, layout, f);
}

function classifyCode(
  s: ElfSection,
  index: number,
  hooks: readonly HookSpec[],
  layout: Layout,
  f: Findings,
): void {
  const { name } = s;
  const hook = hookOfSection(name, hooks);
  if (name !== TEXT && hook === undefined) {
    layout.strange.add(index);
    return f.refuse(
      'hook',
      `section '${name}' belongs to no hook`,
      `hooks that may be used: ${hooks.map((h) => `${h.name} (SEC("${h.section}"))`).join(', ') || 'none'}`,
    );
  }
  if (s.size % INSN_BYTES !== 0) f.refuse('elf', `code of '${name}' is cut off`, REBUILD);
  layout.code.push({ index, section: s, hook, functions: [], relocations: undefined });
}

function classifyData(
  s: ElfSection,
  index: number,
  hooks: readonly HookSpec[],
  layout: Layout,
  f: Findings,
): void {
  const { name } = s;
  const refuse = (why: string, mend: string): void => f.refuse('section', `section '${name}': ${why}`, mend);
  if (name === TEXT || hookOfSection(name, hooks)) return refuse('is not marked as code', REBUILD);
  if (name === 'license') layout.license = s;
  else if (name === '.maps') layout.maps = index;
  else if (name === '.BTF') layout.btf = s;
  else if (name === '.BTF.ext') layout.btfExt = s;
  else if (name === 'maps')
    f.refuse('map-definition', "section 'maps': old style of map definitions", 'define maps in SEC(".maps")');
  else if (VARIABLES.test(name)) {
    if (s.size > 0) layout.variables.add(index);
  } else if (!IGNORED.test(name)) refuse('unknown', 'leave it out');
}

function checkRelocationSection(s: ElfSection, elf: Elf, layout: Layout, f: Findings): void {
  const target = elf.sections[s.info];
  const refuse = (why: string, mend = REBUILD): void =>
    f.refuse('relocation', `section '${s.name}': ${why}`, mend);
  if (target === undefined || s.info === 0 || s.name !== `.rel${target.name}`)
    return refuse('does not name its target');
  if (s.entryBytes !== 16 || s.size % 16 !== 0 || elf.sections[s.link]?.type !== SHT_SYMTAB)
    return refuse('bad table');
  if (layout.strange.has(s.info)) return;
  const code = layout.code.find((c) => c.index === s.info);
  if (code) {
    if (code.relocations) refuse('a second one for its target');
    code.relocations = s;
  } else if (!RELOCATABLE.test(target.name))
    refuse(
      'only code may refer to other sections',
      'no pointers in variables, maps in maps, tables of programs or jump tables (-fno-jump-tables)',
    );
}

function checkSymbols(elf: Elf, f: Findings): void {
  elf.symbols.forEach((s, i) => {
    const what = `symbol '${s.name || i}'`;
    if (i === 0) return;
    if (![STB_LOCAL, STB_GLOBAL, STB_WEAK].includes(s.binding) || s.type > STT_FILE)
      return f.refuse('symbol', `${what} has an unknown binding or type`, REBUILD);
    if (s.section === SHN_UNDEF)
      return f.refuse(
        'extern',
        `${what} is not defined in the object`,
        'hyperupcalls cannot use symbols, functions or configuration of the kernel, nor call what is in other objects',
      );
    if (s.section >= SHN_LORESERVE) {
      if (s.section !== SHN_ABS || s.type !== STT_FILE)
        f.refuse('symbol', `${what} is in no section`, REBUILD);
      return;
    }
    if (!SYMBOL_NAME.test(s.name))
      f.refuse('symbol', `${what}: a C name expected`, 'rename it: letters, digits and _');
    const section = elf.sections[s.section];
    if (section === undefined || s.value + s.size > section.size)
      f.refuse('symbol', `${what} lies outside its section`, REBUILD);
  });
}

function findFunctions(code: CodeSection, symbols: readonly ElfSymbol[], f: Findings): void {
  const found = symbols.filter((s) => s.section === code.index && s.type === STT_FUNC);
  for (const s of found) {
    if (!C_NAME.test(s.name))
      f.refuse('symbol', `function '${s.name}': a C name of at most 63 characters expected`, 'rename it');
    if (s.size === 0 || s.size % INSN_BYTES !== 0 || s.value % INSN_BYTES !== 0)
      f.refuse('symbol', `function '${s.name}' has no sensible size or place`, REBUILD);
    if (code.hook && s.binding !== STB_GLOBAL)
      f.refuse('program', `program '${s.name}' is static or weak`, 'make it global');
    code.functions.push({ name: s.name, from: s.value, to: s.value + s.size });
  }
  code.functions.sort((a, b) => a.from - b.from);
  code.functions.forEach((fn, i) => {
    const before = code.functions[i - 1];
    if (before && before.to > fn.from)
      f.refuse('symbol', `functions '${before.name}' and '${fn.name}' overlap`, REBUILD);
  });
  if (code.section.size > 0 && code.functions.length === 0)
    f.refuse('program', `section '${code.section.name}' has code and no function`, REBUILD);
}
