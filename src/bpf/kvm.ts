/**
 * Finding the KVM virtual machine of another process, and taking a descriptor of it: VMMs name their vm file
 * `anon_inode:kvm-vm` in /proc (Linux, all versions that we support), and pidfd_getfd copies it.
 */
import { readdirSync, readlinkSync } from 'node:fs';
import { HyperturtleError, errnoCode } from '../core/errors.ts';
import { ioctlWithout, openDevice, pidfdGetfd, pidfdOpen } from './sys.ts';
import { OwnedFd } from './fds.ts';
import { KVM_CREATE_VM } from '../kernel/kvm.ts';

const VM_LINK = 'anon_inode:kvm-vm';

/** Descriptor numbers of `pid` whose link is `target` or matches it. Empty when the process has gone. */
export function fdsLinkingTo(pid: number, matches: (target: string) => boolean): number[] {
  const dir = `/proc/${pid}/fd`;
  let names: string[];
  try {
    names = readdirSync(dir);
  } catch (e) {
    const errno = errnoCode(e);
    if (errno === 'ENOENT' || errno === 'ESRCH') return [];
    if (errno === 'EACCES')
      throw new HyperturtleError('HT_KERNEL', `${dir}: no permission: run as root`, { cause: e });
    throw e;
  }
  return names
    .filter((name) => {
      try {
        return matches(readlinkSync(`${dir}/${name}`));
      } catch {
        return false; // closed in between
      }
    })
    .map(Number);
}

export function hasVm(pid: number): boolean {
  return fdsLinkingTo(pid, (t) => t === VM_LINK).length > 0;
}

/** Process numbers of all that /proc shows. */
export function processes(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

/** Makes a VM of this process, with no CPU and no memory: for programs that are run by hand. */
export function emptyVm(): OwnedFd {
  const kvm = openDevice('/dev/kvm', 'load kvm_amd or kvm_intel');
  try {
    return new OwnedFd(ioctlWithout(kvm, KVM_CREATE_VM), 'VM without CPUs');
  } finally {
    kvm.close();
  }
}

export interface TakenVm {
  /** The KVM vm file. The caller closes both. */
  vm: OwnedFd;
  /** Tells whether the process still lives. */
  process: OwnedFd;
}

/**
 * Takes a descriptor of the VM that process `pid` runs. Throws HT_NOT_FOUND when there is no such process or it
 * runs no VM.
 */
export function takeVm(pid: number): TakenVm {
  // the pidfd first: from then on the number cannot come to mean another process for us
  const process = pidfdOpen(pid);
  let vm: OwnedFd | undefined;
  try {
    const [remote] = fdsLinkingTo(pid, (t) => t === VM_LINK);
    if (remote === undefined)
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        `process ${pid} runs no KVM virtual machine: give the process id of a VMM that uses KVM`,
      );
    vm = pidfdGetfd(process, remote, `vm of process ${pid}`);
    // the process may have closed and reused the number between the look and the copy
    if (readlinkSync(`/proc/self/fd/${vm.fd}`) !== VM_LINK)
      throw new HyperturtleError('HT_BUSY', `process ${pid} is just opening or closing its VM: try again`);
    return { vm, process };
  } catch (e) {
    vm?.close();
    process.close();
    throw e;
  }
}
