/**
 * What our modules rely on in KVM without its headers saying so: functions that are hooked or called by name, members of its
 * private structs, a tracepoint. Here for 6.1, 6.12 and 7.3; a running kernel's own types (BTF) are compared with it before
 * anything is attached or registered. A test compares it with c/.
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { variable } from '../core/environment.ts';
import { errnoCode, HyperturtleError, isHyperturtleError } from '../core/errors.ts';
import { textIfThere } from '../core/files.ts';
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
  /** Only where this member is there: of kernels that differ in several places all is as in one of them. */
  where?: readonly [name: string, at: string];
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
  one('host', 'kvm', 'kvm_emulate_hypercall', CPL),
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

/** What KVM takes the error code of a fault apart into, one byte each, in this order. */
const FAULT_FLAGS = ['prefetch', 'exec', 'write', 'present', 'rsvd', 'user'];

/**
 * KVM's fault, of which c/host/fill.c copies the inputs, which end with pfn: all of it has room in the copy, and is no shorter than
 * what is copied. `code`: where its error code is, by which all else moves.
 */
function faultOf(
  code: string,
  firstFlag: number,
  members: Readonly<Record<string, readonly string[]>>,
  bytes: readonly number[],
): Relied[] {
  const of = { side: 'host', in: 'kvm', where: ['kvm_page_fault.error_code', code] } as const;
  const flags = FAULT_FLAGS.map((name, i) => [name, [`${firstFlag + i}+1`]] as const);
  return [
    ...[...flags, ...Object.entries(members)].map(
      ([name, fine]): Relied => ({ ...of, member: [`kvm_page_fault.${name}`, ...fine] }),
    ),
    { ...of, size: ['kvm_page_fault', ...bytes] },
  ];
}

const FAULTS = [
  // 6.1; before mmu_seq came to it with an update (6.1.0-50 of Debian 12) it had eight bytes less
  ...faultOf('8+4', 12, { goal_level: ['23+1'], gfn: ['24+8'], pfn: ['40+8', '48+8'] }, [64, 72]),
  // 6.12 and 7.3
  ...faultOf('8+8', 16, { goal_level: ['28+1'], gfn: ['32+8'], pfn: ['56+8'] }, [80]),
];

const READ: readonly Relied[] = [
  { side: 'guest', in: 'kvm', tracepoint: ['kvm_entry', 'void (struct kvm_vcpu *, bool)'] },
  { side: 'host', in: 'kvm', member: ['kvm_page_fault.addr', '0+8'] },
  { side: 'host', in: 'kvm', member: ['kvm_page_fault.error_code', '8+4', '8+8'] },
  ...FAULTS,
  { side: 'host', in: 'kvm', member: ['kvm_vcpu.kvm', '0+8'] },
  { side: 'host', in: 'kvm_amd', member: ['vcpu_svm.vcpu', '0+kvm_vcpu'] },
  { side: 'host', in: 'kvm_amd', member: ['vcpu_svm.vmcb', 'kvm_vcpu+8'] },
];

export const KVM_ABI: readonly Relied[] = [...HOOKED, ...CALLED, ...READ];

/** Names of the functions of KVM that a module hooks, those of all kernels together. */
function hookedFunctions(side: Side): string[] {
  return HOOKED.flatMap((r) => (r.side === side ? Object.keys(r.functions ?? {}) : []));
}

