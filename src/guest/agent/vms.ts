/**
 * Virtual machines of other processes of this L1, and whether their RAM is on turtlefs. All of it is read from /proc,
 * where processes come and go meanwhile: what has gone is no error.
 */
import { readFileSync, readlinkSync } from 'node:fs';
import { fdsLinkingTo, hasVm, processes } from '../../bpf/kvm.ts';
import type { OwnedFd } from '../../bpf/fds.ts';
import { pidfdGetfd, pidfdOpen } from '../../bpf/sys.ts';
import type { VARIABLES } from '../../core/environment.ts';

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
  // its own mounts: it may live in a mount namespace of its own
  const devices = turtlefsDevices(readFileSync(`/proc/${pid}/mountinfo`, 'utf8'));
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
