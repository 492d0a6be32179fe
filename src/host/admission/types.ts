/** Rules about BTF: no kernel pointers, no global functions, nothing that another object or the kernel defines. */
import { BTF_KIND } from '../../bpf/btf-kinds.ts';
import { Btf, parseBtfExt } from '../../bpf/btf.ts';
import { sectionBytes } from '../../bpf/elf.ts';
import type { Elf } from '../../bpf/elf.ts';
import { REBUILD } from './findings.ts';
import type { Findings } from './findings.ts';
import type { Layout } from './layout.ts';

const GLOBAL = 1;
const EXTERN = 2;

/** The types, or undefined when there are none or they are damaged. */
export function checkTypes(bytes: Uint8Array, elf: Elf, layout: Layout, f: Findings): Btf | undefined {
  const section = layout.btf;
  if (section === undefined) {
    if (layout.btfExt || layout.maps !== undefined)
      f.refuse('btf', 'section .BTF is missing', 'compile with -g');
    return undefined;
  }
  const btf = f.attempt('btf', REBUILD, () => new Btf(sectionBytes(bytes, section)));
  if (btf === undefined) return undefined;
  for (const t of btf.types) {
    if (t.kind === BTF_KIND.TYPE_TAG || t.kind === BTF_KIND.DECL_TAG)
      f.refuse('btf', `type tag '${t.name}'`, 'no kernel pointers in maps, and no annotated arguments');
    if (t.kind === BTF_KIND.DATASEC && (t.name === '.ksyms' || t.name === '.kconfig'))
      f.refuse(
        'extern',
        `it uses ${t.name}`,
        'hyperupcalls cannot use symbols or configuration of the kernel',
      );
    else if (t.kind === BTF_KIND.VAR && t.linkage >= EXTERN)
      f.refuse('extern', `variable '${t.name}' is not defined in the object`, 'define it');
    else if (t.kind === BTF_KIND.FUNC && t.vlen >= EXTERN)
      f.refuse('kernel-function', `function '${t.name}' is the kernel's`, 'use helpers that the hook allows');
  }
  checkFunctions(bytes, elf, btf, layout, f);
  return btf;
}

/**
 * The verifier walks a global function once, not once for each call: then its count says nothing about how long a
 * program runs, which could be hours.
 */
function checkFunctions(bytes: Uint8Array, elf: Elf, btf: Btf, layout: Layout, f: Findings): void {
  const section = layout.btfExt;
  if (section === undefined) return;
  const ext = f.attempt('btf', REBUILD, () => parseBtfExt(sectionBytes(bytes, section), btf));
  if (ext === undefined) return;
  if (ext.coreRelocations > 0)
    f.refuse(
      'core-relocation',
      `${ext.coreRelocations} CO-RE relocations: it depends on types of the host's kernel`,
      'do not use vmlinux.h or BPF_CORE_READ: the context and the arena are all there is',
    );
  const strange = new Set([...layout.strange].map((i) => elf.sections[i]?.name ?? ''));
  for (const r of ext.functions) {
    if (strange.has(r.section)) continue;
    const code = layout.code.find((c) => c.section.name === r.section);
    const type = btf.type(r.type);
    const fn = code?.functions.find((x) => x.from === r.offset);
    if (!code || !fn) {
      f.refuse('btf', `.BTF.ext has function '${type.name}' where there is none`, REBUILD);
      continue;
    }
    if (code.hook === undefined && type.vlen === GLOBAL)
      f.refuse(
        'global-function',
        `function '${fn.name}' is global: the verifier would not count what its calls cost`,
        "declare it 'static'",
      );
  }
}
