/** `--cpu`: whose processor a lab has, and what emulates it. */
import { Option } from 'commander';
import { HyperturtleError } from '../../core/errors.ts';

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

export function clockOption(): Option {
  return new Option(
    '--clock <kind>',
    'what passes the time of an emulated AMD processor (default real). instructions: 2 ns for each instruction, so that a slow machine does not drown in ticks',
  ).choices(['real', 'instructions']);
}

/** Models of `bochs --help cpu` that have EPT and that the lab has been run on. */
const MODELS = ['broadwell_ult', 'tigerlake'];

export function modelOption(): Option {
  return new Option(
    '--cpu-model <model>',
    'with --cpu intel: broadwell_ult; or tigerlake, which has CET (IBT in kernels since 6.2)',
  ).choices(MODELS);
}

/** Throws HT_USAGE for a model of an AMD processor: there is one. */
export function bochsModelOf(o: { cpu: string; cpuModel?: string }): { bochsModel?: string } {
  if (o.cpuModel === undefined) return {};
  if (o.cpu !== 'intel')
    throw new HyperturtleError('HT_USAGE', '--cpu-model is for --cpu intel: leave one of them out');
  return { bochsModel: o.cpuModel };
}

/** Throws HT_USAGE when both options are given. */
export function emulatedBy(o: EmulatedCpu): 'tcg' | 'kvm' | 'bochs' {
  if (o.cpu === 'amd') return o.accel;
  if (o.accel === 'kvm')
    throw new HyperturtleError('HT_USAGE', "--accel kvm has this machine's processor: leave --cpu out");
  return 'bochs';
}
