/**
 * A migration as QEMU does it: begun, watched, given up. After `migrate` one thing is certain, or it says that it is not: the
 * state has gone and this QEMU stands still, or QEMU has given up and the VM goes on here. Read in QEMU 7.2
 * (migration/migration.c); asked the same way of 10 and 11.
 */
import { HyperturtleError, isHyperturtleError } from '../core/errors.ts';
import { sleep, waitFor } from '../core/wait.ts';
import type { QmpClient } from './client.ts';

type Qmp = Pick<QmpClient, 'execute'>;

export interface MigrationState {
  /** QEMU's word: none, setup, active, device, cancelling, completed, failed, cancelled ... */
  status: string;
  /** Memory that is not there yet, in MiB; 0 before the first count. */
  leftMib: number;
  totalMib: number;
  sentMib: number;
  /** How long the VM stood still, in ms; null while that is not over. */
  downtimeMs: number | null;
  totalMs: number;
  /** QEMU's reason; empty: none given. */
  error: string;
}

interface MigrationSpec {
  uri: string;
  /** Whether the other end answers, so that QEMU knows that all has arrived: sockets; a file does not. */
  answered: boolean;
  /** For all of it; then it is given up. */
  timeoutMs: number;
  /** How long the VM may stand still, by QEMU's estimate. Left out: as QEMU has it, 300 ms. */
  downtimeMs?: number | undefined;
  /** Left out: as QEMU has it. */
  mibPerS?: number | undefined;
}

const COMMAND_MS = 30_000;
/** For QEMU to give one up: it may be writing to a peer that does not read. */
const GIVE_UP_MS = 60_000;
const LOOK_MS = 200;
const OVER: ReadonlySet<string> = new Set(['none', 'completed', 'failed', 'cancelled']);
/** Runstates of a VM whose state went elsewhere, is going, or has not come. */
const ELSEWHERE: ReadonlySet<string> = new Set(['postmigrate', 'finish-migrate', 'inmigrate']);

/** Nobody knows how it ended: the connection to QEMU broke while it was under way. */
export const isUncertain = (e: unknown): boolean => isHyperturtleError(e) && e.detail['uncertain'] === true;

/** running, paused, inmigrate, postmigrate, prelaunch ... */
export async function runStateOf(qmp: Qmp): Promise<string> {
  const answer = (await qmp.execute('query-status', {}, { timeoutMs: COMMAND_MS })) as {
    status?: unknown;
  } | null;
  return typeof answer?.status === 'string' ? answer.status : 'unknown';
}

export const isElsewhere = (runState: string): boolean => ELSEWHERE.has(runState);

export const isUnderWay = ({ status }: Pick<MigrationState, 'status'>): boolean => !OVER.has(status);

export async function migrationOf(qmp: Qmp): Promise<MigrationState> {
  const answer = (await qmp.execute('query-migrate', {}, { timeoutMs: COMMAND_MS })) as Record<
    string,
    unknown
  > | null;
  const ram = (answer?.['ram'] ?? {}) as Record<string, unknown>;
  const mib = (bytes: unknown): number => (typeof bytes === 'number' ? Math.round(bytes / 2 ** 20) : 0);
  const ms = (value: unknown): number | null => (typeof value === 'number' ? value : null);
  return {
    status: typeof answer?.['status'] === 'string' ? answer['status'] : 'none',
    leftMib: mib(ram['remaining']),
    totalMib: mib(ram['total']),
    sentMib: mib(ram['transferred']),
    downtimeMs: ms(answer?.['downtime']),
    totalMs: ms(answer?.['total-time']) ?? 0,
    error: typeof answer?.['error-desc'] === 'string' ? answer['error-desc'] : '',
  };
}

/**
 * Returns when all has gone and QEMU stands still. Throws HT_BUSY, HT_QMP with QEMU's reason, HT_TIMEOUT, the signal's reason:
 * the VM then is as it was, and runs if it ran. Throws an error that `isUncertain` when QEMU could not be asked to the end.
 */
