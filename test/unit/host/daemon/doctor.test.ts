/** What the host's part of `doctor` says, from made-up facts. */
import { describe, expect, it } from 'vitest';
import { collectHostFacts, judgeHost } from '../../../../src/host/daemon/doctor-host.ts';
import type { HostFacts } from '../../../../src/host/daemon/doctor-host.ts';

const SIGNING = { lockdown: 'none', secureBoot: false, enforced: false, certificate: undefined };
const facts = (over: Partial<HostFacts> = {}): HostFacts => ({
  kernel: { release: '6.1.0-50-amd64', version: '#1 SMP Debian 6.1.180-1 (2026-09-01)' },
  cpu: { svm: true, vmx: false },
  nested: { kvm_amd: '1', kvm_intel: undefined },
  paging: { kvm_amd: 'Y', kvm_intel: undefined },
  hostDevice: true,
  ftrace: '1',
  signing: SIGNING,
  bpffs: { dir: '/sys/fs/bpf', mounted: true },
  jit: '1',
  kvm: { differences: [], untyped: [], taken: [] },
  ...over,
});
const none = { kvm_amd: undefined, kvm_intel: undefined };

describe('the host', () => {
  it('has nothing wrong with it when it is set up, on AMD and on Intel', () => {
    const intel = {
      cpu: { svm: false, vmx: true },
      nested: { kvm_amd: undefined, kvm_intel: 'Y' },
      paging: { kvm_amd: undefined, kvm_intel: 'Y' },
    };
    for (const over of [{}, intel])
      expect(judgeHost(facts(over)).filter((f) => f.level !== 'ok')).toEqual([]);
  });

  it.each<[string, Partial<HostFacts>, 'warn' | 'fail', RegExp, RegExp]>([
    [
      'a kernel with the known hole',
      { kernel: { release: '6.1.0-40-amd64', version: 'Debian 6.1.150-1' } },
      ...(['fail', /CVE-2026-53359/, /6\.1\.177/] as const),
    ],
    [
      'a kernel of which that is not known',
      { kernel: { release: '6.1.0-40-amd64', version: 'Other' } },
      ...(['warn', /not known/, /advisory/] as const),
    ],
    [
      'a kernel that nobody tried',
      { kernel: { release: '6.6.150', version: '#1' } },
      ...(['warn', /not been tried on kernel 6\.6\.150/, /6\.1, 6\.12, 7\.3/] as const),
    ],
    [
      'no virtualization',
      { nested: none, paging: none, cpu: { svm: false, vmx: false } },
      ...(['fail', /no virtualization extension/, /firmware/] as const),
    ],
    [
      'a BPF program on what is to be hooked',
      { kvm: { differences: [], untyped: [], taken: ['paging64_page_fault', 'nested_svm_vmrun'] } },
      ...([
        'fail',
        /paging64_page_fault, nested_svm_vmrun: hooked by .*host\.ko does not load beside it, or hooks no exits$/,
        /enabled_functions/,
      ] as const),
    ],
    [
      'a KVM that differs',
      { kvm: { differences: ['kvm_amd has no svm_get_cpl()'], untyped: [], taken: [] } },
      ...([
        'fail',
        /differs from .*hyperturtle_host.*: kvm_amd has no svm_get_cpl\(\)$/,
        /no VM is attached/,
      ] as const),
    ],
    [
      'a kernel without BTF',
      { kvm: { differences: [], untyped: ['vmlinux'], taken: [] } },
      ...(['fail', /does not show its types/, /^no VM is attached: .*CONFIG_DEBUG_INFO_BTF /] as const),
    ],
    [
      'a KVM without BTF',
      { kvm: { differences: [], untyped: ['kvm', 'kvm_amd'], taken: [] } },
      ...(['fail', /: kvm and kvm_amd have no types/, /CONFIG_DEBUG_INFO_BTF_MODULES/] as const),
    ],
    ['no KVM', { nested: none, paging: none }, 'fail', /KVM is not loaded/, /modprobe kvm_amd nested=1/],
    [
      'no nesting',
      { nested: { kvm_amd: '0', kvm_intel: undefined } },
      ...(['fail', /nested virtualization is off \(kvm_amd\.nested=0\)/, /nested=1/] as const),
    ],
    [
      'no nested paging',
      { nested: { ...none, kvm_intel: 'Y' }, paging: { ...none, kvm_intel: 'N' } },
      ...(['fail', /nested paging is off \(kvm_intel\.ept=N\)/, /ept=1/] as const),
    ],
    ['no module', { hostDevice: false }, 'fail', /hyperturtle_host\.ko is not loaded/, /^modprobe \S+$/],
    [
      'a module that a locked kernel may not take',
      { hostDevice: false, signing: { ...SIGNING, lockdown: 'integrity' } },
      ...([
        'fail',
        /hyperturtle_host\.ko is not loaded/,
        /locked down \(integrity\).*dkms signs.*mokutil --import \/var\/lib\/dkms\/mok\.pub/,
      ] as const),
    ],
    [
      'a kernel that lets no program read',
      { signing: { ...SIGNING, lockdown: 'confidentiality' } },
      'fail',
      /locked/,
      /integrity/,
    ],
    ['ftrace off', { ftrace: '0' }, 'fail', /ftrace is off/, /ftrace_enabled=1/],
    ['no ftrace', { ftrace: undefined }, 'fail', /no ftrace/, /CONFIG_DYNAMIC_FTRACE/],
    ['no bpffs', { bpffs: { dir: '/x', mounted: false } }, 'fail', /\/x is no bpffs/, /mount -t bpf bpf \/x/],
    ['interpreted programs', { jit: '0' }, 'warn', /interpreted/, /bpf_jit_enable=1/],
  ])('with %s is told so, and nothing else, with the fix', (_, over, level, what, mend) => {
    const found = judgeHost(facts(over)).filter((f) => f.level !== 'ok');
    expect(found).toHaveLength(1);
    expect(found[0]?.level).toBe(level);
    expect(found[0]?.what).toMatch(what);
    expect(found[0]?.mend).toMatch(mend);
  });

  it('is looked at without failing, whatever machine this is', () => {
    const found = judgeHost(collectHostFacts('/nowhere'));
    expect(found.map((f) => f.what).join('\n')).toContain('/nowhere is no bpffs');
    for (const f of found) if (f.level !== 'ok') expect(f.mend, f.what).toBeTruthy();
  });
});
