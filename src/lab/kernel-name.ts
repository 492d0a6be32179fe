/** Kernels by the names that users give them: `6.1` is Debian's own, `6.1-debug` and `6.1-kcsan` are built by the lab. */
import { HyperturtleError } from '../core/errors.ts';

/** `debug`: KASAN, lockdep, kmemleak, UBSAN and the like; `kcsan`: data races. They exclude each other. */
export type KernelFlavor = 'debug' | 'kcsan';

export interface KernelName {
  series: string;
  /** Missing: the stock kernel. */
  flavor?: KernelFlavor;
}

/** Throws HT_USAGE for what cannot be a kernel, before any network is touched. */
export function parseKernelName(name: string): KernelName {
  const m = /^(\d+\.\d+)(?:-(debug|kcsan))?$/.exec(name);
  if (!m)
    throw new HyperturtleError(
      'HT_USAGE',
      `kernel '${name}': expected a series such as 6.1 or 6.12, or with sanitizers 6.1-debug or 6.1-kcsan`,
    );
  return { series: m[1]!, ...(m[2] === undefined ? {} : { flavor: m[2] as KernelFlavor }) };
}

/** How much longer than with the stock kernel everything may take. */
export function patienceFor(name: string): number {
  return /-(debug|kcsan)$/.test(name) ? 6 : 1;
}
