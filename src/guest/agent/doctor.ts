/**
 * Findings about this L1: what it needs to be accelerated, what of it is there, and what to do about the rest. Facts
 * are collected in one place and judged in another, so that every judgement can be tested anywhere.
 */
import { PLACES } from '../../core/default-paths.ts';
import { existsSync, readdirSync } from 'node:fs';
import os from 'node:os';
import { kvmFindings, kvmState } from '../../bpf/kvm-abi.ts';
import type { KvmState } from '../../bpf/kvm-abi.ts';
import { cpuFlags } from '../../core/cpu-flags.ts';
import { textIfThere } from '../../core/files.ts';
import { ftraceEnabled } from '../../core/ftrace.ts';
import { SHADOW_MMU_CVE, SHADOW_MMU_FIXED_IN, shadowMmuFixed, triedFinding } from '../../core/nested-kvm.ts';
import { howToLoad, moduleSigning } from '../../core/signed-modules.ts';
import type { ModuleSigning } from '../../core/signed-modules.ts';
import { GUEST_DEVICE } from '../../kernel/guest.ts';
import type { Finding } from '../../wire/schema.ts';
import { fixOf } from './fixes.ts';
import { END_NO_INDEX } from './no-index.ts';
import { findChannel } from './port.ts';
import type { AgentResult } from './schema.ts';
import { accelerationText, memoryText, turtlefsMount, vmms as vmmsHere } from './vms.ts';
import type { Vmm } from './vms.ts';

type Status = AgentResult<'agent.status'>;

export interface Facts {
  kernel: { release: string; version: string };
  /** Flags of the processor that matter. */
  cpu: { svm: boolean; vmx: boolean; hypervisor: boolean };
  devKvm: boolean;
  /** /sys/module/NAME/parameters/..., undefined without the module or parameter. */
  npt: string | undefined;
  ept: string | undefined;
  tdpMmu: string | undefined;
  nohzFull: string;
  /** /proc/sys/kernel/ftrace_enabled; undefined: a kernel without ftrace. */
  ftrace: string | undefined;
  /** NUMA nodes that have memory, and /proc/sys/kernel/numa_balancing. */
  numa: { nodes: number; balancing: string | undefined };
  /** /sys/power/state: what the machine can be put to sleep by. */
  sleep: string;
  /** Loaded modules of hypervisors other than KVM. */
  otherHypervisors: readonly string[];
  signing: ModuleSigning;
  guestDevice: boolean;
  /** What of KVM differs from what hyperturtle_guest.ko relies on, or is in its way. */
  kvm: KvmState;
  turtlefs: string | undefined;
  /** PCI devices that may be the arena, whose memory this kernel gave no address. */
  unplacedArenas: readonly string[];
  channel: boolean;
  port: string;
  vms: readonly Vmm[];
  /** Undefined when no agent answers. */
  agent: Status | undefined;
  agentProblem: string | undefined;
}

export function collectFacts(
  port: string,
  agent: Status | undefined,
  agentProblem: string | undefined,
): Facts {
  const flags = cpuFlags();
  return {
    kernel: { release: os.release(), version: os.version() },
    cpu: {
      svm: flags.has('svm'),
      vmx: flags.has('vmx'),
      hypervisor: flags.has('hypervisor'),
    },
    devKvm: existsSync('/dev/kvm'),
    npt: textIfThere('/sys/module/kvm_amd/parameters/npt'),
    ept: textIfThere('/sys/module/kvm_intel/parameters/ept'),
    tdpMmu: textIfThere('/sys/module/kvm/parameters/tdp_mmu'),
    nohzFull: (textIfThere('/sys/devices/system/cpu/nohz_full') ?? '').replace('(null)', ''),
    ftrace: ftraceEnabled(),
    numa: {
      nodes: numaNodes(textIfThere('/sys/devices/system/node/has_memory') ?? ''),
      balancing: textIfThere('/proc/sys/kernel/numa_balancing'),
    },
    sleep: textIfThere('/sys/power/state') ?? '',
    otherHypervisors: OTHER_HYPERVISORS.filter((m) => existsSync(`/sys/module/${m}`)),
    signing: moduleSigning(),
    guestDevice: existsSync(GUEST_DEVICE),
    kvm: kvmState('guest'),
    turtlefs: turtlefsMount(),
    unplacedArenas: unplacedArenas(),
    channel: findChannel(port) !== undefined,
    port,
    vms: vmmsHere(),
    agent,
    agentProblem,
  };
}

