/** Kernels by the names that users give them: `6.1` is Debian's own, `6.1-debug` and `6.1-kcsan` are built by the lab. */
import { HyperturtleError } from '../core/errors.ts';
import { machineRelease } from './debian.ts';
import type { Release } from './debian.ts';

/** `debug`: KASAN, lockdep, kmemleak, UBSAN and the like; `kcsan`: data races. They exclude each other. */
export type KernelFlavor = 'debug' | 'kcsan';

export interface KernelName {
  series: string;
  /** Missing: the stock kernel. */
  flavor?: KernelFlavor;
}

/** Two numbers as Linux has them, without zeros before them. */
const SERIES = String.raw`(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)`;
const NAME = new RegExp(`^(${SERIES})(?:-(debug|kcsan))?$`);

/** Throws HT_USAGE for what cannot be a kernel, before any network is touched. */
export function parseKernelName(name: string): KernelName {
  const m = NAME.exec(name);
  if (!m)
    throw new HyperturtleError(
      'HT_USAGE',
      `kernel '${name}': expected a series such as 6.1 or 6.12, or with sanitizers 6.1-debug or 6.1-kcsan`,
    );
  return { series: m[1]!, ...(m[2] === undefined ? {} : { flavor: m[2] as KernelFlavor }) };
}

/** Throws HT_USAGE for what is no series. */
export function checkSeries(series: string): void {
  if (!new RegExp(`^${SERIES}$`).test(series))
    throw new HyperturtleError('HT_USAGE', `kernel '${series}': expected a series such as 6.1 or 6.12`);
}

/**
 * The same, and what it names exists for `machine`, as far as that is known without apt's lists: throws HT_UNSUPPORTED for
 * sanitizers in a kernel whose source it has not.
 */
export function checkKernel(name: string, machine: () => Release = machineRelease): KernelName {
  const kernel = parseKernelName(name);
  const { series, flavor } = kernel;
  if (flavor === undefined) return kernel;
  const { version, sources } = machine();
  if (!sources.includes(series))
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      `kernel ${name}: kernels with sanitizers are built from source of the machine's Debian, which is ${version}: ${sources.map((s) => `${s}-${flavor}`).join(' or ')} expected`,
    );
  return kernel;
}

/** How much longer than with the stock kernel everything may take. */
export function patienceFor(name: string): number {
  return /-(debug|kcsan)$/.test(name) ? 6 : 1;
}
