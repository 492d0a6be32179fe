/** Ptrace of x86-64 (<linux/ptrace.h>, <sys/user.h>), as far as one call of a thread is replaced by it. */
import { array, struct, u32, u64 } from './struct.ts';

export const PTRACE_GETREGS = 12;
export const PTRACE_SETREGS = 13;
export const PTRACE_DETACH = 17;
export const PTRACE_SYSCALL = 24;
export const PTRACE_SETOPTIONS = 0x4200;
export const PTRACE_SEIZE = 0x4206;
export const PTRACE_INTERRUPT = 0x4207;
export const PTRACE_GET_SYSCALL_INFO = 0x420e;
export const PTRACE_SYSCALL_INFO_ENTRY = 1;
export const PTRACE_O_TRACESYSGOOD = 1;
export const PTRACE_O_SUSPEND_SECCOMP = 1 << 21;
export const PTRACE_EVENT_STOP = 128;

export const USER_REGS = struct('struct user_regs_struct', {
  ...{ r15: u64, r14: u64, r13: u64, r12: u64, rbp: u64, rbx: u64, r11: u64, r10: u64, r9: u64, r8: u64 },
  ...{ rax: u64, rcx: u64, rdx: u64, rsi: u64, rdi: u64, orig_rax: u64, rip: u64, cs: u64, eflags: u64 },
  ...{ rsp: u64, ss: u64, fs_base: u64, gs_base: u64, ds: u64, es: u64, fs: u64, gs: u64 },
});

/** `op` is a byte and three unused ones, which are zero. */
export const PTRACE_SYSCALL_INFO = struct('struct ptrace_syscall_info', {
  ...{ op: u32, arch: u32, instruction_pointer: u64, stack_pointer: u64 },
  ...{ 'entry.nr': u64, 'entry.args': array(u64, 6), 'seccomp.ret_data': u32 },
});
