/**
 * Runs one L2 in this guest hypervisor: stock QEMU started stopped, registered with the module when its RAM is on
 * turtlefs, then continued. The process that calls this owns QEMU and the registration; stop() undoes all in
 * reverse. While the L2 runs nothing here polls: between events this process does not wake up.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { makeDirectory } from '../core/files.ts';
import { takeVm } from '../bpf/kvm.ts';
import { HyperturtleError, errnoCode } from '../core/errors.ts';
import { CleanupStack } from '../core/lifecycle.ts';
import { withDeadline } from '../core/wait.ts';
import type { QmpClient } from '../qmp/client.ts';
import { GuestDevice } from '../guest/device.ts';
import type { L2Status, RegisteredL2 } from '../guest/device.ts';
import { ramPath } from '../guest/vmm/arguments.ts';
import { bootTime, connectQmp, statusOf } from '../guest/vmm/launch.ts';
import { agentHasRegistered } from '../guest/vmm/registered.ts';
import { CONSOLE_PORT_ID, l2Arguments, l2Files, vfioDevices } from './l2-spec.ts';
import type { L2Files, L2Spec } from './l2-spec.ts';

export interface L2StartOptions {
  /** 1..64 pages in one fault, or 0 for the module's default. Of a registration by ourselves. */
  groupMax?: number;
  /** Who registers an L2 on turtlefs with the module; default: we. The L2 is not continued before it is registered. */
  registeredBy?: 'self' | 'agent';
  /** For QEMU to come up and to answer. */
  timeoutMs?: number;
  signal?: AbortSignal | undefined;
}

const QMP_TIMEOUT_MS = 60_000;
/** Goes behind an L2's own initramfs: the driver for memory that is plugged. */
const PLUG_INITRD = '/payload/l2/plug.cpio';
const STOP_TIMEOUT_MS = 30_000;

export class L2Machine implements AsyncDisposable {
  readonly spec: L2Spec;
  readonly files: L2Files;
  readonly #undo = new CleanupStack();
  #qemu!: ChildProcess;
  #ended!: Promise<number>;
  #registration: RegisteredL2 | undefined;
  #qmp!: QmpClient;
  #bootMs!: Promise<number>;

  private constructor(spec: L2Spec) {
    this.spec = spec;
    this.files = l2Files(spec.name);
  }

  /** Returns when the L2's first instruction is allowed to run. Throws HT_BOOT_FAILED with QEMU's last words. */
  static async start(spec: L2Spec, options: L2StartOptions = {}): Promise<L2Machine> {
    const machine = new L2Machine(spec);
    try {
      await machine.#start(options);
      return machine;
    } catch (e) {
      await machine.stop().catch(() => {}); // the first failure is the one to tell
      throw e;
    }
  }

  get qemuPid(): number {
    return this.#qemu.pid ?? 0;
  }

