/** Virtual CPUs of a QEMU on chosen CPUs of the machine that it runs on. */
import { HyperturtleError } from '../core/errors.ts';
import { exec } from '../core/exec.ts';
import type { QmpClient, QmpOptions } from './client.ts';

export interface PinnedCpu {
  vcpu: number;
  thread: number;
  cpu: number;
}

/** `0-2,5` to [0, 1, 2, 5]. Throws HT_USAGE. */
export function parseCpuList(option: string, text: string): number[] {
  const cpus = text.split(',').flatMap((part) => {
    const m = /^(\d{1,4})(?:-(\d{1,4}))?$/.exec(part);
    const [from, to] = [Number(m?.[1]), Number(m?.[2] ?? m?.[1])];
    if (!m || to < from)
      throw new HyperturtleError('HT_USAGE', `${option}: CPUs such as 0,2-3 expected, '${text}' found`);
    return Array.from({ length: to - from + 1 }, (_, i) => from + i);
  });
  return cpus;
}

/** vCPU i to the i-th of `cpus`, beginning again when there are fewer. Throws HT_COMMAND_FAILED for a CPU that is not there. */
export async function pinVcpus(
  qmp: QmpClient,
  cpus: readonly number[],
  options: QmpOptions = {},
): Promise<PinnedCpu[]> {
  const vcpus = (await qmp.execute('query-cpus-fast', {}, options)) as {
    'cpu-index': number;
    'thread-id': number;
  }[];
  const pinned: PinnedCpu[] = [];
  for (const { 'cpu-index': vcpu, 'thread-id': thread } of vcpus) {
    const cpu = cpus[vcpu % cpus.length];
    if (cpu === undefined) throw new HyperturtleError('HT_USAGE', 'no CPUs to pin to');
    await exec('taskset', ['-p', (1n << BigInt(cpu)).toString(16), String(thread)], {
      timeoutMs: options.timeoutMs ?? 10_000,
      signal: options.signal,
    });
    pinned.push({ vcpu, thread, cpu });
  }
  return pinned;
}