export async function migrate(
  qmp: Qmp,
  spec: MigrationSpec,
  o: { signal: AbortSignal; onProgress: (state: MigrationState) => void },
): Promise<MigrationState> {
  const before = await runStateOf(qmp);
  if (isElsewhere(before) || isUnderWay(await migrationOf(qmp)))
    throw new HyperturtleError(
      'HT_BUSY',
      `QEMU cannot begin a migration now: its VM is '${before}': a VM that runs or is paused, and no other migration, expected`,
    );
  await setUp(qmp, spec);
  o.signal.throwIfAborted();
  try {
    await qmp.execute('migrate', { uri: spec.uri }, { timeoutMs: COMMAND_MS });
    return await watched(qmp, spec, o);
  } catch (e) {
    const end = await giveUp(qmp, before === 'running').catch((why: unknown) => {
      throw new HyperturtleError(
        'HT_QMP',
        `${e instanceof Error ? e.message : String(e)}; and QEMU does not say how its migration ended`,
        { cause: why, detail: { uncertain: true } },
      );
    });
    // too late to give it up
    if (end.status === 'completed' && isElsewhere(await runStateOf(qmp))) return end;
    throw e;
  }
}

async function setUp(qmp: Qmp, spec: MigrationSpec): Promise<void> {
  const options = { timeoutMs: COMMAND_MS };
  const capabilities = [{ capability: 'return-path', state: spec.answered }];
  await qmp.execute('migrate-set-capabilities', { capabilities }, options);
  const parameters = {
    ...(spec.downtimeMs === undefined ? {} : { 'downtime-limit': spec.downtimeMs }),
    ...(spec.mibPerS === undefined ? {} : { 'max-bandwidth': spec.mibPerS * 2 ** 20 }),
  };
  if (Object.keys(parameters).length > 0) await qmp.execute('migrate-set-parameters', parameters, options);
}

/** Until it is over well. Throws HT_QMP when it failed, HT_TIMEOUT, the signal's reason. */
async function watched(
  qmp: Qmp,
  spec: MigrationSpec,
  { signal, onProgress }: { signal: AbortSignal; onProgress: (state: MigrationState) => void },
): Promise<MigrationState> {
  const end = performance.now() + spec.timeoutMs;
  for (;;) {
    const now = await migrationOf(qmp);
    onProgress(now);
    if (now.status === 'completed') return now;
    if (!isUnderWay(now))
      throw new HyperturtleError(
        'HT_QMP',
        `QEMU: the migration ${now.status === 'failed' ? 'failed' : 'was cancelled'}${now.error ? `: ${now.error}` : ''}`,
      );
    if (performance.now() >= end)
      throw new HyperturtleError(
        'HT_TIMEOUT',
        `migration: ${now.leftMib} of ${now.totalMib} MiB are left after ${spec.timeoutMs / 1000} s, given up`,
      );
    await sleep(LOOK_MS, signal);
  }
}

/**
 * Gives up what is under way, and gives how it ended: `completed` when it was too late. A VM that ran (`ran`) and whose state
 * did not go runs again.
 */
export async function giveUp(qmp: Qmp, ran: boolean): Promise<MigrationState> {
  if (isUnderWay(await migrationOf(qmp))) await qmp.execute('migrate_cancel', {}, { timeoutMs: COMMAND_MS });
  const end = await waitFor(
    'QEMU giving up its migration',
    async () => {
      const now = await migrationOf(qmp);
      return isUnderWay(now) ? undefined : now;
    },
    { timeoutMs: GIVE_UP_MS, intervalMs: LOOK_MS },
  );
  if (end.status !== 'completed' && ran) await goOn(qmp);
  return end;
}

/** QEMU itself has a VM that ran go on after a migration that failed, a moment later. */
export async function goOn(qmp: Qmp): Promise<void> {
  const state = await runStateOf(qmp);
  if (isElsewhere(state) || state === 'paused') await qmp.execute('cont', {}, { timeoutMs: COMMAND_MS });
}

/**
 * Where QEMU may be told to send a VM. Throws HT_USAGE: `exec:` would be a shell of QEMU's, and a file is what `host save` is
 * for.
 */
export function checkUri(uri: string): string {
  if (/^tcp:(\[[0-9a-f:.]+\]|[^\s:[\]]+):\d{1,5}$/i.test(uri) || /^unix:\/[^\0\s]+$/.test(uri)) return uri;
  throw new HyperturtleError(
    'HT_USAGE',
    `--to ${uri}: tcp:HOST:PORT or unix:/PATH expected, where the other QEMU listens (-incoming)`,
  );
}
