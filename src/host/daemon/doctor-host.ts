/**
 * Findings of `doctor` about the host as a whole. Facts are collected in one place and judged in another, so that every
 * judgement can be tested anywhere. Nothing secret is in them: tenants read them. They need no daemon.
 */
import { existsSync } from 'node:fs';
import os from 'node:os';
import { kvmFindings, kvmState } from '../../bpf/kvm-abi.ts';
import type { KvmState } from '../../bpf/kvm-abi.ts';
import { isBpffs } from '../../bpf/pins.ts';
import { cpuFlags } from '../../core/cpu-flags.ts';
import { textIfThere } from '../../core/files.ts';
import { ftraceEnabled } from '../../core/ftrace.ts';
import { SHADOW_MMU_CVE, SHADOW_MMU_FIXED_IN, shadowMmuFixed, triedFinding } from '../../core/nested-kvm.ts';
import { howToLoad, moduleSigning } from '../../core/signed-modules.ts';
import type { ModuleSigning } from '../../core/signed-modules.ts';
import { HOST_DEVICE } from '../../kernel/host.ts';
import type { Finding } from '../../wire/schema.ts';

export interface HostFacts {
  kernel: { release: string; version: string };
  /** Flags of the processor. */
  cpu: { svm: boolean; vmx: boolean };
  /** Values of module parameters, undefined without the module or parameter. */
  nested: Readonly<Record<Vendor, string | undefined>>;
  paging: Readonly<Record<Vendor, string | undefined>>;
  hostDevice: boolean;
  /** /proc/sys/kernel/ftrace_enabled; undefined: a kernel without ftrace. */
  ftrace: string | undefined;
  signing: ModuleSigning;
  bpffs: { dir: string; mounted: boolean };
  jit: string | undefined;
  /** What of KVM differs from what hyperturtle_host.ko relies on, or is in its way. */
  kvm: KvmState;
}

type Vendor = 'kvm_amd' | 'kvm_intel';
const VENDORS = ['kvm_amd', 'kvm_intel'] as const;
const PAGING = { kvm_amd: 'npt', kvm_intel: 'ept' } as const;

export function collectHostFacts(bpffs: string): HostFacts {
  const flags = cpuFlags();
  const parameter = (vendor: Vendor, name: string): string | undefined =>
    textIfThere(`/sys/module/${vendor}/parameters/${name}`);
  const each = (name: (v: Vendor) => string): Record<Vendor, string | undefined> => ({
    kvm_amd: parameter('kvm_amd', name('kvm_amd')),
    kvm_intel: parameter('kvm_intel', name('kvm_intel')),
  });
  return {
    kernel: { release: os.release(), version: os.version() },
    cpu: { svm: flags.has('svm'), vmx: flags.has('vmx') },
    nested: each(() => 'nested'),
    paging: each((v) => PAGING[v]),
    hostDevice: existsSync(HOST_DEVICE),
    ftrace: ftraceEnabled(),
    signing: moduleSigning(),
    bpffs: { dir: bpffs, mounted: isBpffs(bpffs) },
    jit: textIfThere('/proc/sys/net/core/bpf_jit_enable'),
    kvm: kvmState('host'),
  };
}

export function hostFindings(bpffs: string): Finding[] {
  return judgeHost(collectHostFacts(bpffs));
}

export function judgeHost(f: HostFacts): Finding[] {
  const tried = named(triedFinding(f.kernel.release));
  return [known(f), tried, ...kvm(f), ...hooks(f), ...relied(f), pins(f), native(f)];
}

/** A tenant sees whose finding it is. */
const named = (f: Finding): Finding => ({ ...f, what: `host: ${f.what}` });
const ok = (what: string): Finding => named({ level: 'ok', what });
const warn = (what: string, mend: string): Finding => named({ level: 'warn', what, mend });
const fail = (what: string, mend: string): Finding => named({ level: 'fail', what, mend });
const on = (value: string): boolean => value === '1' || value === 'Y';

function known({ kernel: { release, version } }: HostFacts): Finding {
  const fixed = shadowMmuFixed(release, version);
  if (fixed === true) return ok(`kernel ${release} has ${SHADOW_MMU_CVE} fixed`);
  if (fixed === false)
    return fail(
      `kernel ${release} has ${SHADOW_MMU_CVE} (use after free in KVM's shadow MMU)`,
      `update the host: fixed in ${SHADOW_MMU_FIXED_IN}`,
    );
  return warn(
    `of kernel ${release} it is not known whether ${SHADOW_MMU_CVE} is fixed`,
    "see the distribution's advisory",
  );
}

function kvm({ cpu, nested, paging }: HostFacts): Finding[] {
  const vendor = VENDORS.find((v) => nested[v] !== undefined || paging[v] !== undefined);
  if (vendor === undefined) {
    if (!cpu.svm && !cpu.vmx)
      return [
        fail(
          'the processor has no virtualization extension (svm or vmx)',
          'turn it on in the firmware, or where this is a VM, let its host pass it on',
        ),
      ];
    return [fail('KVM is not loaded', `modprobe ${cpu.svm ? 'kvm_amd' : 'kvm_intel'} nested=1`)];
  }
  return (
    [
      [nested[vendor], 'nested virtualization', 'nested'],
      [paging[vendor], 'nested paging', PAGING[vendor]],
    ] as const
  ).flatMap(([value, what, name]) => {
    if (value === undefined) return [];
    if (on(value)) return [ok(`${what} is on (${vendor}.${name})`)];
    return [fail(`${what} is off (${vendor}.${name}=${value})`, `load ${vendor} with ${name}=1`)];
  });
}

/** The module that calls programs, and what it stands on. */
function hooks({ hostDevice, ftrace, signing }: HostFacts): Finding[] {
  const found: Finding[] = [];
  if (ftrace === undefined)
    found.push(
      fail('the kernel has no ftrace', 'use a kernel with CONFIG_DYNAMIC_FTRACE: hooks in KVM need it'),
    );
  else if (ftrace !== '1')
    found.push(fail('ftrace is off: hooks in KVM are not called', 'sysctl kernel.ftrace_enabled=1'));
  if (hostDevice) found.push(ok('hyperturtle_host.ko is loaded'));
  else found.push(fail('hyperturtle_host.ko is not loaded', howToLoad('hyperturtle_host', signing)));
  if (signing.lockdown === 'confidentiality')
    found.push(
      fail(
        'the kernel is locked down for confidentiality: programs may not use most helpers',
        'boot with lockdown=integrity at most',
      ),
    );
  return found;
}

/** Functions and structs of KVM that the module relies on, by the kernel's own types. */
function relied(f: HostFacts): Finding[] {
  return kvmFindings('host', f.kvm, 'no VM is attached').map(named);
}

function pins({ bpffs: { dir, mounted } }: HostFacts): Finding {
  if (mounted) return ok('arenas are pinned in a bpffs');
  return fail(`${dir} is no bpffs`, `mount -t bpf bpf ${dir}`);
}

function native({ jit }: HostFacts): Finding {
  if (jit === '0') return warn('eBPF programs are interpreted', 'sysctl net.core.bpf_jit_enable=1');
  return ok('eBPF programs run as native code');
}