/** How the running KVM differs from what one of our modules relies on, one line each. Modules that are not there are left out. */
export function kvmDifferences(side: Side, btf: Readonly<Partial<Record<KvmModule, KernelBtf>>>): string[] {
  return KVM_ABI.flatMap((r) => {
    const types = btf[r.in];
    if (r.side !== side || types === undefined) return [];
    if (r.where !== undefined && memberOf(types, r.where[0]) !== r.where[1]) return [];
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

function memberOf(types: KernelBtf, name: string): string | undefined {
  const [struct = '', member = ''] = name.split('.');
  return types.member(struct, member);
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
    // a struct's name stands for its size
    const size = (text: string): string => text.replace(/[a-z_]+/, (s) => String(types.size(s) ?? s));
    return [`struct ${name}`, memberOf(types, name), fine.map(size)];
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

/** The same with what is in the way of our module's hooks. */
export interface KvmState extends KvmFacts {
  /** Functions that it hooks, whose one direct call something else has. */
  taken: readonly string[];
}

/** How the running KVM differs. Throws HT_UNSUPPORTED for types that cannot be read. */
export function runningKvm(side: Side, places = PLACES): KvmFacts {
  const read = (name: string): Uint8Array | undefined => {
    try {
      return readFileSync(`${places.btf}/${name}`);
    } catch (e) {
      const errno = errnoCode(e);
      if (errno === 'ENOENT') return undefined;
      throw new HyperturtleError(
        'HT_UNSUPPORTED',
        `the kernel's type information (BTF) cannot be read: ${places.btf}/${name}: ${errno ?? 'error'}`,
        { cause: e },
      );
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
  const differences = kvmDifferences(side, found);
  if (side === 'host' && found.kvm) differences.push(...widthDiffers(found.kvm, places));
  return { differences, untyped };
}

/**
 * The one width of a private member that the module's build could only guess (c/include/kmod/features.mk). A module that is not
 * loaded, or does not say for which it was built, has nothing to compare.
 */
function widthDiffers(kvm: KernelBtf, places: KernelPlaces): string[] {
  const built = textIfThere(`${places.modules}/hyperturtle_host/parameters/fault_error_bytes`);
  const bytes = kvm.member('kvm_page_fault', 'error_code')?.split('+')[1];
  return built === undefined || bytes === undefined || bytes === built
    ? []
    : [`struct kvm_page_fault.error_code has ${bytes} bytes, hyperturtle_host was built for ${built}`];
}

/** For reports: types that cannot be read are a difference too. */
export function kvmState(side: Side): KvmState {
  const taken = takenFunctions(side, textIfThere('/sys/kernel/tracing/enabled_functions') ?? '');
  try {
    return { ...runningKvm(side), taken };
  } catch (e) {
    if (isHyperturtleError(e)) return { differences: [e.message], untyped: [], taken };
    throw e;
  }
}

/** What else has the direct call of a hooked function, as BPF programs do (fentry). `traced`: tracefs' enabled_functions. Pure. */
export function takenFunctions(side: Side, traced: string): string[] {
  const hooked = new Set(hookedFunctions(side));
  const lines = traced.split('\n');
  return lines.flatMap((line, i) => {
    const name = /^(\S+)(?: \[\S+\])? \(\d+\).* D\b/.exec(line)?.[1] ?? '';
    const to = /^\s*direct\S*-->(.*)$/.exec(lines[i + 1] ?? '')?.[1] ?? '';
    return hooked.has(name) && !to.includes(`[hyperturtle_${side}]`) ? [name] : [];
  });
}

/** That of a KVM without types nothing is known is somebody's own risk. */
const takesUntyped = (): boolean => variable('HYPERTURTLE_UNTYPED_KVM') === '1';

const withoutTypes = (untyped: KvmFacts['untyped']): string =>
  untyped.includes('vmlinux')
    ? 'the kernel does not show its types (BTF)'
    : `${untyped.join(' and ')} ${untyped.length === 1 ? 'has' : 'have'} no types (BTF)`;
const WITH_TYPES = 'use a kernel with CONFIG_DEBUG_INFO_BTF and CONFIG_DEBUG_INFO_BTF_MODULES';

/** For both doctors. `consequence`: what does not happen where something differs. */
export function kvmFindings(side: Side, facts: KvmState, consequence: string): Finding[] {
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
  if (facts.taken.length > 0)
    found.push({
      level: 'fail',
      what: `${facts.taken.join(', ')}: hooked by something else, such as a BPF program (fentry): ${name}.ko does not load beside it${side === 'host' ? ', or hooks no exits' : ''}`,
      mend: `end it, and load ${name} again (grep -A1 NAME /sys/kernel/tracing/enabled_functions shows what it is)`,
    });
  return found;
}

const checked = new Set<string>();

/** What is loaded: a module that is loaded again is another file there. */
function loadedKvm(side: Side, places: KernelPlaces): string {
  const inode = (file: string): string => String(statSync(file, { throwIfNoEntry: false })?.ino);
  return [
    side,
    inode(`${places.modules}/hyperturtle_${side}`),
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
