/**
 * Runs one L2 in this guest hypervisor: stock QEMU started stopped, registered with the module when its RAM is on
 * turtlefs, then continued. The process that calls this owns QEMU and the registration; stop() undoes all in
 * reverse. While the L2 runs nothing here polls: between events this process does not wake up.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, rmSync } from 'node:fs';
import { AGENT_SOCKET } from '../core/default-paths.ts';
import { makeDirectory } from '../core/files.ts';
import { takeVm } from '../bpf/kvm.ts';
import { HyperturtleError, errnoCode } from '../core/errors.ts';
import { CleanupStack } from '../core/lifecycle.ts';
import { waitFor, withDeadline } from '../core/wait.ts';
import { QmpClient } from '../qmp/client.ts';
import { GuestDevice } from './device.ts';
import type { L2Status, RegisteredL2 } from './device.ts';
import { CONSOLE_PORT_ID, l2Arguments, l2Files, ramPath, vfioDevices } from './l2-spec.ts';
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

/** Waits until the agent of this machine knows of the VM of process `pid`. Throws HT_TIMEOUT, HT_NOT_FOUND without an agent. */
export async function agentHasRegistered(
  pid: number,
  timeoutMs: number,
  signal: AbortSignal | undefined,
  socket: string = AGENT_SOCKET,
): Promise<void> {
  // much to load, for those who need it
  const [{ connectSocket }, { LOCAL_METHODS }, { RpcPeer }] = await Promise.all([
    import('../core/sockets.ts'),
    import('./agent/schema.ts'),
    import('../wire/peer.ts'),
  ]);
  const stream = await connectSocket(socket, signal ?? AbortSignal.timeout(timeoutMs));
  const peer = new RpcPeer(stream, { calls: LOCAL_METHODS, session: 'connection' });
  try {
    await waitFor(
      `registration of process ${pid} by the agent`,
      async () => {
        const { l2s } = await peer.request('agent.status', {}, { timeoutMs, signal });
        return l2s.some((l2) => l2.pid === pid) ? true : undefined;
      },
      { timeoutMs, intervalMs: 50, signal },
    );
  } finally {
    peer.close();
  }
}

const QMP_TIMEOUT_MS = 60_000;
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
   * they were touched. (Given from the start, behind qboot, L2's kernel was gone from its memory when it was entered.)
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

    this.#spawn();
    this.#qmp = await this.#connect(timeoutMs, signal);
    this.#undo.add('QMP', () => this.#qmp.close());

    if (spec.ram === 'turtlefs')
      if (options.registeredBy === 'agent') await agentHasRegistered(this.qemuPid, timeoutMs, signal);
      else this.#register(options.groupMax ?? 0);

    const resumed = this.#qmp.waitEvent('RESUME', () => true, { timeoutMs, signal });
    const up = this.#qmp.waitEvent(
      'VSERPORT_CHANGE',
      (d) => d['id'] === CONSOLE_PORT_ID && d['open'] === true,
      { timeoutMs: 2 ** 31 - 1, signal }, // whenUp() has the deadline
    );
    this.#bootMs = Promise.all([resumed, up]).then(([r, u]) => (u.timestampUs - r.timestampUs) / 1000);
    this.#bootMs.catch(() => {}); // nobody may ask
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
    this.#ended = new Promise((resolve) => {
      this.#qemu.once('exit', (code) => resolve(code ?? 128));
      this.#qemu.once('error', () => resolve(127));
    });
    this.#undo.add('QEMU', async () => {
      // QEMU has none of our state to save: its memory files vanish with it
      this.#qemu.kill('SIGKILL');
      await withDeadline('end of QEMU', this.#ended, STOP_TIMEOUT_MS);
    });
  }

  async #connect(timeoutMs: number, signal: AbortSignal | undefined): Promise<QmpClient> {
    let over: number | undefined;
    void this.#ended.then((status) => {
      over = status;
    });
    return waitFor(
      `QMP of L2 ${this.spec.name}`,
      async () => {
        if (over !== undefined) throw this.#failed(`QEMU ended with status ${over}`);
        try {
          return await QmpClient.connect(this.files.qmpSocket, { timeoutMs, signal });
        } catch (e) {
          if (e instanceof HyperturtleError && e.code === 'HT_QMP') return undefined; // not yet
          throw e;
        }
      },
      { timeoutMs, intervalMs: 40, signal },
    );
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