/** By the kernel's own view of each ivshmem device: `start end flags` of its BARs, in hexadecimal. */
function unplacedArenas(): string[] {
  const devices = '/sys/bus/pci/devices';
  let names: string[];
  try {
    names = readdirSync(devices);
  } catch {
    return []; // a kernel without PCI
  }
  return names.filter((name) => {
    const at = (file: string): string => textIfThere(`${devices}/${name}/${file}`) ?? '';
    return at('vendor') === '0x1af4' && at('device') === '0x1110' && hasNoAddress(at('resource'));
  });
}

/** Whether BAR 2, the shared memory, starts nowhere. Pure. */
export function hasNoAddress(resource: string): boolean {
  return /^0x0+ /.test(resource.split('\n')[2] ?? '');
}

const OTHER_HYPERVISORS = ['vboxdrv', 'vmmon'];

/** Number of nodes in a list such as `0-1,3`. */
function numaNodes(list: string): number {
  return list
    .split(',')
    .filter((part) => part !== '')
    .reduce((n, part) => {
      const [first = 0, last = first] = part.split('-').map(Number);
      return n + last - first + 1;
    }, 0);
}

const ok = (what: string): Finding => ({ level: 'ok', what });
const warn = (what: string, mend: string): Finding => ({ level: 'warn', what, mend });
const fail = (what: string, mend: string): Finding => ({ level: 'fail', what, mend });
const on = (value: string | undefined): boolean => value === 'Y' || value === '1';

export function judge(f: Facts): Finding[] {
  return [
    kernel(f),
    triedFinding(f.kernel.release),
    ...kvm(f),
    ...kvmSettings(f),
    ...kernelSettings(f),
    guestModule(f),
    ...kvmFindings('guest', f.kvm, 'no nested guest is registered'),
    ...(f.guestDevice ? arena(f) : []),
    ...channel(f),
    ...desired(f),
    ...vmms(f),
  ];
}

/** Anyone who runs L2s of L2s in here needs it; L0's own finding is the one that matters most. */
function kernel({ kernel: k }: Facts): Finding {
  const fixed = shadowMmuFixed(k.release, k.version);
  if (fixed === true) return ok(`kernel ${k.release} has ${SHADOW_MMU_CVE} fixed`);
  const what = `kernel ${k.release} ${fixed === false ? 'has' : 'may have'} ${SHADOW_MMU_CVE} (use after free in KVM's shadow MMU)`;
  return warn(
    what,
    `update the kernel (fixed in ${SHADOW_MMU_FIXED_IN}) before nested guests that virtualize themselves are let in`,
  );
}

function kvm({ cpu, devKvm }: Facts): Finding[] {
  if (!cpu.svm && !cpu.vmx)
    return [
      fail(
        'this machine has no virtualization extension (svm or vmx)',
        cpu.hypervisor
          ? 'the host must pass it on: kvm_amd or kvm_intel with nested=1 there, and -cpu host (or +svm, +vmx) for this VM'
          : 'turn it on in the firmware',
      ),
    ];
  const found = [ok(`virtualization extension: ${cpu.svm ? 'svm' : 'vmx'}`)];
  if (!cpu.hypervisor)
    found.push(
      warn('this is no virtual machine', 'HyperTurtle accelerates guests of guests: run this in a VM'),
    );
  if (!devKvm)
    found.push(fail('KVM is not loaded (no /dev/kvm)', `modprobe ${cpu.svm ? 'kvm_amd' : 'kvm_intel'}`));
  return found;
}

