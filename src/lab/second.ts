/**
 * A second L1 in a lab that has memory for it (`LabSpec.secondL1MemoryMib`): another tenant of the same L0. It is
 * not in the snapshot: booted when asked for, and ended with what runs in it.
 */
import { HyperturtleError, isHyperturtleError } from '../core/errors.ts';
import { waitFor } from '../core/wait.ts';
import { IN_GUEST } from './artifacts.ts';
import { tailOf } from './boot.ts';
import { Channel } from './channel.ts';
import { AgentLevel } from './guest-agent.ts';
import { runScript } from './levels.ts';
import type { Job, Level } from './levels.ts';
import { SECOND_SEAT, l1Machine, l1Script } from './machine.ts';
import type { RunFiles } from './machine.ts';

const BOOT_MS = 420_000;
const SCRIPT = '/run/l1b.sh';

export interface SecondL1Spec {
  memMib: number;
  /** Default 1. */
  cpus?: number;
  /** Of Artifacts.kernelArgs(1), as the first L1 has it. */
  kernelArgs: string;
  signal?: AbortSignal | undefined;
}

export class SecondL1 implements AsyncDisposable {
  readonly l1: Level;
  readonly #l0: Level;
  readonly #qemu: Job;

  private constructor(l0: Level, l1: Level, qemu: Job) {
    this.#l0 = l0;
    this.l1 = l1;
    this.#qemu = qemu;
  }

  /** Boots it, with the payload mounted. Throws HT_BOOT_FAILED with the end of its console; leaves nothing then. */
  static async boot(l0: Level, files: RunFiles, spec: SecondL1Spec): Promise<SecondL1> {
    const { signal } = spec;
    const machine = l1Machine({ cpus: spec.cpus ?? 1, memMib: spec.memMib }, spec.kernelArgs, SECOND_SEAT);
    await l0.writeFile(SCRIPT, l1Script(machine, SECOND_SEAT), { signal });
    const agent = new AgentLevel('L1b', new Channel(files.channel.second, 'L1b'));
    const qemu = await l0.spawn(['sh', SCRIPT], { signal });
    const second = new SecondL1(l0, agent, qemu);
    try {
      await waitFor('boot of the second L1', () => second.#answers(agent, files), {
        ...{ timeoutMs: BOOT_MS, intervalMs: 250, signal },
      });
      const { payloadDisk, payload } = IN_GUEST;
      await runScript(
        agent,
        `set -e; date -s @${Math.round(Date.now() / 1000)} >/dev/null; mkdir -p ${payload}; mount -t erofs -o ro ${payloadDisk} ${payload}`,
        { timeoutMs: 60_000, signal },
      );
      return second;
    } catch (e) {
      await second.end();
      throw e;
    }
  }

  /** Ends its QEMU as `kill -9` does, and waits until it has gone. Safe to call twice. */
  async end(): Promise<void> {
    // the shell and QEMU: a job is signalled with all that it started
    await this.#qemu.kill('KILL');
    await this.#qemu.wait({ timeoutMs: 60_000 });
    await runScript(this.#l0, `rm -rf ${SECOND_SEAT.run.dir} ${SCRIPT}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end();
  }

  async #answers(agent: AgentLevel, files: RunFiles): Promise<true | undefined> {
    const ended = await this.#qemu.status();
    if (ended !== undefined)
      throw new HyperturtleError(
        'HT_BOOT_FAILED',
        `the QEMU of the second L1 ended with status ${ended}: ${await tailOf(files.secondSerial, 20)}`,
      );
    try {
      await agent.ping({ timeoutMs: 2000 });
      return true;
    } catch (e) {
      if (isHyperturtleError(e, 'HT_TIMEOUT') || isHyperturtleError(e, 'HT_CHANNEL')) return undefined;
      throw e;
    }
  }
}
