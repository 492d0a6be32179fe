/**
 * The daemon's kernel interface without our kernel module, for measuring the daemon by itself: each VM is a name, its
 * hooks take any program and never run it. Everything else that the daemon does with eBPF is real.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { HyperturtleError } from '../../core/errors.ts';
import type { HostKernel } from '../../host/vm/kernel.ts';

/** `directory` gets a file for each arena, which nobody opens. */
export function kernelWithoutModule(directory: string): HostKernel {
  let arenas = 0;
  return {
    findVm: () => ({
      // lives as long as the daemon
      pid: process.pid,
      alive: () => true,
      whenGone: (signal) => new Promise((_, reject) => whenAborted(signal, reject)),
      attach() {
        let programId = 0;
        return {
          link: (_, program) => {
            programId = program.fd;
            return Promise.resolve();
          },
          unlink: () => {
            programId = 0;
            return Promise.resolve();
          },
          stats: (hook) => ({
            hook,
            pid: process.pid,
            linked: programId !== 0,
            programId,
            runs: 0,
            handled: 0,
            entries: 0,
            learned: 0,
            overruns: 0,
            maxNs: 0,
            limitNs: 0,
            passed: 0,
            reasons: {},
          }),
          call: ({ words }) => ({ answered: true, results: [words[0] ?? 0n, 0n, 0n, 0n] }),
          endedLinks: (signal) => new Promise((_, reject) => whenAborted(signal, reject)),
          close: () => Promise.resolve(),
        };
      },
      close: () => {},
    }),
    exportArena() {
      const devicePath = `${directory}/arena-device${arenas++}`;
      writeFileSync(devicePath, '');
      return { devicePath, close: () => rmSync(devicePath, { force: true }) };
    },
  };
}

function whenAborted(signal: AbortSignal, reject: (reason: Error) => void): void {
  const stop = (): void =>
    reject(
      signal.reason instanceof Error ? signal.reason : new HyperturtleError('HT_INTERRUPTED', 'interrupted'),
    );
  if (signal.aborted) stop();
  else signal.addEventListener('abort', stop, { once: true });
}
