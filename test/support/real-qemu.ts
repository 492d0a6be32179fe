/** The lab's stock QEMU on this host, with a machine that never boots: for what only QEMU itself can say of a command. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { waitFor } from '../../src/core/wait.ts';
import type { QemuProgram } from '../../src/lab/artifacts.ts';
import { qemuProgram } from '../../src/lab/tools.ts';
import { toolTrees } from './tool-trees.ts';

/** Undefined: the lab has never been prepared here. */
export function findQemu(): QemuProgram | undefined {
  return toolTrees()
    .map((tools) => qemuProgram(tools, {}))
    .find((qemu) => existsSync(qemu.bin));
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
        return sockets.every((s) => existsSync(s)) || undefined;
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
