/**
 * What our modules rely on in KVM without its headers saying so: functions that are hooked or called by name, members of its
 * private structs, a tracepoint. Here for 6.1, 6.12 and 7.3; a running kernel's own types (BTF) are compared with it before
 * anything is attached or registered. A test compares it with c/.
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { variable } from '../core/environment.ts';
import { errnoCode, HyperturtleError, isHyperturtleError } from '../core/errors.ts';
import type { Finding } from '../wire/schema.ts';
import { KernelBtf } from './kernel-btf.ts';

export type KvmModule = 'kvm' | 'kvm_amd' | 'kvm_intel';
/** Which of our modules. */
export type Side = 'host' | 'guest';

interface Relied {
  side: Side;
  in: KvmModule;
  /** Prototypes that are fine, by name; of several names one must be there. */
  functions?: Readonly<Record<string, readonly string[]>>;
  tracepoint?: readonly [name: string, ...fine: string[]];
  /** `struct.member` and where it may be (offset+bytes), or the struct at whose end it must begin. */
  member?: readonly [name: string, ...fine: string[]];
  /** A struct and how many bytes it may have. */
  size?: readonly [name: string, ...fine: number[]];
}

const one = (side: Side, module: KvmModule, name: string, ...fine: string[]): Relied => ({
  side,
  in: module,
  functions: { [name]: fine },
});
const BOTH = ['host', 'guest'] as const;
const FAULT = 'int (struct kvm_vcpu *, struct kvm_page_fault *)';
const INFO = 'void (struct kvm_vcpu *, u32 *, u64 *, u64 *, u32 *, u32 *)';
const L_BITS = 'void (struct kvm_vcpu *, int *, int *)';
const CPL = 'int (struct kvm_vcpu *)';
const ENTRY = 'enum nvmx_vmentry_status (struct kvm_vcpu *, bool)';
const SLOT = 'struct kvm *, struct kvm_memory_slot *';
const SLOT_CHANGE = `${SLOT}, struct kvm_memory_slot *, enum kvm_mr_change`;

const HOOKED: readonly Relied[] = [
  one('host', 'kvm', 'paging64_page_fault', FAULT),
  one('host', 'kvm', 'ept_page_fault', FAULT),
  one('host', 'kvm_amd', 'nested_svm_exit_handled', 'int (struct vcpu_svm *)'),
  one('host', 'kvm_amd', 'nested_svm_vmexit', 'int (struct vcpu_svm *)', 'void (struct vcpu_svm *)'),
  one('host', 'kvm_amd', 'nested_svm_vmrun', 'int (struct kvm_vcpu *)'),
  one('host', 'kvm_intel', 'nested_vmx_reflect_vmexit', 'bool (struct kvm_vcpu *)'),
  {
    side: 'host',
    in: 'kvm_intel',
    functions: {
      __nested_vmx_vmexit: ['void (struct kvm_vcpu *, u32, u32, long unsigned int, u32)'],
      nested_vmx_vmexit: ['void (struct kvm_vcpu *, u32, u32, long unsigned int)'],
    },
  },
  one('host', 'kvm_intel', 'nested_vmx_enter_non_root_mode', ENTRY),
  one('guest', 'kvm', 'kvm_arch_flush_shadow_memslot', `void (${SLOT})`),
  one('guest', 'kvm', 'kvm_arch_prepare_memory_region', `int (${SLOT_CHANGE})`),
  one('guest', 'kvm', 'kvm_arch_commit_memory_region', `void (${SLOT_CHANGE})`),
  one('guest', 'kvm', 'kvm_arch_destroy_vm', 'void (struct kvm *)'),
  {
    side: 'guest',
    in: 'kvm',
    functions: {
      kvm_slot_page_track_add_page: [`void (${SLOT}, gfn_t, enum kvm_page_track_mode)`],
      __kvm_write_track_add_gfn: [`void (${SLOT}, gfn_t)`],
    },
  },
];

