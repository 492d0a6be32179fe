/**
 * What we make in a QEMU has an id that was never used in it before, by us or by one of our processes that died: QEMU frees
 * some things after it has said that they are gone, and one of them (a RAM block, softmmu/physmem.c: qemu_ram_set_idstr)
 * makes it abort when its name comes again. What a dead process left is found by the prefix of its id.
 */
import { randomBytes } from 'node:crypto';
import { HyperturtleError, isHyperturtleError } from '../core/errors.ts';
import type { QmpClient } from '../qmp/client.ts';

export type QmpExecutor = Pick<QmpClient, 'execute' | 'waitEvent'>;

/** `hyperturtle-arena` to `hyperturtle-arena-5f0c...`: QEMU allows letters, digits and `-._`. */
export const newQemuId = (prefix: string): string => `${prefix}-${randomBytes(8).toString('hex')}`;

/** Whether the id is the prefix (as older versions had it) or begins with it and a dash. */
export const hasPrefix = (id: string, prefix: string): boolean =>
  id === prefix || id.startsWith(`${prefix}-`);

export const DEVICES = '/machine/peripheral';
/** Devices of the command line that were given no id. */
export const UNNAMED_DEVICES = '/machine/peripheral-anon';
export const OBJECTS = '/objects';
const COMMAND_MS = 30_000;
/** A request that the guest has not answered is made again after this; QEMU keeps one for 5 s (hw/pci/pcie.c). */
const ASK_AGAIN_MS = 6_000;
/** The guest's slot is just going on or off. */
const BUSY_MS = 500;

/** Children of a QOM path that have this type. */
export async function childrenOf(
  qmp: Pick<QmpClient, 'execute'>,
  path: string,
  type: string,
): Promise<string[]> {
  const answer = await qmp.execute('qom-list', { path }, { timeoutMs: COMMAND_MS });
  if (!Array.isArray(answer)) return [];
  return answer.flatMap((x: unknown) => {
    const child = x as { name?: unknown; type?: unknown } | null;
    return typeof child?.name === 'string' && child.type === `child<${type}>` ? [child.name] : [];
  });
}

/** Undefined when it is no text, or what it belongs to has gone meanwhile. */
export async function propertyOf(
  qmp: Pick<QmpClient, 'execute'>,
  path: string,
  property: string,
): Promise<string | undefined> {
  try {
    const value = await qmp.execute('qom-get', { path, property }, { timeoutMs: COMMAND_MS });
    return typeof value === 'string' ? value : undefined;
  } catch (e) {
    if (isRefusal(e)) return undefined;
    throw e;
  }
}

/** QEMU itself said no: then it has done nothing. */
export function isRefusal(e: unknown): e is HyperturtleError {
  return isHyperturtleError(e, 'HT_QMP') && e.detail['command'] !== undefined;
}

/** Settles fine as well when QEMU says that there is no such thing. */
export async function unlessGone(answer: Promise<unknown>): Promise<void> {
  try {
    await answer;
  } catch (e) {
    if (!isHyperturtleError(e, 'HT_QMP')) throw e;
    if (e.detail['class'] !== 'DeviceNotFound' && !/not found/i.test(e.message)) throw e;
  }
}

/**
 * Fine when there is none. The guest must agree. It is asked again when it was busy or did not answer, also when
 * another process asked before and died. Throws HT_TIMEOUT.
 */
export async function deleteDevice(qmp: QmpExecutor, id: string, timeoutMs: number): Promise<void> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const left = end - performance.now();
    if (left <= 0)
      throw new HyperturtleError(
        'HT_TIMEOUT',
        `QEMU's device ${id}: its guest has not let it go within ${timeoutMs / 1000} s`,
      );
    if (await deleted(qmp, id, left)) return;
  }
}

/** One request and its wait; false: ask again. */
async function deleted(qmp: QmpExecutor, id: string, leftMs: number): Promise<boolean> {
  const stop = new AbortController();
  const gone = (timeoutMs: number): Promise<boolean> =>
    qmp
      .waitEvent('DEVICE_DELETED', (data) => data['device'] === id, { timeoutMs, signal: stop.signal })
      .then(
        () => true,
        (e: unknown) => {
          if (stop.signal.aborted || isHyperturtleError(e, 'HT_TIMEOUT')) return false;
          throw e;
        },
      );
  // before the command: the event may come before the answer
  const event = gone(Math.min(leftMs, ASK_AGAIN_MS));
  event.catch(() => {}); // awaited below, unless the command failed
  try {
    await qmp.execute('device_del', { id }, { timeoutMs: COMMAND_MS });
  } catch (e) {
    if (isRefusal(e) && /already in the process of unplug/i.test(e.message)) return await event;
    try {
      if (!isRefusal(e)) throw e;
      if (e.detail['class'] === 'DeviceNotFound') return true;
      if (/guest is busy/i.test(e.message)) return await gone(Math.min(leftMs, BUSY_MS));
      throw e;
    } finally {
      stop.abort();
    }
  }
  return await event;
}
