/** What our modules rely on in KVM: a kernel that differs is refused with what differs, and the table is what c/ relies on. */
import { readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import {
  KVM_ABI,
  kvmDifferences,
  requireKnownKvm,
  runningKvm,
  takenFunctions,
} from '../../../src/bpf/kvm-abi.ts';
import { KernelBtf } from '../../../src/bpf/kernel-btf.ts';
import type { KvmModule, Side } from '../../../src/bpf/kvm-abi.ts';
import { BtfBytes } from '../../support/kernel-btf.ts';

const VCPU = 6552;
/** As 6.1 has it. */
const FAULT: readonly [name: string, offset: number, bytes: number][] = [
  ['addr', 0, 8],
  ['error_code', 8, 4],
  ['prefetch', 12, 1],
  ['exec', 13, 1],
  ['write', 14, 1],
  ['present', 15, 1],
  ['rsvd', 16, 1],
  ['user', 17, 1],
  ['goal_level', 23, 1],
  ['gfn', 24, 8],
  ['pfn', 48, 8],
];
/** As 6.12 and 7.3 have it. */
const FAULT_OF_6_12 = FAULT.map(([name, offset, bytes]): [string, number, number] => {
  if (name === 'addr') return [name, offset, bytes];
  if (name === 'error_code') return [name, offset, 8];
  return [name, name === 'goal_level' ? 28 : offset + (offset < 24 ? 4 : 8), bytes];
});

/** What one module of KVM shows, as the table wants it. */
function described(module: KvmModule): Parameters<BtfBytes['add']>[0] {
  const relied = KVM_ABI.filter((r) => r.in === module);
  const firstName = ([name, [prototype]]: [string, readonly string[]]): [string, string] => [
    name,
    prototype!,
  ];
  return {
    functions: Object.fromEntries(
      relied.flatMap((r) =>
        Object.entries(r.functions ?? {})
          .slice(0, 1)
          .map(firstName),
      ),
    ),
    tracepoints: Object.fromEntries(
      relied.flatMap((r) => (r.tracepoint ? [[r.tracepoint[0], r.tracepoint[1]!]] : [])),
    ),
    structs: {
      kvm_vcpu: { size: VCPU, members: [['kvm', 0, 8]] },
      kvm_page_fault: {
        size: 72,
        members: [...FAULT],
      },
      vcpu_svm: {
        size: VCPU + 64,
        members: [
          ['vcpu', 0, VCPU],
          ['vmcb', VCPU, 8],
        ],
      },
    },
  };
}

const base = (): BtfBytes => new BtfBytes().add({ functions: { schedule: 'void (void)' }, structs: {} });

function btfOf(
  change: (of: (m: KvmModule) => ReturnType<typeof described>) => void = () => {},
): Record<KvmModule, KernelBtf> {
  const all = { kvm: described('kvm'), kvm_amd: described('kvm_amd'), kvm_intel: described('kvm_intel') };
  change((m) => all[m]);
  const vmlinux = base();
  const on = new KernelBtf(vmlinux.bytes());
  const made = (m: KvmModule): KernelBtf => new KernelBtf(new BtfBytes(vmlinux).add(all[m]).bytes(), on);
  return { kvm: made('kvm'), kvm_amd: made('kvm_amd'), kvm_intel: made('kvm_intel') };
}

it('a kernel that has all of it differs in nothing, for both modules', () => {
  expect(kvmDifferences('host', btfOf())).toEqual([]);
  expect(kvmDifferences('guest', btfOf())).toEqual([]);
});

it('6.1 before its fault had a sequence number is known too', () => {
  const earlier = btfOf((of) => {
    const fault = of('kvm').structs['kvm_page_fault']!;
    fault.size = 64;
    fault.members = FAULT.map(([name, offset, bytes]) => [name, name === 'pfn' ? 40 : offset, bytes]);
  });
  expect(kvmDifferences('host', earlier)).toEqual([]);
});

it('6.12 and 7.3, whose fault has a wider error code, are known too', () => {
  const later = btfOf((of) => {
    of('kvm').structs['kvm_page_fault'] = { size: 80, members: FAULT_OF_6_12 };
  });
  expect(kvmDifferences('host', later)).toEqual([]);
});

it('a fault that is half that of one kernel and half that of another is refused', () => {
  const mixed = btfOf((of) => {
    const flags = new Set(['prefetch', 'exec', 'write', 'present', 'rsvd', 'user']);
    of('kvm').structs['kvm_page_fault'] = {
      size: 80,
      members: FAULT_OF_6_12.map((m) => (flags.has(m[0]) ? FAULT.find(([name]) => name === m[0])! : m)),
    };
  });
  expect(kvmDifferences('host', mixed)).toHaveLength(6);
  const [first, last] = [kvmDifferences('host', mixed)[0], kvmDifferences('host', mixed).at(-1)];
  expect(first).toBe("kvm: struct kvm_page_fault.prefetch is '12+1', expected '16+1'");
  expect(last).toBe("kvm: struct kvm_page_fault.user is '17+1', expected '21+1'");
});

describe('a kernel that differs is refused with what differs', () => {
  type Of = (m: KvmModule) => ReturnType<typeof described>;
  it.each<[string, Side, (of: Of) => void, string]>([
    [
      'a hooked function has another parameter',
      'host',
      (of) => (of('kvm').functions['paging64_page_fault'] = 'int (struct kvm_vcpu *, gpa_t, u64)'),
      "kvm: paging64_page_fault() is 'int (struct kvm_vcpu *, gpa_t, u64)', expected 'int (struct kvm_vcpu *, struct kvm_page_fault *)'",
    ],
    [
      'a hooked function answers otherwise',
      'host',
      (of) => (of('kvm_amd').functions['nested_svm_vmexit'] = 'bool (struct vcpu_svm *)'),
      "kvm_amd: nested_svm_vmexit() is 'bool (struct vcpu_svm *)', expected 'int (struct vcpu_svm *)' or 'void (struct vcpu_svm *)'",
    ],
    [
      'a hooked function is gone',
      'host',
      (of) => delete of('kvm_amd').functions['nested_svm_exit_handled'],
      'kvm_amd has no nested_svm_exit_handled()',
    ],
    [
      'a function has neither of its names',
      'host',
      (of) => delete of('kvm_intel').functions['__nested_vmx_vmexit'],
      'kvm_intel has no __nested_vmx_vmexit() or nested_vmx_vmexit()',
    ],
    [
      'a function that is called takes its arguments in another order',
      'host',
      (of) =>
        (of('kvm').functions['kvm_vcpu_read_guest'] =
          'int (struct kvm_vcpu *, void *, gpa_t, long unsigned int)'),
      "kvm: kvm_vcpu_read_guest() is 'int (struct kvm_vcpu *, void *, gpa_t, long unsigned int)', expected 'int (struct kvm_vcpu *, gpa_t, void *, long unsigned int)'",
    ],
    [
      'a private struct has something before the address',
      'host',
      (of) =>
        (of('kvm').structs['kvm_page_fault']!.members = FAULT.map(([name, offset, bytes]) => [
          name,
          name === 'addr' ? 16 : offset,
          bytes,
        ])),
      "kvm: struct kvm_page_fault.addr is '16+8', expected '0+8'",
    ],
    [
      'a member of a private struct has another name',
      'host',
      (of) =>
        (of('kvm').structs['kvm_page_fault']!.members = FAULT.map(([name, ...at]) => [
          name === 'error_code' ? 'code' : name,
          ...at,
        ])),
      'kvm has no struct kvm_page_fault.error_code',
    ],
    [
      'the flag of a fault that is none of the guest moves',
      'host',
      (of) =>
        (of('kvm').structs['kvm_page_fault']!.members = FAULT.map(([name, offset, bytes]) => [
          name,
          name === 'prefetch' ? 13 : offset,
          bytes,
        ])),
      "kvm: struct kvm_page_fault.prefetch is '13+1', expected '12+1'",
    ],
    [
      'a private struct that is copied has grown',
      'host',
      (of) => (of('kvm').structs['kvm_page_fault']!.size = 136),
      "kvm: struct kvm_page_fault is '136', expected '64' or '72'",
    ],
    [
      'the VMCB of a vCPU lies elsewhere',
      'host',
      (of) =>
        (of('kvm_amd').structs['vcpu_svm']!.members = [
          ['vcpu', 0, VCPU],
          ['vmcb', VCPU + 8, 8],
        ]),
      `kvm_amd: struct vcpu_svm.vmcb is '${VCPU + 8}+8', expected '${VCPU}+8'`,
    ],
    [
      'slots are changed by another function',
      'guest',
      (of) =>
        (of('kvm').functions['kvm_arch_commit_memory_region'] =
          'void (struct kvm *, struct kvm_memory_slot *)'),
      "kvm: kvm_arch_commit_memory_region() is 'void (struct kvm *, struct kvm_memory_slot *)', expected 'void (struct kvm *, struct kvm_memory_slot *, struct kvm_memory_slot *, enum kvm_mr_change)'",
    ],
    [
      'the tracepoint tells less',
      'guest',
      (of) => (of('kvm').tracepoints = { kvm_entry: 'void (unsigned int)' }),
      "kvm: tracepoint kvm_entry is 'void (unsigned int)', expected 'void (struct kvm_vcpu *, bool)'",
    ],
  ])('%s', (_, side, change, said) => {
    expect(kvmDifferences(side, btfOf(change))).toEqual([said]);
  });
});

describe('the running kernel', () => {
  let root: string;
  let places: { btf: string; modules: string };
  const vmlinux = base();
  const show = (name: string, bytes: Uint8Array): Promise<void> =>
    writeFile(path.join(places.btf, name), bytes);
  const load = (name: KvmModule): Promise<unknown> => mkdir(path.join(places.modules, name));
  const typesOf = (module: ReturnType<typeof described>): Uint8Array =>
    new BtfBytes(vmlinux).add(module).bytes();
  const all = { differences: [], untyped: [] };

  beforeEach(async () => {
    root = await mkdtemp(path.join(os.tmpdir(), 'ht-btf-'));
    places = { btf: path.join(root, 'btf'), modules: path.join(root, 'module') };
    await Promise.all([mkdir(places.btf), mkdir(places.modules)]);
  });
  afterEach(() => {
    vi.unstubAllEnvs();
    return rm(root, { recursive: true });
  });

  it('is read from files as /sys/kernel/btf has them, and refused by one line with a code', async () => {
    await show('vmlinux', vmlinux.bytes());
    for (const name of ['kvm', 'kvm_amd'] as const)
      await Promise.all([show(name, typesOf(described(name))), load(name)]);
    expect(runningKvm('host', places)).toEqual(all); // without kvm_intel
    const amd = described('kvm_amd');
    delete amd.functions['svm_get_cpl'];
    await show('kvm_amd', typesOf(amd));
    expect(() => requireKnownKvm('host', places)).toThrow(
      /KVM of this kernel is not one that hyperturtle_host.ko knows: kvm_amd has no svm_get_cpl\(\)$/,
    );
    expect(() => requireKnownKvm('guest', places)).not.toThrow();
    await show('kvm', Buffer.from('nothing of the kind'));
    expect(() => runningKvm('host', places)).toThrow(/BTF\) cannot be read: it has no header/);
    await rm(path.join(places.btf, 'kvm'));
    await mkdir(path.join(places.btf, 'kvm'));
    expect(() => runningKvm('host', places)).toThrow(/BTF\) cannot be read: .*\/kvm: EISDIR$/);
  });

  it('is refused where the module was built for another width of what its build could only guess', async () => {
    await show('vmlinux', vmlinux.bytes());
    await Promise.all([show('kvm', typesOf(described('kvm'))), load('kvm')]);
    const parameters = path.join(places.modules, 'hyperturtle_host/parameters');
    await mkdir(parameters, { recursive: true });
    const bytes = /\+(\d+)$/.exec(
      new KernelBtf(typesOf(described('kvm')), new KernelBtf(vmlinux.bytes())).member(
        'kvm_page_fault',
        'error_code',
      )!,
    )![1]!;
    await writeFile(path.join(parameters, 'fault_error_bytes'), `${bytes}\n`);
    expect(runningKvm('host', places)).toEqual(all);
    const other = bytes === '8' ? '4' : '8';
    await writeFile(path.join(parameters, 'fault_error_bytes'), `${other}\n`);
    expect(() => requireKnownKvm('host', places)).toThrow(
      `struct kvm_page_fault.error_code has ${bytes} bytes, hyperturtle_host was built for ${other}`,
    );
    expect(() => requireKnownKvm('guest', places)).not.toThrow();
  });

  it('is refused without types, and taken by who says so', async () => {
    await load('kvm');
    expect(runningKvm('host', places)).toEqual({ differences: [], untyped: ['vmlinux'] });
    expect(() => requireKnownKvm('host', places)).toThrow(
      /^the kernel does not show its types \(BTF\), so that .*hyperturtle_host\.ko knows: use a kernel with CONFIG_/,
    );
    vi.stubEnv('HYPERTURTLE_UNTYPED_KVM', '1');
    expect(() => requireKnownKvm('host', places)).not.toThrow();
  });

  it('is refused where a module that is loaded has none', async () => {
    await show('vmlinux', vmlinux.bytes());
    expect(runningKvm('guest', places)).toEqual(all); // KVM is not loaded
    await load('kvm');
    await load('kvm_amd');
    await show('kvm', typesOf(described('kvm')));
    expect(runningKvm('guest', places)).toEqual({ differences: [], untyped: ['kvm_amd'] });
    expect(() => requireKnownKvm('guest', places)).toThrow(
      /^kvm_amd has no types \(BTF\), so that .*_guest\.ko knows/,
    );
    await rm(path.join(places.btf, 'kvm'));
    expect(() => requireKnownKvm('guest', places)).toThrow(/^kvm and kvm_amd have no types/);
    // by own risk, but not a KVM that is known to differ
    vi.stubEnv('HYPERTURTLE_UNTYPED_KVM', '1');
    const kvm = described('kvm');
    delete kvm.functions['kvm_cpuid'];
    await show('kvm', typesOf(kvm));
    expect(() => requireKnownKvm('guest', places)).toThrow(/kvm has no kvm_cpuid\(\)$/);
  });

  it('has KVM and both vendors in its own types where they are built in', async () => {
    const builtIn = base();
    const amd = described('kvm_amd');
    delete amd.functions['svm_get_cpl'];
    for (const module of [described('kvm'), amd, described('kvm_intel')]) builtIn.add(module);
    await show('vmlinux', builtIn.bytes());
    for (const name of ['kvm', 'kvm_amd', 'kvm_intel'] as const) await load(name);
    expect(runningKvm('host', places)).toEqual({
      differences: ['kvm_amd has no svm_get_cpl()'],
      untyped: [],
    });
  });

  it('is compared again when a module of KVM was loaded again', async () => {
    await show('vmlinux', vmlinux.bytes());
    for (const name of ['kvm', 'kvm_amd'] as const)
      await Promise.all([show(name, typesOf(described(name))), load(name)]);
    expect(() => requireKnownKvm('host', places)).not.toThrow();
    const amd = described('kvm_amd');
    delete amd.functions['svm_get_cpl'];
    const next = path.join(root, 'next');
    await writeFile(next, typesOf(amd));
    await rename(next, path.join(places.btf, 'kvm_amd'));
    expect(() => requireKnownKvm('host', places)).toThrow(/kvm_amd has no svm_get_cpl/);
  });
});