const CALLED: readonly Relied[] = [
  ...BOTH.flatMap((side) => [
    one(side, 'kvm', 'file_is_kvm', 'bool (struct file *)'),
    one(side, 'kvm', 'kvm_put_kvm', 'void (struct kvm *)'),
    one(side, 'kvm', 'kvm_get_running_vcpu', 'struct kvm_vcpu * ()'),
  ]),
  one('host', 'kvm', 'kvm_cpu_has_interrupt', 'int (struct kvm_vcpu *)'),
  one('host', 'kvm', 'kvm_get_kvm', 'void (struct kvm *)'),
  one('host', 'kvm', 'kvm_get_linear_rip', 'long unsigned int (struct kvm_vcpu *)'),
  one('host', 'kvm', 'kvm_skip_emulated_instruction', 'int (struct kvm_vcpu *)'),
  one('host', 'kvm', 'kvm_vcpu_gfn_to_hva', 'long unsigned int (struct kvm_vcpu *, gfn_t)'),
  one('host', 'kvm', 'kvm_vcpu_mark_page_dirty', 'void (struct kvm_vcpu *, gfn_t)'),
  one('host', 'kvm', 'kvm_vcpu_read_guest', 'int (struct kvm_vcpu *, gpa_t, void *, long unsigned int)'),
  one('host', 'kvm_amd', 'svm_get_exit_info', INFO),
  one('host', 'kvm_amd', 'svm_get_cpl', CPL),
  one('host', 'kvm_amd', 'svm_get_cs_db_l_bits', L_BITS),
  one('host', 'kvm_amd', 'svm_handle_exit', 'int (struct kvm_vcpu *, fastpath_t)'),
  one('host', 'kvm_intel', 'vmx_get_exit_info', INFO),
  one('host', 'kvm_intel', 'vmx_get_cpl', CPL),
  one('host', 'kvm_intel', 'vmx_get_cs_db_l_bits', L_BITS),
  one('host', 'kvm_intel', 'vmx_cache_reg', 'void (struct kvm_vcpu *, enum kvm_reg)'),
  one('host', 'kvm_intel', 'vmx_get_segment_base', 'u64 (struct kvm_vcpu *, int)'),
  one('host', 'kvm_intel', 'vmx_get_idt', 'void (struct kvm_vcpu *, struct desc_ptr *)'),
  one('guest', 'kvm', 'kvm_get_kvm_safe', 'bool (struct kvm *)'),
  one('guest', 'kvm', 'kvm_cpuid', 'bool (struct kvm_vcpu *, u32 *, u32 *, u32 *, u32 *, bool)'),
  one('guest', 'kvm', 'kvm_msr_allowed', 'bool (struct kvm_vcpu *, u32, u32)'),
  {
    side: 'guest',
    in: 'kvm',
    functions: {
      kvm_get_msr: ['int (struct kvm_vcpu *, u32, u64 *)'],
      __kvm_emulate_msr_read: ['int (struct kvm_vcpu *, u32, u64 *)'],
    },
  },
];

const READ: readonly Relied[] = [
  { side: 'guest', in: 'kvm', tracepoint: ['kvm_entry', 'void (struct kvm_vcpu *, bool)'] },
  { side: 'host', in: 'kvm', member: ['kvm_page_fault.addr', '0+8'] },
  { side: 'host', in: 'kvm', member: ['kvm_page_fault.error_code', '8+4', '8+8'] },
  // inputs of the fault function, which c/host/fill.c copies, end with pfn; all of it has room in its copy, and is no shorter
  // than what it copies. Before mmu_seq came to it with an update of 6.1 (6.1.0-50 of Debian 12) it had eight bytes less
  { side: 'host', in: 'kvm', member: ['kvm_page_fault.prefetch', '12+1', '16+1'] },
  { side: 'host', in: 'kvm', member: ['kvm_page_fault.exec', '13+1', '17+1'] },
  { side: 'host', in: 'kvm', member: ['kvm_page_fault.write', '14+1', '18+1'] },
  { side: 'host', in: 'kvm', member: ['kvm_page_fault.present', '15+1', '19+1'] },
  { side: 'host', in: 'kvm', member: ['kvm_page_fault.rsvd', '16+1', '20+1'] },
  { side: 'host', in: 'kvm', member: ['kvm_page_fault.user', '17+1', '21+1'] },
  { side: 'host', in: 'kvm', member: ['kvm_page_fault.goal_level', '23+1', '28+1'] },
  { side: 'host', in: 'kvm', member: ['kvm_page_fault.gfn', '24+8', '32+8'] },
  { side: 'host', in: 'kvm', member: ['kvm_page_fault.pfn', '40+8', '48+8', '56+8'] },
  { side: 'host', in: 'kvm', size: ['kvm_page_fault', 64, 72, 80] },
  { side: 'host', in: 'kvm', member: ['kvm_vcpu.kvm', '0+8'] },
  { side: 'host', in: 'kvm_amd', member: ['vcpu_svm.vcpu', '0+kvm_vcpu'] },
  { side: 'host', in: 'kvm_amd', member: ['vcpu_svm.vmcb', 'kvm_vcpu+8'] },
];

