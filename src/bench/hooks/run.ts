/**
 * What hooks on KVM cost VMs that nobody attached: the instructions of the module's trampolines up to their return, out of
 * the compiled module. A trampoline is entered by the hooked function's own ftrace call, which is a no-op without the module.
 */
import { HyperturtleError } from '../../core/errors.ts';

/**
 * Trampolines of the functions that KVM passes for one event, by vendor. c/host/exit.c, npf.c, call.c. On Intel every exit of L2
 * goes through nested_vmx_reflect_vmexit; on AMD a page fault not through nested_svm_exit_handled (nested_svm_exit_special).
 */
export const HOOK_PATHS = [
  { event: 'AMD: an exit of L2 goes to L1', trampolines: ['ht_svm_around', 'ht_svm_vmexit'] },
  { event: 'AMD: L1 enters L2', trampolines: ['ht_svm_vmentry'] },
  { event: 'AMD: a nested page fault of L2', trampolines: ['ht_npt'] },
  { event: 'Intel: an exit of L2 goes to L1', trampolines: ['ht_vmx_around', 'ht_vmx_vmexit'] },
  { event: 'Intel: L1 enters L2', trampolines: ['ht_vmx_vmentry'] },
  { event: 'Intel: a nested page fault of L2', trampolines: ['ht_vmx_around', 'ht_ept'] },
  // hooked once some VM has linked a program to `call` for L1
  { event: 'a hypercall of a VM itself, where some VM has linked one', trampolines: ['ht_call_l1'] },
] as const;

export interface HookCost {
  event: string;
  functions: number;
  /** With the calls of the trampolines and their returns. */
  instructions: number;
}

/** `text` is what `objdump -dr` says of hyperturtle_host.ko. */
export function hookCosts(text: string): HookCost[] {
  return HOOK_PATHS.map(({ event, trampolines }) => ({
    event,
    functions: trampolines.length,
    instructions: trampolines
      .map((name) => 1 + untilReturn(text, `${name}_trampoline`))
      .reduce((a, b) => a + b, 0),
  }));
}

const INSTRUCTION = /^\s*[0-9a-f]+:\t(?:[0-9a-f]{2} )*\s*(?:\t)?([a-z]\w*)/;

/** How many are executed up to the first return, no conditional jump being taken. */
function untilReturn(text: string, name: string): number {
  const lines = text.split('\n');
  const begin = lines.findIndex((l) => l.endsWith(` <${name}>:`));
  if (begin < 0) throw new HyperturtleError('HT_NOT_FOUND', `${name}: the module has no such function`);
  let n = 0;
  for (let i = begin + 1; i < lines.length && lines[i] !== ''; i++) {
    const op = INSTRUCTION.exec(lines[i]!)?.[1];
    if (op === undefined) continue; // a relocation
    n++;
    if (op.startsWith('ret')) return n;
    // the kernel writes a return over it, or has it return for us
    if (op === 'jmp' && lines[i + 1]?.includes('__x86_return_thunk')) return n;
    if (op === 'call' || op === 'jmp') break;
  }
  throw new HyperturtleError('HT_UNSUPPORTED', `${name}: calls or jumps before it returns`);
}
