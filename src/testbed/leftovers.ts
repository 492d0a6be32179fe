/** What a test must not leave behind in L0 and in the kernels' logs. */
import type { Lab } from '../lab/lab.ts';
import { kernelTroubles } from '../lab/kernel-log.ts';
import { runScript } from '../lab/levels.ts';
import type { Level } from '../lab/levels.ts';
import { L1_RUN } from '../lab/machine.ts';

/** Open descriptors of the processes in L0 that serve L1: a program, link, map or VM kept by mistake is one of them. */
export interface L0Descriptors {
  qemu: number;
  attach: number;
}

export async function l0Descriptors(lab: Lab, signal?: AbortSignal): Promise<L0Descriptors> {
  const text = await runScript(
    lab.l0,
    `ls /proc/$(cat ${L1_RUN.pidFile})/fd | wc -l
for p in /proc/[0-9]*; do
	tr '\\0' ' ' < $p/cmdline 2>/dev/null | grep -q '^[^ ]*node .*host attach' && ls $p/fd | wc -l && break
done; :`,
    { signal },
  );
  const [qemu = 0, attach = 0] = text.trim().split('\n').map(Number);
  return { qemu, attach };
}

/** Complaints of the kernels of L0 and L1 (and of further levels) so far, each with its level. */
export async function troubles(
  lab: Lab,
  signal?: AbortSignal,
  others: readonly Level[] = [],
): Promise<string[]> {
  const all: string[] = [];
  for (const level of [lab.l0, lab.l1, ...others]) {
    const found = kernelTroubles(await runScript(level, 'dmesg', { signal }));
    all.push(...found.map((t) => `${level.name}: ${t}`));
  }
  return all;
}