export const KVM_ABI: readonly Relied[] = [...HOOKED, ...CALLED, ...READ];

/** Names of the functions of KVM that a module hooks, those of all kernels together. */
export function hookedFunctions(side: Side): string[] {
  return HOOKED.flatMap((r) => (r.side === side ? Object.keys(r.functions ?? {}) : []));
}

/** How the running KVM differs from what one of our modules relies on, one line each. Modules that are not there are left out. */
export function kvmDifferences(side: Side, btf: Readonly<Partial<Record<KvmModule, KernelBtf>>>): string[] {
  return KVM_ABI.flatMap((r) => {
    const types = btf[r.in];
    if (r.side !== side || types === undefined) return [];
    const [name, found, fine] = look(r, types);
    if (found !== undefined && fine.includes(found)) return [];
    const expected = fine.join("' or '");
    return [
      found === undefined
        ? `${r.in} has no ${name}`
        : `${r.in}: ${name} is '${found}', expected '${expected}'`,
    ];
  });
}

function look(
  r: Relied,
  types: KernelBtf,
): [name: string, found: string | undefined, fine: readonly string[]] {
  if (r.tracepoint) {
    const [name, ...fine] = r.tracepoint;
    return [`tracepoint ${name}`, types.tracepoint(name), fine];
  }
  if (r.member) {
    const [name, ...fine] = r.member;
    const [struct = '', member = ''] = name.split('.');
    // a struct's name stands for its size
    const size = (text: string): string => text.replace(/[a-z_]+/, (s) => String(types.size(s) ?? s));
    return [`struct ${name}`, types.member(struct, member), fine.map(size)];
  }
  if (r.size) {
    const [name, ...fine] = r.size;
    const found = types.size(name);
    return [`struct ${name}`, found?.toString(), fine.map(String)];
  }
  const functions = Object.entries(r.functions ?? {});
  for (const [name, fine] of functions) {
    const found = types.prototype(name);
    if (found !== undefined) return [`${name}()`, found, fine];
  }
  return [`${functions.map(([name]) => name).join('() or ')}()`, undefined, []];
}

const KVM_MODULES = ['kvm', 'kvm_amd', 'kvm_intel'] as const satisfies readonly KvmModule[];
/** A function of each, which the kernel's own types have where it is built in. */
const OWN_FUNCTION: Record<KvmModule, string> = {
  kvm: 'kvm_arch_destroy_vm',
  kvm_amd: 'svm_handle_exit',
  kvm_intel: 'vmx_get_exit_info',
};

/** Where a kernel shows its types, and what is loaded or built in. */
interface KernelPlaces {
  btf: string;
  modules: string;
}
const PLACES: KernelPlaces = { btf: '/sys/kernel/btf', modules: '/sys/module' };

export interface KvmFacts {
  /** One line each. */
  differences: readonly string[];
  /** What is there without types, so that nothing can be compared; `vmlinux` for the kernel itself, and then alone. */
  untyped: readonly ('vmlinux' | KvmModule)[];
}

