/** Whether the kernel calls what hooks its functions. */
import { textIfThere } from './files.ts';

/** `1` or `0`; undefined: a kernel without ftrace. */
export const ftraceEnabled = (): string | undefined => textIfThere('/proc/sys/kernel/ftrace_enabled');
