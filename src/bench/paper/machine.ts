/** What of a real machine would disturb `bench paper --accel kvm`, told before an hour is spent on it. */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { cpuFlags } from '../../core/cpu-flags.ts';
import { textIfThere } from '../../core/files.ts';
import type { Finding } from '../../wire/schema.ts';

const CPUS = 'sys/devices/system/cpu';

const ok = (what: string): Finding => ({ level: 'ok', what });
const warn = (what: string, mend: string): Finding => ({ level: 'warn', what, mend });

/** Findings about the machine whose files are below `root`: `ok` and `warn` each with what is so, `warn` with a fix. */
export function machineFindings(root = '/'): Finding[] {
  const read = (file: string): string | undefined => textIfThere(path.join(root, file));
  const flags = cpuFlags(read('proc/cpuinfo') ?? '');
  return [
    level(flags),
    nesting(read),
    hugePages(read),
    governors(root, read),
    smt(read),
    isolated(read),
    boost(read),
    background(read),
    ibt(flags, read('proc/cmdline') ?? ''),
  ];
}

type Read = (file: string) => string | undefined;

function level(flags: ReadonlySet<string>): Finding {
  return flags.has('hypervisor')
    ? warn(
        'this machine is itself a guest: each exit costs one more level',
        'take a machine without a hypervisor below it',
      )
    : ok('no hypervisor below this machine');
}

function nesting(read: Read): Finding {
  for (const vendor of ['kvm_intel', 'kvm_amd']) {
    const value = read(`sys/module/${vendor}/parameters/nested`);
    if (value === undefined) continue;
    return /^[1Y]/.test(value)
      ? ok(`nested virtualization: on (${vendor})`)
      : warn(
          `nested virtualization: off (${vendor})`,
          `options ${vendor} nested=1 in /etc/modprobe.d, then load it again`,
        );
  }
  return warn('neither kvm_intel nor kvm_amd is loaded', 'load one, with nested=1');
}

function hugePages(read: Read): Finding {
  const chosen = /\[(\w+)\]/.exec(read('sys/kernel/mm/transparent_hugepage/enabled') ?? '')?.[1];
  if (chosen === undefined)
    return warn('the kernel has no transparent huge pages', 'note it beside the figures');
  return chosen === 'never'
    ? warn(
        'transparent huge pages: never, so L0 backs its guests by 4 KiB pages',
        'echo madvise > /sys/kernel/mm/transparent_hugepage/enabled',
      )
    : ok(`transparent huge pages: ${chosen}`);
}

function governors(root: string, read: Read): Finding {
  const found = new Set(cpus(root).flatMap((cpu) => read(`${CPUS}/${cpu}/cpufreq/scaling_governor`) ?? []));
  if (found.size === 0) return ok('no frequency governor: the frequency is not Linux’s to change');
  const others = [...found].filter((g) => g !== 'performance').sort();
  return others.length > 0
    ? warn(`frequency governor: ${others.join(', ')}`, 'cpupower frequency-set -g performance')
    : ok('frequency governor: performance');
}

function cpus(root: string): string[] {
  try {
    return readdirSync(path.join(root, CPUS)).filter((name) => /^cpu\d+$/.test(name));
  } catch {
    return []; // no such folder: a machine without sysfs
  }
}

function smt(read: Read): Finding {
  return read(`${CPUS}/smt/active`) === '1'
    ? warn(
        'SMT is on: a sibling thread takes a share of a core; the paper had it off',
        `echo off > /${CPUS}/smt/control`,
      )
    : ok('SMT is off');
}

function isolated(read: Read): Finding {
  const list = read(`${CPUS}/isolated`) ?? '';
  return list === ''
    ? warn(
        'no CPU is isolated: whatever else runs takes its turns',
        'boot with isolcpus=, and start this by taskset on these CPUs',
      )
    : ok(`isolated CPUs: ${list}`);
}

function boost(read: Read): Finding {
  const on = read(`${CPUS}/cpufreq/boost`) === '1' || read(`${CPUS}/intel_pstate/no_turbo`) === '0';
  return on
    ? warn(
        'the frequency may be boosted: it depends on heat and on what other cores do',
        `echo 1 > /${CPUS}/intel_pstate/no_turbo, or echo 0 > /${CPUS}/cpufreq/boost`,
      )
    : ok('no frequency boost');
}

/** What the kernel does to memory by itself. */
function background(read: Read): Finding {
  const found = [
    ...(read('sys/kernel/mm/ksm/run') === '1' ? ['KSM'] : []),
    ...((read('proc/sys/kernel/numa_balancing') ?? '0') !== '0' ? ['NUMA balancing'] : []),
    ...((read('proc/swaps') ?? '').split('\n').length > 1 ? ['swap'] : []),
  ];
  return found.length > 0
    ? warn(
        `on, and moving pages by themselves: ${found.join(', ')}`,
        'echo 0 > /sys/kernel/mm/ksm/run; sysctl kernel.numa_balancing=0; swapoff -a',
      )
    : ok('no KSM, no NUMA balancing, no swap');
}

/** Not a disturbance: it costs each indirect call a little, and figures with it and without are not to be mixed. */
function ibt(flags: ReadonlySet<string>, commandLine: string): Finding {
  const on = flags.has('ibt') && !/\bibt=off\b/.test(commandLine);
  return ok(
    `Indirect Branch Tracking: ${on ? 'on' : flags.has('ibt') ? 'off by ibt=off' : 'not in this CPU'}`,
  );
}
