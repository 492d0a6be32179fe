/**
 * A snapshot of a booted L0 and L1, so that the next lab is up in seconds. RAM of the outer machine is a file
 * that QEMU maps: shared while the snapshot is made, private when restored, so one snapshot serves many labs at
 * once. Only stock parts and c/redelivery are in it; all else that we build comes on the payload disk, zeros here, after
 * restoring.
 */
import { mkdir, open, readdir, rm, stat, truncate, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { HyperturtleError } from '../core/errors.ts';
import { withStep } from '../core/progress.ts';
import type { Progress } from '../core/progress.ts';
import { sleep, waitFor } from '../core/wait.ts';
import type { QmpClient } from '../qmp/client.ts';
import { IMAGES_DISK_BYTES, PAYLOAD_DISK_BYTES } from './artifacts.ts';
import { outerSpec, startMachine, waitBooted } from './boot.ts';
import type { BootSpec, Machine, QemuMachine, StartOptions } from './boot.ts';
import { runScript } from './levels.ts';
import { l1Machine, l1Script, outerMemMib, qemuArguments } from './machine.ts';
import { makeNodeStart, startsSlowly } from './node-files.ts';
import { cacheEntry, contentKey, needSpace } from './xdg.ts';

/** Raise it when what is done before the state is saved changes. */
const FORMAT = 3;
const KEEP = 4;
const STALE_MS = 3600_000;
const FOLDER = 'snapshots';

export interface Snapshot {
  key: string;
  ram: string;
  state: string;
}

export interface SnapshotOptions {
  cache: string;
  /** Run directory for the machine that is booted to be saved; a path short enough for sockets. */
  dir: string;
  progress: Progress;
  signal?: AbortSignal | undefined;
}

export function snapshotKey(spec: BootSpec): string {
  const o: StartOptions = {
    dir: '/run',
    payloadDisk: '/payload',
    imagesDisk: '/images',
    ramFile: { path: '/ram', private: true },
    incoming: true,
    lifetime: 'owner',
  };
  return contentKey([
    FORMAT,
    spec.artifacts.key,
    spec.artifacts.qemu.version,
    qemuArguments(outerSpec(spec, o)),
    l1Script(l1Machine(spec.l1, spec.artifacts.kernelArgs(1))),
    // upstream's Node is as it ever was, and so are the snapshots with it
    ...(startsSlowly() ? [makeNodeStart()] : []),
  ]);
}

/** The snapshot for `spec`, made now if there is none. */
export async function ensureSnapshot(spec: BootSpec, o: SnapshotOptions): Promise<Snapshot> {
  const key = snapshotKey(spec);
  const entry = await cacheEntry(
    o.cache,
    {
      folder: FOLDER,
      name: 'lab',
      key,
      keep: KEEP,
      signal: o.signal,
      onWait: (holder) => o.progress.note(`  ${holder} makes the same snapshot: waiting for it`),
    },
    (staging) => makeSnapshot(spec, staging, o),
  );
  await prune(path.dirname(entry));
  return { key, ram: path.join(entry, 'ram'), state: path.join(entry, 'state') };
}

/**
 * Keeps the snapshots used last: each takes most of a GiB. One that is pruned between being found and being restored
 * is made again by restore's caller; labs that were restored from it don't need it any more.
 */
async function prune(folder: string): Promise<void> {
  const found: { dir: string; usedMs: number }[] = [];
  for (const name of await readdir(folder)) {
    const dir = path.join(folder, name);
    const s = await stat(dir).catch(() => undefined);
    if (!s) continue;
    if (!name.startsWith('.')) found.push({ dir, usedMs: s.mtimeMs });
    // half made, and its maker is gone: none takes this long
    else if (Date.now() - s.mtimeMs > STALE_MS) await rm(dir, { recursive: true, force: true });
  }
  found.sort((a, b) => b.usedMs - a.usedMs);
  for (const s of found.slice(KEEP)) await rm(s.dir, { recursive: true, force: true });
}

/** Forgets a snapshot that could not be restored. */
export async function dropSnapshot(s: Snapshot): Promise<void> {
  await rm(path.dirname(s.ram), { recursive: true, force: true });
}

/** The same for the snapshot that `spec` would use. */
export async function dropSnapshotOf(spec: BootSpec, cache: string): Promise<void> {
  await rm(path.join(cache, FOLDER, `lab-${snapshotKey(spec)}`), { recursive: true, force: true });
}

async function makeSnapshot(spec: BootSpec, staging: string, o: SnapshotOptions): Promise<void> {
  await mkdir(staging, { mode: 0o700 });
  await needSpace(staging, Math.round(outerMemMib(spec.l1) * 0.75) << 20);
  const ram = path.join(staging, 'ram');
  const blank = path.join(o.dir, 'blank');
  await mkdir(o.dir, { recursive: true, mode: 0o700 });
  await writeFile(blank, '');
  await truncate(blank, PAYLOAD_DISK_BYTES);
  const noImages = path.join(o.dir, 'no-images');
  await writeFile(noImages, '');
  await truncate(noImages, IMAGES_DISK_BYTES);
  const m = await startMachine(spec, {
    dir: o.dir,
    payloadDisk: blank,
    imagesDisk: noImages,
    ramFile: { path: ram, private: false },
    incoming: false,
    lifetime: 'owner',
    signal: o.signal,
  });
  try {
    await waitBooted(m, o);
    const saveAll = async (): Promise<number> => {
      await settle(m, o.signal);
      using q = await m.qemu.qmp();
      await stopIdle(q, o.signal);
      await save(q, path.join(staging, 'state'), o.signal);
      return (await stat(ram)).blocks * 512;
    };
    await withStep(o.progress, 'save snapshot', saveAll, (bytes) => `${Math.round(bytes / (1 << 20))} MiB`);
  } finally {
    await m.qemu.end();
    await rm(o.dir, { recursive: true, force: true });
  }
  await writeFile(
    path.join(staging, 'about.json'),
    JSON.stringify({ kernel: spec.artifacts.kernelVersion, l1: spec.l1, accel: spec.accel }),
  );
}

/**
 * Reads once what every lab will need, so that it is in the page caches that are saved, and drops what the
 * zeros of the payload's and images' disks left there.
 */
async function settle(m: Machine, signal: AbortSignal | undefined): Promise<void> {
  for (const level of [m.l1, m.l0])
    await runScript(
      level,
      `${makeNodeStart()}; qemu-system-x86_64 -version; blockdev --flushbufs /dev/vdb; blockdev --flushbufs /dev/vdc; sync`,
      {
        timeoutMs: 180_000,
        signal,
      },
    );
}

/**
 * Stops the machine at a moment when every vCPU of it halts in L0: a vCPU that runs a nested guest cannot be
 * loaded again under TCG.
 */
async function stopIdle(q: QmpClient, signal: AbortSignal | undefined): Promise<void> {
  await waitFor(
    'a moment when L0 is idle, to save it',
    async () => {
      await sleep(70, signal);
      await q.execute('stop', {}, { signal });
      const halts = [...(await q.hmp('info registers -a', { signal })).matchAll(/HLT=(\d)/g)];
      if (halts.length > 0 && halts.every((h) => h[1] === '1')) return true;
      await q.execute('cont', {}, { signal });
      return undefined;
    },
    { timeoutMs: 60_000, intervalMs: 1, signal },
  );
}

const IGNORE_SHARED = { capabilities: [{ capability: 'x-ignore-shared', state: true }] };
const redirect = (file: string): string => `'${file.replaceAll("'", "'\\''")}'`;

async function save(q: QmpClient, file: string, signal: AbortSignal | undefined): Promise<void> {
  await q.execute('migrate-set-capabilities', IGNORE_SHARED, { signal });
  await q.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40 }, { signal });
  await q.execute('migrate', { uri: `exec:cat > ${redirect(file)}` }, { signal });
  await waitFor(
    'saving the machine',
    async () => {
      const i = (await q.execute('query-migrate', {}, { signal })) as {
        status?: string;
        'error-desc'?: string;
      };
      if (i.status === 'failed')
        throw new HyperturtleError('HT_QMP', `QEMU could not save the machine: ${i['error-desc'] ?? '?'}`);
      return i.status === 'completed' ? true : undefined;
    },
    { timeoutMs: 120_000, intervalMs: 20, signal },
  );
  // QEMU tells nothing of a full disk: cat's status is lost
  const end = await tailBytes(file, 1);
  if (end.length === 0)
    throw new HyperturtleError('HT_NO_SPACE', `${file}: nothing was written (disk full?)`);
}

