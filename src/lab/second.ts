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
import { run, runScript } from './levels.ts';
import type { Job, Level } from './levels.ts';
import { SECOND_SEAT, l1Machine, l1Script } from './machine.ts';
import type { RunFiles } from './machine.ts';

const BOOT_MS = 420_000;
const SCRIPT = '/run/l1b.sh';
const RESET = `
import { QmpClient } from '${IN_GUEST.payload}/app/dist/src/qmp/client.js';
const qmp = await QmpClient.connect('${SECOND_SEAT.run.qmpSocket}', { timeoutMs: 30000 });
await qmp.execute('system_reset');
qmp.close();
`;

export interface SecondL1Spec {
  memMib: number;
  /** Default 1. */
  cpus?: number;
  addressBits?: number;
  /** Kernel arguments, by Artifacts.kernelArgs(1), as the first L1 has them. */
  kernelArgs: string;
  signal?: AbortSignal | undefined;
}

export class SecondL1 implements AsyncDisposable {
  readonly l1: AgentLevel;
  readonly #l0: Level;
  readonly #qemu: Job;
  readonly #console: string;

  private constructor(l0: Level, l1: AgentLevel, qemu: Job, console: string) {
    this.#l0 = l0;
    this.l1 = l1;
    this.#qemu = qemu;
    this.#console = console;
  }

  /** Boots it, with the payload mounted. Throws HT_BOOT_FAILED with the end of its console; leaves nothing then. */
  static async boot(l0: Level, files: RunFiles, spec: SecondL1Spec): Promise<SecondL1> {
    const { signal } = spec;
    const shape = {
      cpus: spec.cpus ?? 1,
      memMib: spec.memMib,
      ...(spec.addressBits === undefined ? {} : { addressBits: spec.addressBits }),
    };
    const machine = { ...l1Machine(shape, spec.kernelArgs, SECOND_SEAT), reboots: true };
    await l0.writeFile(SCRIPT, l1Script(machine, SECOND_SEAT), { signal });
    const agent = new AgentLevel('L1b', new Channel(files.channel.second, 'L1b'));
    const qemu = await l0.spawn(['sh', SCRIPT], { signal });
    const second = new SecondL1(l0, agent, qemu, files.secondSerial);
    try {
      await second.#ready(signal);
      return second;
    } catch (e) {
      await second.end();
      throw e;
    }
  }

  /** Until it has booted (another time than `not`) and its payload is mounted. Throws HT_BOOT_FAILED, HT_TIMEOUT. */
  async #ready(signal?: AbortSignal, not?: string): Promise<void> {
    await waitFor('boot of the second L1', () => this.#boot(not), {
      timeoutMs: BOOT_MS,
      intervalMs: 250,
      signal,
    });
    const { payloadDisk, payload } = IN_GUEST;
    await runScript(
      this.l1,
      `set -e; date -s @${Math.round(Date.now() / 1000)} >/dev/null; mkdir -p ${payload}; mount -t erofs -o ro ${payloadDisk} ${payload}`,
      { timeoutMs: 60_000, signal },
    );
  }

  /** Asks its QEMU to reset it, as a crash or the reset button does, and waits until it is up again. */
  async reset(signal?: AbortSignal): Promise<void> {
    const before = await this.#bootId();
    await run(this.#l0, ['node', '--input-type=module', '-e', RESET], { timeoutMs: 60_000, signal });
    await this.#ready(signal, before);
  }

  /** `kill -9` of its QEMU; waits until that has gone. Safe to call twice. */
  async kill(): Promise<void> {
    // the shell and QEMU: a job is signalled with all that it started
    await this.#qemu.kill('KILL');
    await this.#qemu.wait({ timeoutMs: 60_000 });
    this.l1.end();
  }

  /** Kills it and removes its files. Safe to call twice. */
  async end(): Promise<void> {
    await this.kill();
    await runScript(this.#l0, `rm -rf ${SECOND_SEAT.run.dir} ${SCRIPT}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end();
  }

  async #bootId(): Promise<string> {
    return (await runScript(this.l1, 'cat /proc/sys/kernel/random/boot_id', { timeoutMs: 5000 })).trim();
  }

  async #boot(not: string | undefined): Promise<true | undefined> {
    const ended = await this.#qemu.status();
    if (ended !== undefined)
      throw new HyperturtleError(
        'HT_BOOT_FAILED',
        `the QEMU of the second L1 ended with status ${ended}: ${await tailOf(this.#console, 20)}`,
      );
    try {
      await this.l1.ping({ timeoutMs: 2000 });
      return (await this.#bootId()) === not ? undefined : true;
    } catch (e) {
      if (isHyperturtleError(e, 'HT_TIMEOUT') || isHyperturtleError(e, 'HT_CHANNEL')) return undefined;
      throw e;
    }
  }
}
