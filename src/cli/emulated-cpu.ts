/** `--cpu`: whose processor a lab has, and what emulates it. */
import { Option } from 'commander';
import { HyperturtleError } from '../core/errors.ts';

export interface EmulatedCpu {
  accel: 'tcg' | 'kvm';
  cpu: 'amd' | 'intel';
}

export function cpuOption(): Option {
  return new Option(
    '--cpu <vendor>',
    "whose processor is emulated; intel: by Bochs, slower and without a snapshot, VMX and EPT as Intel's have them",
  )
    .choices(['amd', 'intel'])
    .default('amd');
}

/** Throws HT_USAGE when both options are given. */
export function emulatedBy(o: EmulatedCpu): 'tcg' | 'kvm' | 'bochs' {
  if (o.cpu === 'amd') return o.accel;
  if (o.accel === 'kvm')
    throw new HyperturtleError('HT_USAGE', "--accel kvm has this machine's processor: leave --cpu out");
  return 'bochs';
}
