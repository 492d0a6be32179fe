/** What is looked at before a lab starts, so that what is missing is one line instead of a machine that dies. */
import { constants } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import os from 'node:os';
import { HyperturtleError, errnoCode } from '../core/errors.ts';
import { BOCHS_MEM_MIB } from './bochs-config.ts';
import type { Accelerator, L1Shape, LabClock } from './machine.ts';

/** What the outer QEMU uses beside its guest's memory: mostly the buffer of translated code. */
const QEMU_OWN_MIB = 700;

export function checkShape(l1: L1Shape, accel: Accelerator = 'tcg', images = 0): void {
  const whole = (what: string, value: number, min: number, max: number): void => {
    if (!Number.isInteger(value) || value < min || value > max)
      throw new HyperturtleError(
        'HT_USAGE',
        `${what} ${value}: a whole number from ${min} to ${max} expected`,
      );
  };
  whole('L1 CPUs', l1.cpus, 1, 8);
  whole('L1 memory (MiB)', l1.memMib, 512, 65_536);
  if (accel === 'bochs') {
    // one emulated processor, 2 GiB at most, no ports for a second L1
    whole('L1 CPUs of an Intel lab', l1.cpus, 1, 1);
    whole('L1 memory of an Intel lab (MiB)', l1.memMib, 512, BOCHS_MEM_MIB - 512);
    if (images > 0)
      throw new HyperturtleError('HT_UNSUPPORTED', 'an Intel lab has no disk for images of nested guests');
    if (l1.secondMemMib !== undefined)
      throw new HyperturtleError(
        'HT_UNSUPPORTED',
        'an Intel lab has room for one L1: leave the second one out',
      );
  }
  if (l1.secondMemMib !== undefined) whole("second L1's memory (MiB)", l1.secondMemMib, 512, 65_536);
}

/** Throws HT_USAGE for a clock that the emulator does not have. */
export function clockOf(accel: Accelerator, asked: LabClock | undefined): LabClock {
  if (accel === 'tcg') return asked ?? 'real';
  const only: LabClock = accel === 'bochs' ? 'instructions' : 'real';
  if ((asked ?? only) === only) return only;
  throw new HyperturtleError(
    'HT_USAGE',
    `--clock ${asked}: a lab on ${accel === 'bochs' ? 'Bochs' : 'KVM'} has ${only} alone; leave it out`,
  );
}

/** Throws HT_NO_MEMORY when the host cannot hold a machine of `memMib`, of which a third is never touched. */
export async function needMemory(memMib: number, meminfo = '/proc/meminfo'): Promise<void> {
  const kib = /^MemAvailable:\s+(\d+) kB/m.exec(await readFile(meminfo, 'utf8'))?.[1];
  const needMib = Math.round((memMib * 2) / 3) + QEMU_OWN_MIB;
  const freeMib = Math.floor(Number(kib) / 1024);
  if (freeMib < needMib)
    throw new HyperturtleError(
      'HT_NO_MEMORY',
      `${needMib} MiB of memory needed for the lab, ${freeMib} MiB available: end other programs or labs, or make L1 smaller with --l1-memory`,
      { detail: { needMib, freeMib } },
    );
}

/** Reasons known without trying. Whether nesting works is then found out by booting. */
export async function checkKvm(device = '/dev/kvm', modules = '/sys/module'): Promise<void> {
  const refuse = (why: string): never => {
    throw new HyperturtleError('HT_UNSUPPORTED', `--accel kvm: ${why}; use --accel tcg`);
  };
  try {
    // a device file alone does not say that its driver is there
    await (await open(device, constants.O_RDWR)).close();
  } catch (e) {
    refuse(
      errnoCode(e) === 'ENOENT' ? `there is no ${device}` : `${device} can't be opened (${errnoCode(e)})`,
    );
  }
  let drivers = 0;
  for (const module of ['kvm_amd', 'kvm_intel']) {
    const nested = await readFile(`${modules}/${module}/parameters/nested`, 'utf8').catch(() => undefined);
    if (nested === undefined) continue;
    if (!/^[1Y]/.test(nested)) refuse(`nested virtualization is off: load ${module} with nested=1`);
    drivers++;
  }
  // a KVM in software (kvm_pvm) has the device, and no nesting
  if (drivers === 0) refuse('KVM here has neither kvm_amd nor kvm_intel, which nest');
}

export interface HostFacts {
  kernel: string;
  cpuModel: string;
  cpus: number;
  memMib: number;
  node: string;
}

export function hostFacts(): HostFacts {
  return {
    kernel: os.release(),
    cpuModel: os.cpus()[0]?.model ?? 'unknown',
    cpus: os.availableParallelism(),
    memMib: Math.round(os.totalmem() / (1 << 20)),
    node: process.version,
  };
}
