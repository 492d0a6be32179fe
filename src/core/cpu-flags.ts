/** What the processor says that it can. */
import { textIfThere } from './files.ts';

/** Flags of the first CPU as Linux names them (`svm`, `vmx`, `hypervisor`); none where `cpuinfo` has none. */
export const cpuFlags = (cpuinfo = textIfThere('/proc/cpuinfo')): ReadonlySet<string> =>
  new Set(
    /^flags\s*:(.*)$/m
      .exec(cpuinfo ?? '')?.[1]
      ?.split(' ')
      .filter((f) => f !== ''),
  );