function kvmSettings({ npt, ept, tdpMmu, nohzFull }: Facts): Finding[] {
  const found: Finding[] = [];
  for (const [vendor, name, value] of [
    ['kvm_amd', 'npt', npt],
    ['kvm_intel', 'ept', ept],
  ] as const)
    if (value !== undefined)
      found.push(
        on(value)
          ? ok(`nested paging is on (${vendor}.${name})`)
          : fail(`nested paging is off (${vendor}.${name}=${value})`, `load ${vendor} with ${name}=1`),
      );
  if (tdpMmu !== undefined)
    found.push(
      on(tdpMmu)
        ? ok('KVM uses its TDP MMU')
        : fail(`KVM does not use its TDP MMU (kvm.tdp_mmu=${tdpMmu})`, 'load kvm with tdp_mmu=Y'),
    );
  if (nohzFull !== '')
    found.push(
      fail(
        `CPUs without timer tick (nohz_full=${nohzFull})`,
        'boot without nohz_full: nested guests are not registered with it',
      ),
    );
  return found;
}

/** What of the kernel's settings the guest module depends on, refuses, or lives with. */
function kernelSettings({ ftrace, numa, sleep, otherHypervisors }: Facts): Finding[] {
  const found: Finding[] = [];
  if (ftrace === undefined)
    found.push(
      fail(
        'the kernel has no ftrace',
        'use a kernel with CONFIG_DYNAMIC_FTRACE: hyperturtle_guest follows KVM by it',
      ),
    );
  else if (ftrace !== '1')
    found.push(
      fail(
        'ftrace is off: hyperturtle_guest does not load, as it would not see slot changes of KVM',
        'sysctl kernel.ftrace_enabled=1',
      ),
    );
  else found.push(ok('ftrace is on'));
  if (numa.nodes > 1 && numa.balancing !== undefined && numa.balancing !== '0')
    found.push(
      ok(
        `automatic NUMA balancing is on (${numa.nodes} nodes): RAM on turtlefs is not moved by it, and stays accelerated`,
      ),
    );
  if (sleep.split(' ').includes('disk'))
    found.push(ok('hibernation is refused while an arena is bound: it is in no image of this machine'));
  for (const name of otherHypervisors)
    found.push(
      warn(
        `another hypervisor is loaded beside KVM (${name})`,
        `unload ${name} while nested guests are registered: HyperTurtle does not see when it runs a guest`,
      ),
    );
  return found;
}

function guestModule({ guestDevice, agent, signing }: Facts): Finding {
  if (!guestDevice)
    return fail('hyperturtle_guest.ko is not loaded', howToLoad('hyperturtle_guest', signing));
  if (agent?.module?.state === 'mismatch')
    return fail(
      'hyperturtle_guest.ko speaks another ABI than this program',
      'install module and program of one version',
    );
  return ok('hyperturtle_guest.ko is loaded');
}

function arena({ agent, turtlefs, numa, unplacedArenas: unplaced }: Facts): Finding[] {
  const found = [
    turtlefs === undefined
      ? fail(
          'turtlefs is not mounted',
          'mount -t turtlefs none /run/hyperturtle/ram (the agent does, if let)',
        )
      : ok(`turtlefs is mounted at ${turtlefs}`),
  ];
  const m = agent?.module;
  if (m?.state !== 'present') return found;
  if (!m.arenaBound && unplaced.length === 0)
    found.push(
      fail(
        'there is no arena',
        "the host must offer one: 'hyperturtle host args' there prints the devices; behind a root port with pref64-reserve, see this machine's kernel log",
      ),
    );
  if (!m.arenaBound && unplaced.length > 0)
    found.push(
      fail(
        `the arena's device has no address (${unplaced.join(', ')})`,
        "its root port needs a window (pref64-reserve) where this kernel may use it. An AMD machine of 40 address bits may not where SeaBIOS 1.16.3 puts it: give this VM '-cpu ...,phys-bits=39', or host-phys-bits=on on a host that has more",
      ),
    );
  if (m.arenaBound) {
    found.push(ok(`arena of ${m.arenaBytes >> 20} MiB is bound`));
    if (!m.enabled)
      found.push(warn('programs are told to pass every fault', 'hyperturtle guest set --enable'));
    if (m.pool.high === 0)
      found.push(
        fail(
          'the pool is set to hold no frames',
          'hyperturtle guest set --pool-low 1024 --pool-high 4096, or module.pool in guest.yaml',
        ),
      );
    else if (m.pool.level === 0)
      found.push(warn('the pool is empty', 'raise pool_low and pool_high, or give this machine more memory'));
    const without = numa.nodes - (m.pool.nodes ?? []).length;
    if (m.pool.nodes !== undefined && m.pool.nodes.length > 0 && without > 0)
      found.push(
        warn(
          `${without} of ${numa.nodes} NUMA nodes have no pool: faults of nested guests whose memory is to be there go to this machine`,
          'load hyperturtle_guest again if the node came later, or give this machine a larger arena',
        ),
      );
    if (m.index.words > 0 && m.index.used > 0.9 * m.index.words)
      found.push(
        warn(
          'the page index is nearly full',
          'a larger arena: 8 bytes for every 4 KiB of all nested guests together',
        ),
      );
  }
  return found;
}

