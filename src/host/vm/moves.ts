/**
 * Commands that make a VM quiet, send it elsewhere or save it: one at a time for a VM, in the background, as they take longer
 * than a request may. Who asked looks how far it is; it goes on when nobody does. Whatever fails leaves the VM served here as
 * before, or quiesced where it was before.
 */
import { HyperturtleError, isHyperturtleError, messageOf } from '../../core/errors.ts';
import type { ErrorCode } from '../../core/errors.ts';
import { sleep, withDeadline } from '../../core/wait.ts';
import { checkUri, goOn, isUncertain, migrate, runStateOf } from '../../qmp/migration.ts';
import type { MigrationState } from '../../qmp/migration.ts';
import type { QmpClient } from '../../qmp/client.ts';
import type { Log } from '../log.ts';
import { StateSocket } from './state-socket.ts';
import type { QuiesceSpec, Still } from './still.ts';

/** For a command to say that its file is whole: the disk may have to take all of it. */
const CONFIRM_MS = 600_000;
const RESTORE_LOOK_MS = 200;
const QUIT_MS = 10_000;

type Move = 'quiesce' | 'migrate' | 'save' | 'restore';

export interface MoveProgress {
  what: Move;
  /** `quiescing`, or QEMU's word for its migration. */
  phase: string;
  leftMib: number;
  totalMib: number;
}

export interface MoveResult {
  what: Move;
  at: string;
  /** Null: done. */
  problem: { code: ErrorCode; message: string } | null;
  /** How long the VM stood still, how long the migration took, and what was sent. */
  downtimeMs: number | null;
  totalMs: number | null;
  sentMib: number | null;
}

interface LeaveSpec extends QuiesceSpec {
  /** For the migration. */
  deadlineMs: number;
  downtimeMs?: number | undefined;
  mibPerS?: number | undefined;
  /** End the QEMU here when its state has gone. */
  quit: boolean;
}
interface MigrateSpec extends LeaveSpec {
  uri: string;
}
interface SaveSpec extends LeaveSpec {
  /** The VM goes on here. */
  goOn: boolean;
}

interface MovesVm {
  readonly name: string;
  readonly run: string;
  readonly log: Log;
  /** The connection of what serves it. Throws HT_UNAVAILABLE. */
  monitor: () => QmpClient;
}

export class Moves {
  readonly #vm: MovesVm;
  readonly #still: Still;
  #job: { progress: MoveProgress; abort: AbortController; over: Promise<void> } | undefined;
  #last: MoveResult | undefined;
  #confirm: ((whole: boolean) => void) | undefined;

  constructor(vm: MovesVm, still: Still) {
    this.#vm = vm;
    this.#still = still;
  }

  get progress(): MoveProgress | undefined {
    return this.#job?.progress;
  }

  get last(): MoveResult | undefined {
    return this.#last;
  }

