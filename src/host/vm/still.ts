/**
 * A VM that stands still for us: its links are ended, its arena is unplugged, the host acts on it in no way, and its nested guests
 * run on without acceleration. Its QEMU can then be migrated or saved. What is done is undone in reverse when a step fails, and
 * what a daemon that died left half done is brought to an end by the next one.
 */
import { HyperturtleError, messageOf } from '../../core/errors.ts';
import { ChildAbort } from '../../core/lifecycle.ts';
import { Backoff } from '../../core/retry.ts';
import { sleep } from '../../core/wait.ts';
import { QmpClient } from '../../qmp/client.ts';
import { giveUp, goOn, isElsewhere, isUnderWay, migrationOf, runStateOf } from '../../qmp/migration.ts';
import { unplugArenaOver, unplugStartedWith } from '../arena-plug.ts';
import type { VmSpec } from '../config.ts';
import type { Log } from '../log.ts';
import type { VmNics } from '../nics/nics.ts';
import type { VmProcess } from './kernel.ts';
import { unplugPort } from './qemu-side.ts';
import { startTicksOf } from './process-record.ts';
import { readStill, removeStill, writeStill } from './still-record.ts';
import type { StillRecord, StillState } from './still-record.ts';

const CONNECT_MS = 15_000;
/** What a process that died had begun is brought to an end in these states. */
const UNFINISHED: ReadonlySet<StillState> = new Set(['quiescing', 'migrating', 'saving']);

/** What becomes of NICs that the host gave: a migration cannot take them along. */
export const NIC_POLICIES = ['refuse', 'take'] as const;
type NicPolicy = (typeof NIC_POLICIES)[number];

interface Id {
  pid: number;
  startTicks: number;
}

export interface StillVm {
  readonly name: string;
  readonly run: string;
  readonly arenaLink: string;
  readonly log: Log;
  spec: () => Pick<VmSpec, 'qmp' | 'agent'>;
  /** What serves it now. */
  served: () => { process: Id; nics: Pick<VmNics, 'clear' | 'devices'> } | undefined;
  /** Returns when the host acts on it no more. */
  endServing: (reason: string) => Promise<void>;
}

export interface QuiesceSpec {
  nics: NicPolicy;
  /** For the guest to let its arena go, and as long for each NIC. */
  timeoutMs: number;
}

export class Still {
  readonly #vm: StillVm;
  #record: StillRecord | undefined;
  #woken = new AbortController();
  /** A command of this process sees to it. */
  #inHand = false;

  constructor(vm: StillVm) {
    this.#vm = vm;
  }

  /** Undefined: it is served, or there is no process. */
  get record(): Readonly<StillRecord> | undefined {
    return this.#record;
  }

