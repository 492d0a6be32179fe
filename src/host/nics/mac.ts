/** MAC addresses of NICs: those that they get, and which may be asked for. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { HyperturtleError } from '../../core/errors.ts';

/** The same each time for the same host, VM and NIC; locally administered. */
export function macOf(vm: string, id: string): string {
  const digest = createHash('sha256').update(`${machineId()}\0${vm}\0${id}`).digest();
  return ['02', ...Array.from(digest.subarray(0, 5), (b) => b.toString(16).padStart(2, '0'))].join(':');
}

/** So that VMs of one name on two hosts differ, which may share a network; see machine-id(5). */
function machineId(): string {
  try {
    return readFileSync('/etc/machine-id', 'latin1').trim();
  } catch {
    return '';
  }
}

/** Throws HT_USAGE. */
export function checkedMac(mac: string): string {
  if (parseInt(mac.slice(0, 2), 16) & 1 || mac === '00:00:00:00:00:00')
    throw new HyperturtleError('HT_USAGE', `${mac} is no address of one NIC: an even first byte expected`);
  return mac;
}
