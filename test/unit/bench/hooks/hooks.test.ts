/** What hooks cost VMs that nobody attached, out of a disassembled module. */
import { expect, it } from 'vitest';
import { HOOK_PATHS, hookCosts } from '../../../../src/bench/hooks/run.ts';

const FAST = `  10:	0f b7 47 01          	movzwl 0x1(%rdi),%eax
  14:	80 b8 00 00 00 00 00 	cmpb   $0x0,0x0(%rax)
			16: R_X86_64_32S	ht_hook_marks
  1b:	75 05                	jne    22 <x+0x12>
  1d:	e9 00 00 00 00       	jmp    22 <x+0x12>
			1e: R_X86_64_PLT32	__x86_return_thunk-0x4
  22:	55                   	push   %rbp
  4b:	e8 00 00 00 00       	call   50 <x+0x40>
`;
const names = [...new Set(HOOK_PATHS.flatMap((p) => p.trampolines))];
const module = (code: string): string =>
  names.map((n) => `0000000000000010 <${n}_trampoline>:\n${code}`).join('\n');

it('counts the call and what the trampoline executes up to its return, for each function of an event', () => {
  const costs = hookCosts(module(FAST));
  expect(costs.map((c) => [c.functions, c.instructions])).toEqual([
    ...[
      [2, 10],
      [1, 5],
      [1, 5],
    ],
    ...[
      [2, 10],
      [1, 5],
      [2, 10],
    ],
    [1, 5],
  ]);
});

it('says when a trampoline calls before it has decided, and when there is none', () => {
  const slow = FAST.replace(/.*jne.*\n.*jmp.*\n.*thunk.*\n/, '');
  expect(() => hookCosts(module(slow))).toThrow(/ht_svm_around_trampoline: calls or jumps before it returns/);
  expect(() => hookCosts('')).toThrow(/ht_svm_around_trampoline: the module has no such function/);
});