it("a hooked function's one direct call is somebody else's where it goes elsewhere, however ftrace writes it", () => {
  const traced = [
    'nested_svm_vmexit [kvm_amd] (1) R   D  ',
    '\tdirect-->ht_svm_vmexit_trampoline+0x0/0x90 [hyperturtle_host]',
    'nested_vmx_vmexit [kvm_intel] (1) R  \ttramp: 0xffffffffc0a3e000 (kprobe_ftrace_handler+0x0/0x1a0)',
    // a live patch of what is hooked, beside the hook
    'paging64_page_fault [kvm] (2) R I D ',
    '\tdirect-->ht_npt_trampoline+0x0/0x90 [hyperturtle_host]',
    'schedule (1) R I\ttramp: 0xffffffffc0a3f000 (klp_ftrace_handler+0x0/0x1a0)',
    'nested_svm_vmrun [kvm_amd] (2) R   D  M ',
    '\tdirect-->bpf_trampoline_6442536468+0x0/0x1000',
    'ept_page_fault [kvm] (1)     D  ',
    '\tdirect(jmp)-->bpf_trampoline_6442536469+0x0/0x1000',
    'kvm_arch_destroy_vm [kvm] (1) R   D  ',
    '\tdirect-->bpf_trampoline_6442536470+0x0/0x1000',
    '',
  ].join('\n');
  expect(takenFunctions('host', traced)).toEqual(['nested_svm_vmrun', 'ept_page_fault']);
  expect(takenFunctions('guest', traced)).toEqual(['kvm_arch_destroy_vm']);
  expect(takenFunctions('host', '')).toEqual([]);
});