async function tailBytes(file: string, n: number): Promise<Buffer> {
  const f = await open(file, 'r');
  try {
    const { size } = await f.stat();
    const b = Buffer.alloc(Math.min(n, size));
    await f.read(b, 0, b.length, size - b.length);
    return b;
  } finally {
    await f.close();
  }
}

/** A machine that goes on where the snapshot was taken. Its guests run, but nobody has asked them anything. */
export async function restoreSnapshot(
  spec: BootSpec,
  s: Snapshot,
  o: Omit<StartOptions, 'ramFile' | 'incoming'>,
): Promise<QemuMachine> {
  // QEMU would make a missing file, of zeros
  for (const f of [s.ram, s.state]) await stat(f);
  const m = await startMachine(spec, { ...o, ramFile: { path: s.ram, private: true }, incoming: true });
  try {
    using q = await m.qemu.qmp();
    await q.execute('migrate-set-capabilities', IGNORE_SHARED, { signal: o.signal });
    await q.execute('migrate-incoming', { uri: `exec:cat ${redirect(s.state)}` }, { signal: o.signal });
    await waitFor(
      'loading the saved machine',
      async () => {
        m.qemu.check();
        const { status } = (await q.execute('query-status', {}, { signal: o.signal })) as { status: string };
        return status === 'inmigrate' ? undefined : true;
      },
      { timeoutMs: 60_000, intervalMs: 10, signal: o.signal },
    );
    await q.execute('cont', {}, { signal: o.signal });
  } catch (e) {
    m.qemu.check(); // when QEMU has ended, its own words tell why
    await m.qemu.end();
    throw e;
  }
  return m;
}

/** Removes all snapshots; labs that were restored from one go on running. */
export async function removeSnapshots(cache: string): Promise<{ count: number; bytes: number }> {
  const folder = path.join(cache, FOLDER);
  const freed = { count: 0, bytes: 0 };
  for (const name of await readdir(folder).catch(() => [] as string[])) {
    const dir = path.join(folder, name);
    const ram = await stat(path.join(dir, 'ram')).catch(() => undefined);
    await rm(dir, { recursive: true, force: true });
    freed.count++;
    freed.bytes += ram ? ram.blocks * 512 : 0;
  }
  return freed;
}

/** Removes the whole cache. */
export async function removeCache(root: string): Promise<void> {
  await rm(root, { recursive: true, force: true });
}
