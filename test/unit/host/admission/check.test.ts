/** The rules of admission, each with an object that breaks it alone. No kernel, no compiler. */
import { describe, expect, it } from 'vitest';
import { checkObject } from '../../../../src/host/admission/check.ts';
import { explain } from '../../../../src/host/admission/explain.ts';
import { DEFAULT_OBJECT_LIMITS, refusalError } from '../../../../src/host/admission/verdict.ts';
import type { Verdict } from '../../../../src/host/admission/verdict.ts';
import { HOOK_TABLE } from '../../../../src/host/hooks.ts';
import { OP_LD_IMM64, PLAIN_OPCODES } from '../../../../src/kernel/bpf-insn.ts';
import {
  EXIT,
  HOOK_SECTION,
  MOV0,
  buildElf,
  buildObject,
  call,
  concat,
  insn,
  ldImm64,
  slowPrograms,
} from '../../../support/elf-builder.ts';
import type { ObjectSpec } from '../../../support/elf-builder.ts';

const check = (elf: Uint8Array): Verdict => checkObject(elf, { policy: { cpus: 4 } });
const rules = (elf: Uint8Array): string[] => check(elf).refusals.map((r) => r.rule);
const withCode = (...code: Uint8Array[]): Uint8Array => buildObject({ code: [...code, MOV0, EXIT] });

