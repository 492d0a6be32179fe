/**
 * The rules that an object must keep before libbpf or the kernel see a byte of it. Pure: the same answer in the
 * daemon and in `hyperturtle check`, on any machine.
 */
import { HOOK_TABLE } from '../hooks.ts';
import type { HookSpec } from '../hooks.ts';
import { DEFAULT_OBJECT_LIMITS } from './verdict.ts';
import type { AdmissionPolicy, ObjectLimits, Verdict } from './verdict.ts';

export interface CheckOptions {
  policy: AdmissionPolicy;
  hooks?: readonly HookSpec[];
  limits?: ObjectLimits;
}

/** Never throws for what is in `elf`: each fault found is a refusal. `ok` is true when there is none. */
export function checkObject(elf: Uint8Array, options: CheckOptions): Verdict {
  void [elf, options, HOOK_TABLE, DEFAULT_OBJECT_LIMITS];
  throw new Error('not implemented yet');
}