  quiesce(spec: QuiesceSpec): void {
    this.#begin('quiesce', async () => {
      await this.#still.quiesce(spec, true);
    });
  }

  /** Throws HT_BUSY while a command is at it, HT_IN_USE, HT_USAGE. */
  async resume(): Promise<void> {
    this.#assertFree();
    await this.#still.resumeByCommand();
  }

  migrate(spec: MigrateSpec): void {
    const uri = checkUri(spec.uri);
    this.#begin('migrate', (signal) =>
      this.#leave(spec, signal, {
        state: 'migrating',
        to: uri,
        end: async (qmp) => {
          this.#still.to('moved', { to: uri });
          if (spec.quit) await quit(qmp);
        },
        destination: () => Promise.resolve(uri),
      }),
    );
  }

  /** Where the command that writes the file is to connect. */
  async save(spec: SaveSpec): Promise<string> {
    this.#assertFree();
    const socket = await StateSocket.listen(this.#vm.run, this.#vm.name);
    const confirmed = new Promise<boolean>((resolve) => (this.#confirm = resolve));
    this.#begin('save', async (signal) => {
      using stream = socket;
      return await this.#leave(spec, signal, {
        state: 'saving',
        to: null,
        destination: (qmp) => stream.giveTo(qmp, signal),
        end: (qmp) => this.#saved(qmp, spec, confirmed, signal),
      });
    });
    return socket.path;
  }

  /** The command that wrote the file has all of it on the disk, or not. */
  saved(whole: boolean): void {
    this.#confirm?.(whole);
  }

  /** Where the command that reads the file is to connect. Throws HT_USAGE when QEMU waits for no state. */
  async restore(deadlineMs: number): Promise<string> {
    this.#assertFree();
    const qmp = this.#vm.monitor();
    const state = await runStateOf(qmp);
    if (state !== 'inmigrate')
      throw new HyperturtleError(
        'HT_USAGE',
        `VM '${this.#vm.name}': its QEMU is in state '${state}': one that was started with -incoming defer expected`,
      );
    const socket = await StateSocket.listen(this.#vm.run, this.#vm.name);
    this.#begin('restore', async (signal) => {
      using stream = socket;
      const uri = await stream.giveTo(qmp, signal);
      await qmp.execute('migrate-incoming', { uri });
      await withDeadline('the state arriving', this.#arrived(qmp, signal), deadlineMs, signal);
    });
    return socket.path;
  }

  /** Gives up what is under way, and undoes it. Returns when that is over. */
  async cancel(reason: string): Promise<void> {
    this.#job?.abort.abort(new HyperturtleError('HT_INTERRUPTED', reason));
    await this.#job?.over;
  }

  #assertFree(): void {
    if (this.#job)
      throw new HyperturtleError(
        'HT_BUSY',
        `VM '${this.#vm.name}': '${this.#job.progress.what}' is under way: wait for its end, or cancel it (hyperturtle host cancel ${this.#vm.name})`,
      );
  }

  #begin(what: Move, work: (signal: AbortSignal) => Promise<MigrationState | undefined | void>): void {
    this.#assertFree();
    const abort = new AbortController();
    const progress: MoveProgress = { what, phase: 'quiescing', leftMib: 0, totalMib: 0 };
    const none = { downtimeMs: null, totalMs: null, sentMib: null };
    const over = this.#still
      .inHand(() => work(abort.signal))
      .then(
        (end) => ({ ...none, ...(end ? figuresOf(end) : {}), problem: null }),
        (e: unknown) => ({ ...none, problem: problemOf(e) }),
      )
      .then((result) => {
        this.#last = { what, at: new Date().toISOString(), ...result };
        this.#job = undefined;
        const { problem } = result;
        if (problem) this.#vm.log.warn({ what, ...problem }, 'not done');
        else this.#vm.log.info({ ...this.#last }, 'done');
      });
    this.#job = { progress, abort, over };
  }

  /** Quiesced, then sent where `destination` says; `end` when all has gone. Undone in reverse when something fails. */
  async #leave(
    spec: LeaveSpec,
    signal: AbortSignal,
    way: {
      state: 'migrating' | 'saving';
      to: string | null;
      destination: (qmp: QmpClient) => Promise<string>;
      end: (qmp: QmpClient) => Promise<void>;
    },
  ): Promise<MigrationState> {
    const before = this.#still.record?.state === 'quiesced';
    if (!before) await this.#still.quiesce(spec, false);
    try {
      signal.throwIfAborted();
      return await this.#still.withQmp(async (qmp) => {
        const ran = (await runStateOf(qmp)) === 'running';
        this.#still.to(way.state, { to: way.to, ran });
        const end = await migrate(
          qmp,
          {
            uri: await way.destination(qmp),
            answered: way.state === 'migrating',
            timeoutMs: spec.deadlineMs,
            downtimeMs: spec.downtimeMs,
            mibPerS: spec.mibPerS,
          },
          { signal, onProgress: (state) => this.#show(state) },
        );
        await way.end(qmp);
        return end;
      });
    } catch (e) {
      this.#undo(e, before);
      throw e;
    }
  }

  /** What is not certain is looked into by Still, again and again. */
  #undo(e: unknown, before: boolean): void {
    const state = this.#still.record?.state;
    // it has gone, and what came after that failed
    if (state === 'moved' || state === 'saved' || isUncertain(e)) return;
    if (before) this.#still.to('quiesced', { to: null });
    else this.#still.resume();
  }

  async #saved(
    qmp: QmpClient,
    spec: SaveSpec,
    confirmed: Promise<boolean>,
    signal: AbortSignal,
  ): Promise<void> {
    const ran = this.#still.record?.ran ?? true;
    try {
      this.#phase('writing');
      const whole = await withDeadline('the command writing its file', confirmed, CONFIRM_MS, signal);
      if (!whole) throw new HyperturtleError('HT_COMMAND_FAILED', 'the file could not be written');
    } catch (e) {
      if (ran) await goOnOr(qmp, e);
      throw e;
    }
    if (spec.goOn) {
      if (ran) await goOn(qmp);
      if (this.#still.record?.byCommand) this.#still.to('quiesced', { to: null });
      else this.#still.resume();
      return;
    }
    this.#still.to('saved');
    if (spec.quit) await quit(qmp);
  }

  /** Throws HT_QMP when QEMU ends: it does when it cannot take the state. */
  async #arrived(qmp: QmpClient, signal: AbortSignal): Promise<void> {
    this.#phase('arriving');
    while ((await runStateOf(qmp)) === 'inmigrate') await sleep(RESTORE_LOOK_MS, signal);
  }

  #phase(phase: string): void {
    if (this.#job) this.#job.progress.phase = phase;
  }

  #show({ status, leftMib, totalMib }: MigrationState): void {
    if (this.#job) Object.assign(this.#job.progress, { phase: status, leftMib, totalMib });
  }
}

/** Throws `why`, as one that is not certain, when the VM does not go on. */
async function goOnOr(qmp: QmpClient, why: unknown): Promise<void> {
  await goOn(qmp).catch((e: unknown) => {
    throw new HyperturtleError('HT_QMP', `${messageOf(why)}; and the VM does not go on: ${messageOf(e)}`, {
      cause: e,
      detail: { uncertain: true },
    });
  });
}

/** It ends with its answer, or before. */
async function quit(qmp: QmpClient): Promise<void> {
  await qmp.execute('quit', {}, { timeoutMs: QUIT_MS }).catch((e: unknown) => {
    if (!isHyperturtleError(e, 'HT_QMP'))
      throw new HyperturtleError('HT_QMP', `its state has gone; its QEMU here did not end: ${messageOf(e)}`, {
        cause: e,
      });
  });
}

const figuresOf = ({ downtimeMs, totalMs, sentMib }: MigrationState): Partial<MoveResult> => ({
  downtimeMs,
  totalMs,
  sentMib,
});

const problemOf = (e: unknown): NonNullable<MoveResult['problem']> => ({
  code: isHyperturtleError(e) ? e.code : 'HT_CRASHED',
  message: messageOf(e),
});
