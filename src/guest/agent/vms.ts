/**
 * Virtual machines of other processes of this L1, and whether their RAM is on turtlefs. All of it is read from /proc,
 * where processes come and go meanwhile: what has gone is no error.
 */
import { readFileSync, readlinkSync } from 'node:fs';
import path from 'node:path';
import { fdsLinkingTo, hasVm, processes } from '../../bpf/kvm.ts';
import type { OwnedFd } from '../../bpf/fds.ts';
import { pidfdGetfd, pidfdOpen } from '../../bpf/sys.ts';
import type { VARIABLES } from '../../core/environment.ts';
import type { L2Info } from './schema.ts';

const VM_LINK = 'anon_inode:kvm-vm';

/** Longest name that the module keeps, in bytes, without the NUL. */
const NAME_BYTES = 31;

/** Descriptors of all VMs that process `pid` runs, to be closed by the caller. Throws HT_NOT_FOUND when it has ended. */
export function takeVms(pid: number): OwnedFd[] {
  // the pidfd first: from then on the number cannot come to mean another process for us
  const process = pidfdOpen(pid);
  const taken: OwnedFd[] = [];
  try {
    for (const fd of fdsLinkingTo(pid, (t) => t === VM_LINK)) {
      const vm = pidfdGetfd(process, fd, `vm of process ${pid}`);
      // the process may have closed and reused the number between the look and the copy
      if (readlinkSync(`/proc/self/fd/${vm.fd}`) === VM_LINK) taken.push(vm);
      else vm.close();
    }
    return taken;
  } catch (e) {
    for (const vm of taken) vm.close();
    throw e;
  } finally {
    process.close();
  }
}

/** How a process has files of turtlefs: a private mapping is a copy that no program can fill. */
export type TurtlefsUse = 'none' | 'private' | 'shared';

/** Processes that run a VM, with how they have mapped files of turtlefs. */
export function vmProcesses(): { pid: number; turtlefs: TurtlefsUse }[] {
  return processes().flatMap((pid) => {
    try {
      return hasVm(pid) ? [{ pid, turtlefs: turtlefsUse(pid) }] : [];
    } catch {
      return [];
    }
  });
}

/** Undefined when the process has gone. */
export function turtlefsUseOf(pid: number): TurtlefsUse | undefined {
  try {
    return turtlefsUse(pid);
  } catch {
    return undefined;
  }
}

/** Throws when the process has gone. */
function turtlefsUse(pid: number): TurtlefsUse {
  // its own mounts as it may live in a mount namespace of its own, and ours as that may have none left (a jailer's)
  const devices = turtlefsDevices(
    [pid, 'self'].map((of) => readFileSync(`/proc/${of}/mountinfo`, 'utf8')).join('\n'),
  );
  return devices.size === 0 ? 'none' : deviceUse(readFileSync(`/proc/${pid}/maps`, 'utf8'), devices);
}

/** Device numbers of the mounts of turtlefs, as `0:45`. */
export function turtlefsDevices(mountinfo: string): Set<string> {
  const found = new Set<string>();
  for (const line of mountinfo.split('\n')) {
    const [before = '', after = ''] = line.split(' - ');
    const device = before.split(' ')[2];
    if (after.split(' ')[0] === 'turtlefs' && device !== undefined) found.add(device);
  }
  return found;
}

/** What /proc/PID/maps has of these devices, whose numbers are in hexadecimal there: `00:2d`. Shared if any is. */
export function deviceUse(maps: string, devices: ReadonlySet<string>): TurtlefsUse {
  let use: TurtlefsUse = 'none';
  for (const line of maps.split('\n')) {
    const [, rights, , device = ''] = line.split(/\s+/);
    const [major, minor] = device.split(':');
    if (!devices.has(`${parseInt(major ?? '', 16)}:${parseInt(minor ?? '', 16)}`)) continue;
    if (rights?.endsWith('s')) return 'shared';
    use = 'private';
  }
  return use;
}

/** Where most of a process's memory is that can be written; `bytes` of it. */
export interface LargestMemory {
  bytes: number;
  where: string;
}

/** What /proc/PID/maps has most of, by kind; undefined when it has nothing that can be written. Pure. */
export function largestMemory(maps: string): LargestMemory | undefined {
  const byKind = new Map<string, number>();
  for (const line of maps.split('\n')) {
    const [, start, end, name] = /^([0-9a-f]+)-([0-9a-f]+) .w\S* \S+ \S+ \d+ *(.*)$/.exec(line) ?? [];
    if (start === undefined || end === undefined) continue;
    const kind = kindOfMemory(name ?? '');
    byKind.set(kind, (byKind.get(kind) ?? 0) + parseInt(end, 16) - parseInt(start, 16));
  }
  const [most] = [...byKind].sort(([, a], [, b]) => b - a);
  return most === undefined ? undefined : { where: most[0], bytes: most[1] };
}