/** How the running KVM differs. Throws HT_UNSUPPORTED for types that cannot be read. */
export function runningKvm(side: Side, places = PLACES): KvmFacts {
  const read = (name: string): Uint8Array | undefined => {
    try {
      return readFileSync(`${places.btf}/${name}`);
    } catch (e) {
      if (errnoCode(e) === 'ENOENT') return undefined;
      throw e;
    }
  };
  const vmlinux = read('vmlinux');
  if (vmlinux === undefined) return { differences: [], untyped: ['vmlinux'] };
  const base = new KernelBtf(vmlinux);
  const found: Partial<Record<KvmModule, KernelBtf>> = {};
  const untyped: KvmModule[] = [];
  for (const name of KVM_MODULES) {
    const bytes = read(name);
    if (bytes) found[name] = new KernelBtf(bytes, base);
    else if (base.prototype(OWN_FUNCTION[name]) !== undefined) found[name] = base;
    else if (existsSync(`${places.modules}/${name}`)) untyped.push(name);
  }
  return { differences: kvmDifferences(side, found), untyped };
}

/** For reports: types that cannot be read are a difference too. */
export function kvmFacts(side: Side): KvmFacts {
  try {
    return runningKvm(side);
  } catch (e) {
    if (isHyperturtleError(e)) return { differences: [e.message], untyped: [] };
    throw e;
  }
}

/** That of a KVM without types nothing is known is somebody's own risk. */
const takesUntyped = (): boolean => variable('HYPERTURTLE_UNTYPED_KVM') === '1';

const withoutTypes = (untyped: KvmFacts['untyped']): string =>
  untyped.includes('vmlinux')
    ? 'the kernel does not show its types (BTF)'
    : `${untyped.join(' and ')} ${untyped.length === 1 ? 'has' : 'have'} no types (BTF)`;
const WITH_TYPES = 'use a kernel with CONFIG_DEBUG_INFO_BTF and CONFIG_DEBUG_INFO_BTF_MODULES';

/** For both doctors. `consequence`: what does not happen where something differs. */
export function kvmFindings(side: Side, facts: KvmFacts, consequence: string): Finding[] {
  const name = `hyperturtle_${side}`;
  const found: Finding[] = facts.differences.map((differs) => ({
    level: 'fail',
    what: `KVM differs from what ${name} relies on: ${differs}`,
    mend: `${consequence}: use a HyperTurtle that knows this kernel, or another kernel`,
  }));
  if (facts.untyped.length > 0)
    found.push({
      level: takesUntyped() ? 'warn' : 'fail',
      what: `${withoutTypes(facts.untyped)}: whether KVM is one that ${name} knows cannot be told`,
      mend: takesUntyped() ? WITH_TYPES : `${consequence}: ${WITH_TYPES}`,
    });
  return found;
}

const checked = new Set<string>();

/** What is loaded: a module that is loaded again is another file there. */
function loadedKvm(side: Side, places: KernelPlaces): string {
  const inode = (file: string): string => String(statSync(file, { throwIfNoEntry: false })?.ino);
  return [
    side,
    ...KVM_MODULES.flatMap((m) => [inode(`${places.btf}/${m}`), inode(`${places.modules}/${m}`)]),
  ].join();
}

/**
 * Throws HT_UNSUPPORTED that names what differs, or that there are no types to compare with. Each KVM that is loaded is
 * looked at once.
 */
export function requireKnownKvm(side: Side, places = PLACES): void {
  const key = loadedKvm(side, places);
  if (checked.has(key)) return;
  const { differences, untyped } = runningKvm(side, places);
  if (differences.length > 0)
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      `KVM of this kernel is not one that hyperturtle_${side}.ko knows: ${differences.join('; ')}`,
    );
  if (untyped.length > 0 && !takesUntyped())
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      `${withoutTypes(untyped)}, so that it cannot be told whether KVM is one that hyperturtle_${side}.ko knows: ${WITH_TYPES}`,
    );
  checked.add(key);
}