it('has what c/ hooks and calls, and no more', () => {
  const c = (file: string): string => readFileSync(`c/${file}`, 'utf8');
  const all = (text: string, what: RegExp): string[] => [...text.matchAll(what)].map((m) => m[1]!);
  const relied = (side: Side): string[] =>
    KVM_ABI.filter((r) => r.side === side)
      .flatMap((r) => Object.keys(r.functions ?? {}))
      .sort();
  const hooks = /^HT_HOOK\(\w+, "(\w+)"/gm;
  const calls = /^\teach\((\w+)\)/gm;
  const host = [
    ...all(c('host/npf.c') + c('host/exit.c') + c('host/call.c'), hooks),
    ...all(c('host/kvm_calls.h'), calls),
    ...all(c('host/exit.c'), /(?:newer_name = |ht_lookup_function\()"(\w+)"/g),
  ];
  expect(relied('host')).toEqual([...new Set(host)].sort());
  const guest = [
    ...all(c('guest/l2.c'), hooks),
    ...all(c('guest/l2.c'), /newer_name = "(\w+)"/g),
    ...all(c('guest/kvm_calls.h'), calls).filter((n) => n !== 'ht_kvm_get_msr_fn'),
    ...all(c('include/kmod/compat.h'), /^#define ht_kvm_get_msr_fn (\w+)/gm),
  ];
  expect(relied('guest')).toEqual([...new Set(guest)].sort());
});
