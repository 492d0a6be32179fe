/** `--kernel`: by default the one of the machine's Debian. */
import { Option } from 'commander';
import { defaultKernel } from '../lab/debian.ts';

export function kernelOption(what: string): Option {
  return new Option('-k, --kernel <series>', what).default(defaultKernel(), "the machine's Debian's");
}