  /**
   * Milliseconds from the continuation to the moment when /init opened its console port, both by QEMU's clock.
   * Throws HT_BOOT_FAILED when QEMU ends before, HT_TIMEOUT.
   */
  async whenUp(options: { timeoutMs: number; signal?: AbortSignal | undefined }): Promise<number> {
    const ended = this.#ended.then((status) => {
      throw this.#failed(`QEMU ended with status ${status} while it booted`);
    });
    return withDeadline(
      `boot of L2 ${this.spec.name}`,
      Promise.race([this.#bootMs, ended]),
      options.timeoutMs,
      options.signal,
    );
  }

  /**
   * The NICs by VFIO, once it is up. VFIO then pins all of its RAM: until here it cost nothing, and its pages came when
   * they were touched. (From the start QEMU 7.2 loses an ELF kernel behind qboot: guest/run/spec.ts, firmwareFor.)
   * Throws HT_QMP with QEMU's words.
   */
  async plugNics(options: { timeoutMs: number; signal?: AbortSignal | undefined }): Promise<void> {
    for (const device of vfioDevices(this.spec)) await this.#qmp.execute('device_add', device, options);
  }

  /** What the module knows of it; undefined when its RAM is not on turtlefs. */
  status(): L2Status | undefined {
    return this.#registration?.status();
  }

  /** Exit status of QEMU, when it has ended. */
  get ended(): Promise<number> {
    return this.#ended;
  }

  async stop(): Promise<void> {
    await this.#undo.run();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async #start(options: L2StartOptions): Promise<void> {
    const { spec, files } = this;
    const timeoutMs = options.timeoutMs ?? QMP_TIMEOUT_MS;
    const { signal } = options;
    makeDirectory(files.dir.slice(0, files.dir.lastIndexOf('/')));
    try {
      mkdirSync(files.dir);
    } catch (e) {
      if (errnoCode(e) !== 'EEXIST') throw e;
      throw new HyperturtleError(
        'HT_BUSY',
        `${files.dir} exists: an L2 '${spec.name}' runs, or its owner was killed: stop it, or remove that`,
      );
    }
    this.#undo.add('directory', () => rmSync(files.dir, { recursive: true, force: true }));
    if (spec.ramFileName !== undefined)
      this.#undo.add('RAM file', () => rmSync(ramPath(spec) ?? '', { force: true }));

    if (spec.initrd !== undefined && spec.plugMib)
      writeFileSync(files.initrd, Buffer.concat([readFileSync(spec.initrd), readFileSync(PLUG_INITRD)]));

    this.#spawn();
    this.#qmp = await this.#connect(timeoutMs, signal);
    this.#undo.add('QMP', () => this.#qmp.close());

    if (spec.ram === 'turtlefs')
      if (options.registeredBy === 'agent') await agentHasRegistered(this.qemuPid, timeoutMs, signal);
      else this.#register(options.groupMax ?? 0);

    this.#bootMs = bootTime(this.#qmp, CONSOLE_PORT_ID, { timeoutMs, signal });
    await this.#qmp.execute('cont', {}, { timeoutMs, signal });
  }

  #spawn(): void {
    const { spec, files } = this;
    const log = openSync(files.log, 'w');
    try {
      this.#qemu = spawn(spec.qemu, l2Arguments(spec, files), { stdio: ['ignore', log, log] });
    } finally {
      closeSync(log);
    }
    this.#ended = statusOf(this.#qemu);
    this.#undo.add('QEMU', async () => {
      // QEMU has none of our state to save: its memory files vanish with it
      this.#qemu.kill('SIGKILL');
      await withDeadline('end of QEMU', this.#ended, STOP_TIMEOUT_MS);
    });
  }

  #connect(timeoutMs: number, signal: AbortSignal | undefined): Promise<QmpClient> {
    let over: number | undefined;
    void this.#ended.then((status) => {
      over = status;
    });
    return connectQmp(`L2 ${this.spec.name}`, this.files.qmpSocket, { timeoutMs, signal }, () => {
      if (over !== undefined) throw this.#failed(`QEMU ended with status ${over}`);
    });
  }

  #register(groupMax: number): void {
    const device = GuestDevice.open();
    try {
      const taken = takeVm(this.qemuPid);
      try {
        const l2 = device.register({ vm: taken.vm, name: this.spec.name, framesLimit: 0, groupMax });
        this.#registration = l2;
        this.#undo.add('registration', () => {
          this.#registration = undefined;
          l2.close();
        });
      } finally {
        // a second descriptor would keep the VM alive after its QEMU
        taken.vm.close();
        taken.process.close();
      }
    } finally {
      device.close();
    }
  }

  #failed(what: string): HyperturtleError {
    const read = (file: string): string => {
      try {
        return readFileSync(file, 'utf8').trim().slice(-1500);
      } catch {
        return '';
      }
    };
    const said = read(this.files.log);
    const serial = read(this.files.serial);
    return new HyperturtleError(
      'HT_BOOT_FAILED',
      `L2 ${this.spec.name}: ${what}${said ? `: ${said}` : ''}${serial ? `; its console: ${serial}` : ''}`,
    );
  }
}
