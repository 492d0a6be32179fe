/** The lab's stock QEMU on this host, with a machine that never boots: for what only QEMU itself can say of a command. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { waitFor } from '../../src/core/wait.ts';
import { parseListening } from '../../src/host/qemu.ts';
import type { QemuProgram } from '../../src/lab/artifacts.ts';
import { TRIPLET, qemuProgram } from '../../src/lab/tools.ts';
import { toolTrees } from './tool-trees.ts';

/**
 * The lab's; or that of a Debian root in HT_TEST_QEMU_ROOT, which runs with its own libraries. Undefined: the lab has never
 * been prepared here.
 */
export function findQemu(): QemuProgram | undefined {
  const root = process.env['HT_TEST_QEMU_ROOT'];
  if (root !== undefined) return qemuOfRoot(root);
  return toolTrees()
    .map((tools) => qemuProgram(tools, {}))
    .find((qemu) => existsSync(qemu.bin));
}

function qemuOfRoot(root: string): QemuProgram {
  const at = (...parts: string[]): string => path.join(root, ...parts);
  const libraries = at('usr/lib', TRIPLET);
  const dataDir = at('usr/share/qemu');
  return {
    bin: at('lib64/ld-linux-x86-64.so.2'),
    args: [
      ...['--library-path', libraries, at('usr/bin/qemu-system-x86_64')],
      ...['-L', dataDir, '-L', at('usr/share/seabios')],
    ],
    env: { ...process.env, QEMU_MODULE_DIR: path.join(libraries, 'qemu') },
    dataDir,
    version: 'of another root',
  };
}

export class RealQemu {
  readonly pid: number;
  readonly #child: ChildProcess;
  /** What it complained of. */
  errors = '';

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.pid = child.pid ?? 0;
    child.stderr?.on('data', (c: Buffer) => (this.errors += c.toString()));
  }

  /** A q35 machine, stopped before its first instruction. Returns when it listens on all of `sockets` (QMP). */
  static async start(
    qemu: QemuProgram,
    sockets: readonly string[],
    args: readonly string[],
  ): Promise<RealQemu> {
    const machine = ['-M', 'q35', '-accel', 'tcg', '-m', '64', '-nodefaults', '-display', 'none', '-S'];
    const qmp = sockets.flatMap((s) => ['-qmp', `unix:${s},server=on,wait=off`]);
    const child = spawn(qemu.bin, [...qemu.args, ...machine, ...qmp, ...args], {
      env: qemu.env,
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    const started = new RealQemu(child);
    await waitFor(
      'QEMU listening',
      () => {
        if (child.exitCode !== null) throw new Error(`QEMU ended: ${started.errors}`);
        // a socket has its name before it listens
        const listening = new Set(parseListening(readFileSync('/proc/net/unix', 'utf8')).map((s) => s.bound));
        return sockets.every((s) => listening.has(s)) || undefined;
      },
      { timeoutMs: 20_000 },
    );
    return started;
  }

  get running(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  async end(): Promise<void> {
    if (!this.running) return;
    const ended = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await ended;
  }
}