  /** Whether the VM of this process is to stand still. What is recorded of another one is forgotten. */
  holds({ pid, startTicks }: Id): boolean {
    this.#record ??= readStill(this.#vm.run, this.#vm.name);
    if (!this.#record) return false;
    if (this.#record.pid === pid && this.#record.startTicks === startTicks) return true;
    this.forget();
    return false;
  }

  forget(): void {
    this.#record = undefined;
    removeStill(this.#vm.run, this.#vm.name);
  }

  /**
   * Forgets a process that has ended while nobody stood by it, as between the end of serving and the wait for its end, once no
   * command sees to it. Whether it did: then the arena is to be wiped.
   */
  forgetEnded(): boolean {
    const record = this.#record;
    if (!record || this.#inHand || startTicksOf(record.pid) === record.startTicks) return false;
    this.forget();
    return true;
  }

  /** `work` sees to it what becomes of the record; nobody else does meanwhile. */
  async inHand<T>(work: () => Promise<T>): Promise<T> {
    this.#inHand = true;
    try {
      return await work();
    } finally {
      this.#inHand = false;
      this.#wake();
    }
  }

  /** Returns when the process has ended or the VM is to be served again. Throws the signal's reason. */
  async stand(process: VmProcess, signal: AbortSignal): Promise<'gone' | 'resumed'> {
    const backoff = new Backoff();
    while (this.#record) {
      using woken = new ChildAbort(this.#woken.signal);
      const either = AbortSignal.any([signal, woken.signal]);
      try {
        if (this.#inHand || !UNFINISHED.has(this.#record.state)) {
          await process.whenGone(either);
          return 'gone';
        }
        if (!process.alive()) return 'gone';
        await this.#finish();
        backoff.reset();
      } catch (e) {
        signal.throwIfAborted();
        if (woken.signal.aborted) continue;
        this.#vm.log.warn({ problem: messageOf(e) }, 'what an earlier daemon began is not at its end');
        await sleep(backoff.nextMs(), either).catch(() => {});
      }
    }
    return 'resumed';
  }

  /** Throws HT_UNAVAILABLE, HT_IN_USE for NICs, HT_TIMEOUT, HT_QMP: the VM is served as before then. */
  async quiesce(spec: QuiesceSpec, byCommand: boolean): Promise<void> {
    const served = this.#vm.served();
    if (!served)
      throw new HyperturtleError(
        'HT_UNAVAILABLE',
        `VM '${this.#vm.name}' is not served, so there is nothing to make quiet: ${this.#record ? `it is ${this.#record.state} already` : 'it does not run'}`,
      );
    await this.#takeNics(served.nics, spec.nics);
    const since = new Date().toISOString();
    this.#write({ ...served.process, state: 'quiescing', byCommand, since, to: null, ran: true });
    try {
      await this.#vm.endServing('the host makes the VM quiet, so that it can be moved');
      await this.withQmp((qmp) => this.#unplug(qmp, spec.timeoutMs));
    } catch (e) {
      this.resume();
      throw e;
    }
    this.to('quiesced');
    this.#vm.log.info({ byCommand }, 'quiesced: links ended, arena unplugged; nested guests run on');
  }

  /** It is served again. */
  resume(): void {
    if (!this.#record) return;
    this.forget();
    this.#wake();
    this.#vm.log.info({}, 'served again');
  }

  /** By command. Throws HT_IN_USE while its state is elsewhere or on its way, HT_USAGE when it does not stand still. */
  async resumeByCommand(): Promise<void> {
    if (!this.#record)
      throw new HyperturtleError('HT_USAGE', `VM '${this.#vm.name}' is not quiesced: nothing to resume`);
    await this.withQmp(async (qmp) => {
      const [runs, migration] = [await runStateOf(qmp), await migrationOf(qmp)];
      if (isElsewhere(runs) || isUnderWay(migration))
        throw new HyperturtleError(
          'HT_IN_USE',
          `VM '${this.#vm.name}': its QEMU is in state '${runs}', its migration '${migration.status}': have that end first (migrate_cancel), or where its state went and did not arrive, have it go on here (cont); never at both ends`,
        );
    });
    this.resume();
  }

  /** Another state, on disk before anything follows from it. */
  to(state: StillState, more: Partial<Pick<StillRecord, 'to' | 'ran' | 'byCommand'>> = {}): void {
    if (this.#record) this.#write({ ...this.#record, ...more, state, since: new Date().toISOString() });
  }

  async withQmp<T>(work: (qmp: QmpClient) => Promise<T>): Promise<T> {
    const qmp = await QmpClient.connect(this.#vm.spec().qmp, { timeoutMs: CONNECT_MS });
    try {
      return await work(qmp);
    } finally {
      qmp.close();
    }
  }

  async #takeNics(nics: Pick<VmNics, 'clear' | 'devices'>, policy: NicPolicy): Promise<void> {
    const names = (): string => Array.from(nics.devices(), (n) => n.info.id).join(', ');
    if (policy === 'take' && names() !== '') await nics.clear('the VM is to be moved');
    if (names() === '') return;
    throw new HyperturtleError(
      'HT_IN_USE',
      `VM '${this.#vm.name}' has NICs of this host: ${names()}: ${
        policy === 'take'
          ? 'its guest did not let them go'
          : "have it give them back (hyperturtle nic del), or take them with '--nics take'"
      }`,
    );
  }

  /** What a move finds in its way, and what another QEMU does not have. */
  async #unplug(qmp: QmpClient, timeoutMs: number): Promise<void> {
    await unplugStartedWith(qmp, this.#vm.arenaLink, timeoutMs);
    await unplugArenaOver(qmp, timeoutMs);
    if ('hotplug' in this.#vm.spec().agent) await unplugPort(qmp);
  }

  /** For what a process that died had begun, or when QEMU could not be asked. Throws when it cannot be asked now either. */
  async #finish(): Promise<void> {
    const record = this.#record!;
    const left = await this.withQmp(async (qmp) => {
      if (record.state !== 'quiescing') {
        const end = await giveUp(qmp, false);
        const away = isElsewhere(await runStateOf(qmp));
        if (record.state === 'migrating' && away && end.status === 'completed') return true;
        // a file that nobody said is whole is none
        if (away && record.ran) await goOn(qmp);
      }
      if (record.byCommand) await this.#unplug(qmp, UNPLUG_MS);
      return false;
    });
    if (left) this.to('moved');
    else if (record.byCommand) this.to('quiesced', { to: null });
    else this.resume();
    const now = this.#record?.state ?? 'served again';
    this.#vm.log.warn({ was: record.state, now }, 'a daemon ended while this VM was moved or made quiet');
  }

  #write(record: StillRecord): void {
    writeStill(this.#vm.run, this.#vm.name, record);
    this.#record = record;
  }

  #wake(): void {
    const woken = this.#woken;
    this.#woken = new AbortController();
    woken.abort();
  }
}

const UNPLUG_MS = 60_000;