function channel({ channel: there, port, agent, agentProblem }: Facts): Finding[] {
  const found = [
    there
      ? ok(`channel ${port} is there`)
      : fail(
          `channel ${port} is not there`,
          "the host must give this machine that virtio-serial port: 'hyperturtle host args' there prints it",
        ),
  ];
  if (agent === undefined)
    found.push(
      fail(
        `the agent does not answer: ${agentProblem ?? 'not running'}`,
        'systemctl start hyperturtle-agent, or hyperturtle guest agent',
      ),
    );
  else if (agent.host.state === 'connected')
    found.push(ok(`connected to the host as ${agent.host.vm ?? '?'}`));
  else
    found.push(
      fail(
        `not connected to the host${agent.host.lastError === null ? '' : `: ${agent.host.lastError}`}`,
        'hyperturtled must run there and know this VM (hyperturtle host vm list)',
      ),
    );
  return found;
}

function desired({ agent }: Facts): Finding[] {
  if (agent?.host.state !== 'connected') return [];
  const { desired: d } = agent;
  const found = [...d.problems, ...agent.l2Problems].map((p) =>
    fail(`${p.step}: ${p.message} (${p.kind})`, fixOf(p)),
  );
  if (d.reached && d.objects === 0)
    found.push(warn('nothing is loaded in the host', 'hyperturtle load npf.bpf.o --link'));
  else if (d.reached && d.links === 0)
    found.push(warn('no program is linked', 'hyperturtle link OBJECT --hook npf'));
  else if (d.reached)
    found.push(ok(`the host has all that is wanted: ${d.objects} objects, ${d.links} links`));
  return found;
}

function vmms({ vms, agent, turtlefs }: Facts): Finding[] {
  return vms.map((vm) => {
    const who = `VMM ${vm.name} (process ${vm.pid})`;
    if (vm.turtlefs === 'private')
      return warn(
        `${who}: has its guest's RAM from turtlefs as a private copy, which no program can fill`,
        'QEMU: share=on at its memory-backend-file; cloud-hypervisor: --memory shared=on',
      );
    if (vm.turtlefs === 'none')
      return warn(
        `${who}: its guest's RAM is not on turtlefs${memoryText(vm.memory)}, so its faults take the long way`,
        vm.kata
          ? "'hyperturtle kata status' says whether Kata starts its VMMs by 'hyperturtle vmm', 'kata install' sets that up for the next pod; where it does, the system's log has why (journalctl -t hyperturtle-vmm)"
          : `QEMU: -object memory-backend-file,id=ram,mem-path=${turtlefs ?? PLACES.turtlefs.path}/NAME,size=...,share=on -machine memory-backend=ram; any VMM: start it by 'hyperturtle vmm -- PROGRAM ...'`,
      );
    const l2 = agent?.l2s.find((l) => l.pid === vm.pid);
    if (l2 === undefined && agent?.module?.state === 'present' && agent.module.arenaBound)
      return warn(
        `${who}: not registered by the agent`,
        'fine when someone else registered it; else see l2.register in guest.yaml and the kernel log',
      );
    if (l2?.noIndex !== undefined) return warn(`${who}: registered, but ${l2.noIndex}`, END_NO_INDEX);
    const small = l2?.small === undefined ? '' : `; ${l2.small}`;
    return ok(`${who}: RAM on turtlefs${l2 === undefined ? '' : `, ${accelerationText(l2)}`}${small}`);
  });
}
