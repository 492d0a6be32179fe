/**
 * For tests that need real machines: one lab for a test file, from the snapshot in seconds. When the file is done it
 * checks that the kernels of L0 and L1 had nothing to complain about and that no process of the lab is left.
 */
import { afterAll, beforeAll, expect } from 'vitest';
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { exec } from '../../src/core/exec.ts';
import { createProgress } from '../../src/core/progress.ts';
import { defaultKernel } from '../../src/lab/debian.ts';
import { labUp } from '../../src/lab/lab.ts';
import type { Lab, LabSpec } from '../../src/lab/lab.ts';
import { runScript } from '../../src/lab/levels.ts';
import { kernelTroubles } from '../../src/lab/kernel-log.ts';
import { noteTimes } from './lab-times.ts';

export const ROOT = path.dirname(path.dirname(path.dirname(fileURLToPath(import.meta.url))));

/** Kernel series of the labs that tests start; `HT_TEST_KERNEL=6.12` runs them all on another one. */
export const TEST_KERNEL = process.env['HT_TEST_KERNEL'] ?? defaultKernel();

/**
 * Tests ask what happens, not how long it takes. Where time is counted in instructions, a Linux in L2 boots in half the time
 * and a slow machine does not drown in ticks; tests with two CPUs in L1 take longer then (docs/testing.md).
 */
function clockFor({ accel, l1Cpus = 1 }: LabSpec): Pick<LabSpec, 'clock'> {
  return accel === 'bochs' || l1Cpus > 1 ? {} : { clock: 'instructions' };
}

/** Registers the lab's start and end with the test file. The function gives the lab while tests run. */
export function useLab(spec: LabSpec = {}): () => Lab {
  let lab: Lab | undefined;
  beforeAll(async () => {
    lab = await labUp({ kernel: TEST_KERNEL, progress: createProgress(), ...clockFor(spec), ...spec });
  });
  afterAll(async () => {
    if (!lab) return;
    try {
      await expectCleanKernelLogs(lab);
      await expectNoLeaks(lab);
      expectCleanConsoles(lab);
    } finally {
      await lab.down();
    }
    expect(processesNaming(lab.dir), 'processes of the lab that are left').toEqual([]);
  });
  noteTimes(() => lab); // after the lab's end: what is registered last runs first then
  return () => {
    if (!lab) throw new Error('the lab is not up yet: use it inside tests');
    return lab;
  };
}

/** Fails with what the kernels of L0 and L1 complained about. */
async function expectCleanKernelLogs(lab: Lab): Promise<void> {
  for (const level of [lab.l0, lab.l1]) {
    // packed: it goes through a serial port in an Intel lab
    const packed = await level.exec(['sh', '-c', 'dmesg | gzip'], { timeoutMs: 60_000 });
    const log = gunzipSync(packed.stdout).toString('utf8');
    expect(log, `kernel log of ${level.name}`).not.toBe('');
    expect(kernelTroubles(log), `kernel log of ${level.name}`).toEqual([]);
  }
}

/**
 * The same of the consoles, where a kernel with sanitizers writes its reports too: of levels that were reset meanwhile, of
 * a second L1, and of what the unloading of our modules brought up.
 */
function expectCleanConsoles(lab: Lab): void {
  if (!/-(debug|kcsan)$/.test(lab.environment().kernelVersion)) return;
  for (const file of [...Object.values(lab.files.serial), lab.files.secondSerial])
    expect(kernelTroubles(readFileSync(file, 'latin1')), file).toEqual([]);
}

/**
 * Unloads our modules and lets kmemleak look, where the kernel has it: twice, since what is younger than five seconds, or
 * has changed since the last scan, counts as in use.
 */
async function expectNoLeaks(lab: Lab): Promise<void> {
  if (!/-debug$/.test(lab.environment().kernelVersion)) return;
  const scan = 'echo scan > /sys/kernel/debug/kmemleak';
  for (const [level, module] of [
    [lab.l1, 'hyperturtle_guest'],
    [lab.l0, 'hyperturtle_host'],
  ] as const) {
    await level.exec(['rmmod', module]); // one that was never loaded is not there
    await runScript(level, `sleep 6; ${scan}; sleep 6; ${scan}`, { timeoutMs: 300_000 });
    const leaks = await runScript(level, 'cat /sys/kernel/debug/kmemleak', { timeoutMs: 60_000 });
    expect(leaks, `memory that ${level.name} lost`).toBe('');
  }
}

/** Processes of this machine that have `text` in their arguments, as `pid: arguments`. */
export function processesNaming(text: string): string[] {
  return readdirSync('/proc').flatMap((pid) => {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return [];
    try {
      const args = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
      return args.includes(text) ? [`${pid}: ${args.slice(0, 300)}`] : [];
    } catch {
      return []; // it has just ended
    }
  });
}

/** Compiles the package as it is now, and gives the path of a compiled file: for tests that need one of our processes. */
export async function compiled(file: string): Promise<string> {
  const tsc = path.join(ROOT, 'node_modules/typescript-7/bin/tsc');
  await exec(process.execPath, [tsc, '-p', ROOT, '--noCheck'], { timeoutMs: 300_000 });
  return path.join(ROOT, 'dist', file.replace(/\.ts$/, '.js'));
}