describe('admission', () => {
  it('admits a program of a hook and says what is in it', () => {
    expect(check(buildObject())).toEqual({
      ok: true,
      programs: [
        {
          name: 'prog',
          section: HOOK_SECTION,
          hook: 'npf',
          instructions: 2,
          run: { ns: 4, nsPerInstruction: 0, dearest: expect.any(Object) as object },
        },
      ],
      maps: [],
      constants: [],
      refusals: [],
    });
  });

  it('admits every helper of the hook, and no other number', () => {
    const allowed = HOOK_TABLE[0]!.helpers.map((h) => h.number);
    for (let helper = 0; helper < 230; helper++)
      expect([helper, rules(withCode(call(helper))).filter((r) => r !== 'pointer-leak')]).toEqual([
        helper,
        allowed.includes(helper) ? [] : ['helper'],
      ]);
    expect(rules(withCode(call(-1)))).toEqual(['helper']);
    expect(rules(withCode(call(0x7fffffff)))).toEqual(['helper']);
  });

  it('lets only programs of packets have the coarse clock: the verifier refuses it to those of tracepoints', () => {
    const allowed = HOOK_TABLE.filter((h) => h.helpers.some((x) => x.name === 'ktime_get_coarse_ns'));
    expect(allowed.map((h) => h.name)).toEqual(['xdp', 'tc-ingress', 'tc-egress']);
  });

  it('walks no longer for many programs than for some, and not at all for too many', () => {
    const limits = { ...DEFAULT_OBJECT_LIMITS, programs: 16 };
    const of = (count: number): Verdict => checkObject(slowPrograms(count), { policy: { cpus: 1 }, limits });
    expect(of(2).refusals).toEqual([]);
    expect(of(16).refusals[0]).toMatchObject({
      rule: 'pointer-leak',
      message: expect.stringMatching(/too complex/) as string,
    });
    expect(of(17).refusals.map((r) => r.rule)).toEqual(['program-count']);
  });

  it('names the program, the instruction and what to do', () => {
    const [refusal] = check(withCode(MOV0, ldImm64(1, 0, 7), call(4))).refusals;
    expect(refusal).toMatchObject({
      rule: 'helper',
      program: 'prog',
      instruction: 3,
      message: 'helper 4 (probe_read) is not allowed for hook npf',
    });
    expect(refusal?.mend).toMatch(/map_lookup_elem/);
    const e = refusalError('x', [refusal!]);
    expect(e.code).toBe('HT_REFUSED');
    expect(e.message).toMatch(
      /object 'x' is refused by rule 'helper' in program 'prog' at instruction 3: helper 4/,
    );
    expect(e.detail).toMatchObject({ rule: 'helper', program: 'prog', instruction: 3 });
  });

  it.each([
    ['a kernel function', insn(0x85, 0, 2, 0, 1234), 'kernel-function'],
    ['a call of an unknown kind', insn(0x85, 0, 3, 0, 1), 'opcode'],
    ['a call within the program', insn(0x85, 0, 1, 0, 1), 'call'],
    ['an indirect call', insn(0x8d, 0, 0, 0, 1), 'opcode'],
    ['an indirect jump', insn(0x0d, 1), 'opcode'],
    ['a may_goto loop', insn(0xe5, 0, 0, 1), 'opcode'],
    ['packet access', insn(0x20), 'opcode'],
    ['an opcode that does not exist', insn(0xff), 'opcode'],
    ['a map by descriptor number', ldImm64(1, 1, 3), 'raw-reference'],
    ['a value by descriptor number', ldImm64(1, 2, 3), 'raw-reference'],
    ['a kernel variable', ldImm64(1, 3, 3), 'raw-reference'],
    ['a callback', ldImm64(1, 4, 3), 'callback'],
    ['a map by index', ldImm64(1, 5, 0), 'raw-reference'],
    ['a value by map index', ldImm64(1, 6, 0), 'raw-reference'],
    ['half a constant', concat([insn(0x18), insn(0xb7)]), 'opcode'],
    ['an unknown atomic', insn(0xdb, 1, 0, 0, 0x33), 'opcode'],
  ])('refuses %s', (_, code, rule) => {
    expect(rules(withCode(code))).toContain(rule);
  });

  it('refuses registers that do not exist, anywhere in any instruction', () => {
    for (const op of PLAIN_OPCODES)
      for (let register = 11; register <= 15; register++)
        for (const registers of [
          [register, 0],
          [0, register],
          [register, register],
        ] as const) {
          const first = insn(op, ...registers);
          const found = rules(withCode(op === OP_LD_IMM64 ? concat([first, insn(0)]) : first));
          expect([op, registers, found.includes('opcode') || found.includes('raw-reference')]).toEqual([
            op,
            registers,
            true,
          ]);
        }
    const behindHelper = withCode(call(8), insn(0x15, 0, 0, 1), insn(0x05, 0, 0, 1), insn(0xb7, 12, 0, 0, 7));
    expect(check(behindHelper).refusals).toMatchObject([
      { rule: 'opcode', instruction: 3, message: 'register 12 does not exist: at most 10 expected' },
    ]);
  });

  it.each([
    ['arithmetic', insn(0x07, 10, 0, 0, -8)],
    ['32-bit arithmetic', insn(0xb4, 10, 0, 0, 1)],
    ['a move from another register', insn(0xbf, 10, 1)],
    ['a change of byte order', insn(0xdc, 10, 0, 0, 16)],
    ['a load', insn(0x79, 10, 10, -8)],
    ['a load that extends the sign', insn(0x81, 10, 10, -8)],
    ['a 64-bit constant', ldImm64(10, 0, 0)],
    ['an atomic addition that fetches', insn(0xdb, 10, 10, -8, 0x01)],
    ['an atomic exchange', insn(0xdb, 1, 10, 0, 0xe1)],
    ['an atomic load', insn(0xdb, 10, 1, 0, 0x100)],
  ])('refuses to write to the frame pointer by %s', (_, code) => {
    expect(check(withCode(code)).refusals).toMatchObject([
      {
        rule: 'opcode',
        instruction: 0,
        message: 'it writes to r10, the frame pointer, which programs may only read',
      },
    ]);
  });

  it('takes the frame pointer for an address, where it is not written', () => {
    const stack = [insn(0x7a, 10, 0, -8, 5), insn(0x79, 1, 10, -8), insn(0xdb, 10, 1, -8, 0x01)];
    // compare-and-exchange writes r0
    const exchange = [insn(0xb7, 0), insn(0xdb, 10, 1, -8, 0xf1), insn(0xbf, 2, 10)];
    expect(check(withCode(...stack, ...exchange, MOV0)).refusals).toEqual([]);
  });

  it('admits what compilers make of ordinary code', () => {
    const ordinary = [
      insn(0x7a, 10, 0, -8, 5),
      insn(0xb7, 0),
      insn(0xdb, 10, 0, -8, 1),
      insn(0xbf, 6, 1),
      insn(0x79, 2, 1),
      insn(0x1d, 0, 0, 0),
      insn(0xd4, 0, 0, 0, 64),
    ];
    expect(rules(withCode(...ordinary))).toEqual([]);
  });

  const extern: ObjectSpec = { symbols: [{ name: 'jiffies', section: 0, type: 0 }] };
  const text = { name: '.text', flags: 6, content: concat([MOV0, EXIT]) };
  it.each<[string, ObjectSpec, string]>([
    ['a section of another kind of program', { section: 'kprobe/do_exit' }, 'hook'],
    ['a symbol of the kernel', extern, 'extern'],
    ['a struct_ops section', { sections: [{ name: '.struct_ops', content: new Uint8Array(8) }] }, 'section'],
    [
      'a compressed section',
      { sections: [{ name: '.debug_info', flags: 0x800, content: new Uint8Array(8) }] },
      'section',
    ],
    [
      'maps of the old style',
      { sections: [{ name: 'maps', content: new Uint8Array(20) }] },
      'map-definition',
    ],
    ['maps without types', { sections: [{ name: '.maps', content: new Uint8Array(20) }] }, 'btf'],
    ['types that are none', { sections: [{ name: '.BTF', content: new Uint8Array(64) }] }, 'btf'],
    [
      'relocations with addends',
      { sections: [{ name: '.rela.text', type: 4, content: new Uint8Array(24) }] },
      'section',
    ],
    ['two sections of one name', { sections: [{ name: 'license', content: Buffer.from('X\0') }] }, 'section'],
    [
      'a license that is no text',
      { sections: [{ name: '.data', content: new Uint8Array(8) }], section: 'license' },
      'section',
    ],
    [
      'a static program',
      { symbols: [{ name: 'other', section: HOOK_SECTION, binding: 0, size: 8, value: 8 }] },
      'program',
    ],
    [
      'a function outside its section',
      { symbols: [{ name: 'f', section: HOOK_SECTION, size: 80 }] },
      'symbol',
    ],
    ['functions that overlap', { symbols: [{ name: 'f', section: HOOK_SECTION, size: 8 }] }, 'symbol'],
    [
      'a name that is no name',
      { sections: [text], symbols: [{ name: 'a b', section: '.text', size: 16 }] },
      'symbol',
    ],
    ['code without a function', { sections: [text] }, 'program'],
    ['a symbol in no section', { symbols: [{ name: 'x', section: 0xfff2, type: 1 }] }, 'symbol'],
    ['thread-local data', { symbols: [{ name: 'x', section: 'license', type: 6 }] }, 'symbol'],
    [
      'pointers in variables',
      {
        sections: [{ name: '.data', content: new Uint8Array(8) }],
        relocations: { '.data': [{ offset: 0, symbol: 'prog' }] },
      },
      'relocation',
    ],
    [
      'a relocation outside the code',
      { relocations: { [HOOK_SECTION]: [{ offset: 64, symbol: 'prog' }] } },
      'relocation',
    ],
    [
      'a relocation of an addition',
      { relocations: { [HOOK_SECTION]: [{ offset: 0, symbol: 'prog' }] } },
      'relocation',
    ],
    [
      'a call of a kernel function by name',
      {
        code: [insn(0x85, 0, 1, 0, -1), MOV0, EXIT],
        symbols: [{ name: 'bpf_kfunc', section: 0, type: 0 }],
        relocations: { [HOOK_SECTION]: [{ offset: 0, symbol: 'bpf_kfunc', type: 10 }] },
      },
      'extern',
    ],
    [
      'a call into another program',
      {
        code: [insn(0x85, 0, 1, 0, -1), MOV0, EXIT],
        relocations: { [HOOK_SECTION]: [{ offset: 0, symbol: 'prog', type: 10 }] },
      },
      'call',
    ],
    [
      'the address of a function',
      {
        code: [ldImm64(1, 0, 0), MOV0, EXIT],
        sections: [text],
        symbols: [{ name: 'f', section: '.text', size: 16 }],
        relocations: { [HOOK_SECTION]: [{ offset: 0, symbol: 'f' }] },
      },
      'callback',
    ],
  ])('refuses %s', (_, spec, rule) => {
    expect(rules(buildObject(spec))).toContain(rule);
  });

  /** r2 = the hook's context; then the code. */
  const context = insn(0x79, 2, 1, 0);
  const storeTo = (register: number): Uint8Array => insn(0x7b, 2, register, 72);
  it.each<[string, Uint8Array[]]>([
    ['an address of the context', [storeTo(2)]],
    ['the address of its arguments', [storeTo(1)]],
    ['the address of the stack', [storeTo(10)]],
    ["what lies on the host's stack behind the arguments", [insn(0x79, 3, 1, 8), storeTo(3)]],
    ['stack that nobody wrote', [insn(0x79, 3, 10, -8), storeTo(3)]],
    ['half an address', [insn(0xbc, 3, 2), storeTo(3)]],
    ['the difference of addresses', [insn(0xbf, 3, 2), insn(0x1f, 3, 10), storeTo(3)]],
    ['an address put aside', [insn(0x7b, 10, 2, -8), insn(0x79, 3, 10, -8), storeTo(3)]],
    ['a part of an address put aside', [insn(0x7b, 10, 2, -8), insn(0x61, 3, 10, -8), storeTo(3)]],
    ['a bit of an address', [insn(0x25, 2, 0, 0, 4096)]],
    [
      'an address of one path',
      [insn(0xb7, 3), insn(0x79, 4, 2, 0), insn(0x15, 4, 0, 1, 0), insn(0xbf, 3, 2), storeTo(3)],
    ],
    ['an address through an atomic', [insn(0xb7, 0), insn(0xdb, 2, 2, 72, 0xe1)]],
    [
      'an address by the place of a write',
      [insn(0xbf, 3, 2), insn(0x1f, 3, 10), insn(0x0f, 2, 3), insn(0x72, 2, 0, 0, 1)],
    ],
  ])('refuses to let out %s', (_, code) => {
    expect(rules(withCode(context, ...code))).toEqual(['pointer-leak']);
  });

  it.each<[string, Uint8Array[]]>([
    ['numbers of the context', [insn(0x79, 3, 2, 0), storeTo(3)]],
    [
      'a number that was an address on another path',
      [insn(0xbf, 3, 2), insn(0x55, 3, 0, 1, 0), storeTo(3), insn(0xb7, 3), storeTo(3)],
    ],
    ['stack that was written', [insn(0x7a, 10, 0, -8, 7), insn(0x79, 3, 10, -8), storeTo(3)]],
    [
      'stack that was written byte by byte',
      [insn(0x62, 10, 0, -8, 7), insn(0x62, 10, 0, -4, 7), insn(0x79, 3, 10, -8), storeTo(3)],
    ],
    [
      'an address that comes back from the stack',
      [insn(0x7b, 10, 2, -8), insn(0x79, 4, 10, -8), insn(0x79, 3, 4, 0), insn(0x7b, 4, 3, 72)],
    ],
    ['a null check', [insn(0x15, 2, 0, 0, 0)]],
    ['a counter in a loop', [insn(0xb7, 3), insn(0x07, 3, 0, 0, 1), insn(0xa5, 3, 0, -2, 10), storeTo(3)]],
  ])('lets out %s', (_, code) => {
    expect(rules(withCode(context, ...code))).toEqual([]);
  });

  it('follows addresses into functions and out of them', () => {
    const object = (body: Uint8Array[]): Uint8Array => {
      const content = concat([...body, EXIT]);
      return buildObject({
        code: [
          insn(0x79, 6, 1, 0),
          insn(0xbf, 1, 6),
          insn(0x85, 0, 1, 0, -1),
          insn(0x7b, 6, 0, 72),
          MOV0,
          EXIT,
        ],
        sections: [{ name: '.text', flags: 6, content }],
        symbols: [{ name: 'f', section: '.text', size: content.length, binding: 0 }],
        relocations: { [HOOK_SECTION]: [{ offset: 16, symbol: 'f', type: 10 }] },
      });
    };
    expect(rules(object([insn(0x79, 0, 1, 0)]))).toEqual([]);
    expect(rules(object([insn(0xbf, 0, 1)]))).toEqual(['pointer-leak']);
    expect(rules(object([MOV0, insn(0x7b, 1, 1, 72)]))).toEqual(['pointer-leak']);
    expect(rules(object([insn(0x85, 0, 1, 0, -1)]))).toEqual(['pointer-leak']); // calls itself
  });

  it('ends soon on code that is made to take long', () => {
    // each branch may write another byte of the stack: very many states
    const branches = Array.from({ length: 200 }, (_, i) => [
      insn(0x15, 3, 0, 2, i),
      insn(0x72, 10, 0, -1 - i, 0),
      insn(0x15, 3, 0, -3 * i - 1, i + 1000),
    ]).flat();
    // of CPU: the machine may do other things
    const before = process.cpuUsage();
    check(withCode(context, insn(0x79, 3, 2, 0), ...branches));
    expect(process.cpuUsage(before).user).toBeLessThan(2_000_000);
  });

  it('admits variables, and counts their memory as maps', () => {
    const v = check(
      buildObject({
        code: [ldImm64(1, 0, 0), MOV0, EXIT],
        sections: [{ name: '.rodata', flags: 2, content: new Uint8Array(16) }],
        symbols: [
          { name: 'arena_bytes', section: '.rodata', type: 1, size: 8 },
          { name: 'table', section: '.rodata', type: 1, size: 3, value: 8 },
        ],
        relocations: { [HOOK_SECTION]: [{ offset: 0, symbol: 'arena_bytes' }] },
      }),
    );
    expect(v.refusals).toEqual([]);
    expect(v.constants).toEqual(['arena_bytes']);
    expect(v.maps).toMatchObject([
      { name: '.rodata', valueBytes: 16, bytes: 8192, variables: true, arena: false },
    ]);
  });

  it('counts memory that is not in the file', () => {
    const bss = { name: '.bss', type: 8, flags: 3, size: 1 << 30 };
    expect(rules(buildObject({ sections: [bss] }))).toEqual(['map-bytes']);
  });

  it('keeps limits of size and number', () => {
    const limits = { ...DEFAULT_OBJECT_LIMITS, instructions: 1, programs: 0, elfBytes: 4096 };
    const v = checkObject(buildObject(), { policy: { cpus: 1 }, limits });
    expect(v.refusals.map((r) => r.rule)).toEqual(['program-count', 'instructions']);
    expect(refusalError('x', v.refusals).code).toBe('HT_QUOTA');
    const large = checkObject(new Uint8Array(4097), { policy: { cpus: 1 }, limits });
    expect(large.refusals.map((r) => r.rule)).toEqual(['elf-bytes']);
    expect(rules(withCode(...Array.from({ length: 16_384 }, () => MOV0)))).toEqual(['instructions']);
  });

  it('keeps to the hooks that a VM may use', () => {
    const v = checkObject(buildObject(), { policy: { cpus: 1, hooks: [] } });
    expect(v.refusals.map((r) => r.rule)).toContain('hook');
  });

  it('lists no more refusals than people read, and no control characters', () => {
    const many = check(withCode(...Array.from({ length: 1000 }, () => insn(0xff))));
    expect(many.refusals).toHaveLength(32);
    const odd = check(buildObject({ section: '\x1b[2Jx' }));
    expect(odd.refusals.map((r) => r.message).join()).not.toContain('\x1b');
    expect(explain('x.o', odd)).toMatch(/refused by 'hook': .*\n {4}hooks that may be used: npf/);
  });

  it('answers for any cut and any changed byte, and never throws', () => {
    const elf = buildObject({
      sections: [{ name: '.rodata', flags: 2, content: new Uint8Array(16) }, text],
      symbols: [{ name: 'f', section: '.text', size: 16 }],
    });
    for (let n = 0; n < elf.length; n++) expect(check(elf.subarray(0, n)).ok).toBe(false);
    for (let at = 0; at < elf.length; at++)
      for (const value of [0, 0xff, 0x80]) {
        const copy = elf.slice();
        copy[at] = value;
        check(copy);
      }
  });

  it('refuses an object without programs', () => {
    expect(rules(buildElf([], []))).toEqual(['program']);
  });
});
