/** `--kernel` and `--qemu`: by default those of the machine's Debian. */
import { InvalidArgumentError, Option } from 'commander';
import { defaultKernel } from '../../lab/debian.ts';
import { checkKernel, parseKernelName } from '../../lab/kernel-name.ts';

export function kernelOption(what: string): Option {
  return new Option('-k, --kernel <series>', what)
    .default(defaultKernel(), "the machine's Debian's")
    .argParser(kernelName);
}

/** The name of a kernel that this machine can have, as far as that is known at once. */
export function kernelName(name: string): string {
  checkKernel(name);
  return name;
}

/** `6.1,7.3`. Throws HT_USAGE for what names no kernel. */
export function kernelList(text: string): string[] {
  const names = text.split(',');
  for (const name of names) parseKernelName(name);
  return names;
}

export function qemuOption(): Option {
  return new Option(
    '--qemu <version>',
    "QEMU outside and in L0; default: the machine's Debian's. Debian 12 has 7.2, Debian 13 10.0, its backports 11",
  ).argParser(qemuVersion);
}

/** For telling an emulator's faults from those of the QEMU that it runs. */
export function outerQemuOption(): Option {
  return new Option(
    '--outer-qemu <version>',
    'version of the outer machine alone; default: that of --qemu',
  ).argParser(qemuVersion);
}

function qemuVersion(v: string): string {
  if (!/^\d+(\.\d+)?$/.test(v)) throw new InvalidArgumentError('a version such as 10 or 11.1 expected.');
  return v;
}
