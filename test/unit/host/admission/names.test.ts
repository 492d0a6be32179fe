/** What admission says of programs in the wrong place, and of what they call. */
import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { checkObject } from '../../../../src/host/admission/check.ts';
import type { Refusal } from '../../../../src/host/admission/verdict.ts';
import { HOOK_TABLE } from '../../../../src/host/hooks.ts';
import { helperName } from '../../../../src/kernel/helper-names.ts';
import { findClang } from '../../../support/bpf.ts';
import { EXIT, MOV0, buildObject, call, insn } from '../../../support/elf-builder.ts';
import type { ObjectSpec } from '../../../support/elf-builder.ts';

const refusals = (spec: ObjectSpec): Refusal[] =>
  checkObject(buildObject(spec), { policy: { cpus: 1 } }).refusals;

describe('a program in a section of no hook', () => {
  it.each(['kprobe/do_sys_open', 'xdp.frags', 'raw_tp.w/hyperturtle_npf2', 'tc'])(
    'gets one refusal, with the sections that there are: %s',
    (section) => {
      for (const code of [
        [MOV0, EXIT],
        [call(4), MOV0, EXIT],
        [insn(0x85, 0, 2, 0, 77), EXIT],
      ]) {
        const [refusal, ...more] = refusals({ section, code });
        expect(more).toEqual([]);
        expect(refusal).toMatchObject({ rule: 'hook', message: `section '${section}' belongs to no hook` });
        for (const h of HOOK_TABLE) expect(refusal?.mend).toContain(`${h.name} (SEC("${h.section}"))`);
      }
    },
  );

  it('also with relocations and a symbol of its own, beside a program that is right', () => {
    const stray = { name: 'kprobe/x', flags: 6, content: Buffer.concat([insn(0x85, 0, 1, 0, -1), EXIT]) };
    const found = refusals({
      sections: [stray],
      symbols: [{ name: 'stray', section: 'kprobe/x', size: 16 }],
      relocations: { 'kprobe/x': [{ offset: 0, symbol: 'prog', type: 10 }] },
    });
    expect(found.map((r) => r.rule)).toEqual(['hook']);
  });

  it('says of an object without any program that it has none', () => {
    expect(refusals({ section: '.text' }).map((r) => r.rule)).toContain('program');
  });
});

describe('helpers and kernel functions', () => {
  it('are refused by name', () => {
    const messages = (...code: Uint8Array[]): string[] =>
      refusals({ code: [...code, MOV0, EXIT] }).map((r) => r.message);
    expect(messages(call(4))).toContain('helper 4 (probe_read) is not allowed for hook npf');
    expect(messages(call(113))).toContain('helper 113 (probe_read_kernel) is not allowed for hook npf');
    expect(messages(call(5000))).toContain(
      'helper 5000 (no helper of any kernel) is not allowed for hook npf',
    );
    const kfunc = refusals({
      code: [insn(0x85, 0, 1, 0, -1), MOV0, EXIT],
      symbols: [{ name: 'bpf_task_acquire', section: 0 }],
      relocations: { [HOOK_TABLE[0]!.section]: [{ offset: 0, symbol: 'bpf_task_acquire', type: 10 }] },
    });
    expect(kfunc.find((r) => r.rule === 'kernel-function')?.message).toBe(
      "it calls 'bpf_task_acquire' of the kernel",
    );
  });

  it('have the names that our hooks give them', () => {
    for (const h of HOOK_TABLE.flatMap((hook) => hook.helpers)) expect(helperName(h.number)).toBe(h.name);
    expect(helperName(0)).toBeUndefined();
    expect(helperName(212)).toBeUndefined();
  });

  const headers = (findClang()?.args ?? [])
    .map((a) => `${a.replace(/^-(I|isystem)/, '')}/bpf/bpf_helper_defs.h`)
    .find((file) => existsSync(file));
  it.skipIf(headers === undefined)("have the names of libbpf's header", () => {
    const defined = [
      ...readFileSync(headers!, 'utf8').matchAll(/\(\*bpf_(\w+)\)\([^;]*?\) = \(void \*\) (\d+);/g),
    ];
    expect(defined.length).toBeGreaterThan(200);
    for (const [, name, number] of defined)
      expect([number, helperName(Number(number))]).toEqual([number, name]);
  });
});
