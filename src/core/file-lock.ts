/**
 * A lock between processes: a file that names its holder. It is made with its content by
 * link(2), so nobody sees it half-written; one whose holder is gone is taken over.
 */
import { link, readFile, rm, stat, unlink, utimes, writeFile } from 'node:fs/promises';
import { readFileSync, readlinkSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { errnoCode, HyperturtleError } from './errors.ts';
import { sleep } from './wait.ts';

export interface FileLockOptions {
  signal?: AbortSignal | undefined;
  /** Called once when somebody else holds the lock. */
  onWait?: ((holder: string) => void) | undefined;
  /** Default 30 minutes: a first download over a slow line. */
  timeoutMs?: number;
}

interface Holder {
  pid: number;
  /** Boot, pid namespace and start time: together with the pid they name one process forever. */
  boot: string;
  pidNs: string;
  startTicks: string;
}

/** The holder renews the file's time this often; a holder we cannot see is taken for dead after ten of them. */
const HEARTBEAT_MS = 5_000;
const POLL_MS = 200;

/** Runs `body` while holding the lock `file`. Throws HT_BUSY when it is not free in time. */
export async function withFileLock<T>(
  file: string,
  options: FileLockOptions,
  body: () => Promise<T>,
): Promise<T> {
  await acquire(file, options);
  const heartbeat = setInterval(() => {
    const now = new Date();
    utimes(file, now, now).catch(() => {}); // the next one may work; a lost lock is seen by nobody else
  }, HEARTBEAT_MS);
  heartbeat.unref();
  try {
    return await body();
  } finally {
    clearInterval(heartbeat);
    await rm(file, { force: true });
  }
}

async function acquire(file: string, options: FileLockOptions): Promise<void> {
  const mine = `${file}.${process.pid}.${randomBytes(4).toString('hex')}`;
  await writeFile(mine, JSON.stringify(self()), { flag: 'wx' });
  try {
    const end = performance.now() + (options.timeoutMs ?? 30 * 60_000);
    let told = false;
    for (;;) {
      options.signal?.throwIfAborted();
      if (await tryLink(mine, file)) return;
      const holder = await readHolder(file);
      if (holder === undefined) continue; // released just now
      if (await isGone(holder, file)) {
        await takeOver(mine, file, holder);
        continue;
      }
      if (!told) {
        told = true;
        options.onWait?.(`process ${holder.pid}`);
      }
      if (performance.now() > end)
        throw new HyperturtleError(
          'HT_BUSY',
          `process ${holder.pid} still prepares the same: wait for it or end it (lock ${file})`,
        );
      await sleep(POLL_MS, options.signal);
    }
  } finally {
    await rm(mine, { force: true });
  }
}

async function tryLink(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (e) {
    if (errnoCode(e) === 'EEXIST') return false;
    throw e;
  }
}

/**
 * Removes a dead holder's lock. Only one of the waiters may (a second one would remove the lock that the first
 * then got): `.takeover` is that one's, and it looks again once it has it.
 */
async function takeOver(mine: string, file: string, dead: Holder): Promise<void> {
  const guard = `${file}.takeover`;
  if (!(await tryLink(mine, guard))) {
    const holder = await readHolder(guard);
    if (holder !== undefined && (await isGone(holder, guard))) await rm(guard, { force: true });
    await sleep(POLL_MS);
    return;
  }
  try {
    const now = await readHolder(file);
    if (now !== undefined && JSON.stringify(now) === JSON.stringify(dead)) await unlink(file);
  } finally {
    await rm(guard, { force: true });
  }
}

async function readHolder(file: string): Promise<Holder | undefined> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as Holder;
  } catch (e) {
    if (errnoCode(e) === 'ENOENT') return undefined;
    // none of our locks is ever half-written: garbage is nobody's
    if (e instanceof SyntaxError) return { pid: 0, boot: '', pidNs: '', startTicks: '' };
    throw e;
  }
}

async function isGone(holder: Holder, file: string): Promise<boolean> {
  if (holder.pid <= 0) return true;
  const me = self();
  if (holder.boot === me.boot && holder.pidNs === me.pidNs)
    return startTicks(holder.pid) !== holder.startTicks;
  // another boot, or another container that shares the cache: only the heartbeat tells
  try {
    return Date.now() - (await stat(file)).mtimeMs > 10 * HEARTBEAT_MS;
  } catch (e) {
    if (errnoCode(e) === 'ENOENT') return false;
    throw e;
  }
}

function self(): Holder {
  return {
    pid: process.pid,
    boot: readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim(),
    pidNs: readlinkSync('/proc/self/ns/pid'),
    startTicks: startTicks(process.pid) ?? '',
  };
}

/** Field 22 of /proc/PID/stat; undefined when there is no such process, or only its zombie. */
function startTicks(pid: number): string | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' ? undefined : fields[19];
  } catch {
    return undefined;
  }
}