function kindOfMemory(name: string): string {
  if (name === '' || name.startsWith('[')) return 'anonymous memory';
  if (/^\/(?:anon_hugepage|dev\/hugepages)/.test(name)) return 'huge pages';
  if (name.startsWith('/memfd:')) return 'a memfd';
  if (name.startsWith('/dev/zero')) return 'shared anonymous memory';
  return `files in ${path.dirname(name)}`;
}

/** A VMM whose guest is not accelerated, as its memory is elsewhere. */
export interface VmElsewhere {
  pid: number;
  name: string;
  turtlefs: Exclude<TurtlefsUse, 'shared'>;
  memory: LargestMemory | undefined;
  /** Kata started it. */
  kata: boolean;
}

/** A VMM of this machine, by what KVM has given it. */
export type Vmm = { pid: number; name: string; turtlefs: 'shared' } | VmElsewhere;

export function vmms(): Vmm[] {
  return vmProcesses().map(({ pid, turtlefs }) => {
    const name = vmName(pid);
    return turtlefs === 'shared' ? { pid, name, turtlefs } : { pid, name, turtlefs, ...whereOf(pid) };
  });
}

/** Those whose memory no program can fill. */
export const vmsElsewhere = (): VmElsewhere[] => vmms().filter((v) => v.turtlefs !== 'shared');

/** How many these are, as of at most `maxAgeMs` ago: it looks through all processes. */
export function elsewhereCounter(maxAgeMs: number, all = vmProcesses): () => number {
  let last: { atMs: number; n: number } | undefined;
  return () => {
    const nowMs = performance.now();
    if (last === undefined || nowMs - last.atMs > maxAgeMs)
      last = { atMs: nowMs, n: all().filter((v) => v.turtlefs !== 'shared').length };
    return last.n;
  };
}

function whereOf(pid: number): Pick<VmElsewhere, 'memory' | 'kata'> {
  try {
    return {
      memory: largestMemory(readFileSync(`/proc/${pid}/maps`, 'utf8')),
      kata: isOfKata(readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')),
    };
  } catch {
    return { memory: undefined, kata: false }; // it has gone
  }
}

/** By the directories that both of its runtimes give VMMs. Pure. */
export const isOfKata = (args: readonly string[]): boolean =>
  args.some((arg) => /(?:^|[=,:])\/run\/(?:vc|kata)\//.test(arg));

/** What shows that programs act for a nested guest, and from when on they may have. */
export function accelerationText(l2: L2Info): string {
  const n = l2.mappedNew + l2.mappedExisting;
  return `registered since ${l2.since}, ${n === 0 ? 'no fault' : `${n} of ${l2.faults} faults`} answered in the host`;
}

/** Where memory is, for people. Pure. */
export const memoryText = (memory: LargestMemory | undefined): string =>
  memory === undefined
    ? ''
    : ` (its largest is ${Math.round(memory.bytes / 2 ** 20)} MiB of ${memory.where})`;

/** Where turtlefs is mounted for this process, or undefined. */
export function turtlefsMount(mountinfo = readFileSync('/proc/self/mountinfo', 'utf8')): string | undefined {
  const line = mountinfo.split('\n').find((l) => l.split(' - ')[1]?.startsWith('turtlefs '));
  return line?.split(' ')[4];
}

/** Variable of a VMM, set by `hyperturtle vmm --name`. */
export const NAME_VARIABLE = 'HYPERTURTLE_VM_NAME' satisfies keyof typeof VARIABLES;

/** What its variable says, what the VMM calls its guest (QEMU's -name), or `pid-N`. */
export function vmName(pid: number): string {
  try {
    const set = vmNameIn(readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0'));
    if (set !== undefined) return set;
    const args = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
    const given = vmNameOf(args);
    if (given !== undefined) return given;
  } catch {
    // it has gone: anyone who uses the name will find out
  }
  return `pid-${pid}`;
}

/** Pure. */
export function vmNameIn(variables: readonly string[]): string | undefined {
  const set = variables.find((v) => v.startsWith(`${NAME_VARIABLE}=`));
  return set === undefined ? undefined : nameOf(set.slice(NAME_VARIABLE.length + 1));
}

function nameOf(text: string | undefined): string | undefined {
  const name = text?.replace(/[^\x21-\x7e]/g, '_').slice(0, NAME_BYTES);
  return name === '' ? undefined : name;
}

/** Name in `-name NAME,...` and `-name ...,guest=NAME,...`; a comma of the name itself is doubled. */
export function vmNameOf(args: readonly string[]): string | undefined {
  const at = args.findIndex((a) => a === '-name' || a === '--name');
  const options = at < 0 ? [] : (args[at + 1]?.match(/(?:,,|[^,])+/g) ?? []);
  const guest = options.find((o) => o.startsWith('guest='))?.slice('guest='.length);
  const first = options[0]?.includes('=') ? undefined : options[0];
  return nameOf((guest ?? first)?.replaceAll(',,', ','));
}
