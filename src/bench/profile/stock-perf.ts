/**
 * Debian's `perf` in an L1, as somebody without hyperupcalls profiles nested guests there: from an image of its own, as no base
 * image has it. Its file is read here, for `perf report` in an emulated machine takes minutes.
 */
import { HyperturtleError } from '../../core/errors.ts';
import type { CleanupStack } from '../../core/lifecycle.ts';
import { waitFor } from '../../core/wait.ts';
import { IN_GUEST } from '../../lab/artifacts.ts';
import { run, runScript } from '../../lab/levels.ts';
import type { Job, Level } from '../../lab/levels.ts';

/** Name of the image in `labUp({ images })`. */
export const PERF_IMAGE = 'perf';
const ROOT = '/run/perf';
/** Seen with the root's eyes. */
const DATA = '/tmp/perf.data';
const END_MS = 60_000;

/** Mounts the image. What it needs is the lab's `images`. */
export async function stockPerf(l1: Level, undo: CleanupStack, signal?: AbortSignal): Promise<void> {
  await runScript(
    l1,
    [
      `mkdir -p ${ROOT} && mount -t erofs -o loop,ro ${IN_GUEST.images}/${PERF_IMAGE}.erofs ${ROOT}`,
      `mount --bind /proc ${ROOT}/proc && mount --bind /sys ${ROOT}/sys && mount -t tmpfs none ${ROOT}/tmp`,
    ].join(' && '),
    { signal },
  );
  undo.add('perf', () => runScript(l1, `for d in tmp sys proc .; do umount ${ROOT}/$d; done`).then(() => {}));
}

/** All threads of a process by their CPU clock. Returns when it samples. */
export async function record(l1: Level, pid: string, hz: number, signal?: AbortSignal): Promise<Job> {
  await runScript(l1, `rm -f ${ROOT}${DATA}`, { signal });
  const command = ['perf', 'record', '-e', 'cpu-clock', '-F', String(hz), '-k', 'CLOCK_MONOTONIC'];
  const job = await l1.spawn(['chroot', ROOT, ...command, '-p', pid, '-o', DATA], { signal });
  const isThere = async (): Promise<true | undefined> => {
    const ended = await job.status();
    if (ended !== undefined)
      throw new HyperturtleError(
        'HT_COMMAND_FAILED',
        `perf record: ended with status ${ended}: ${await job.output()}`,
      );
    return (await l1.exec(['test', '-s', `${ROOT}${DATA}`])).status === 0 || undefined;
  };
  await waitFor('perf record', isThere, { timeoutMs: END_MS, intervalMs: 500, signal });
  return job;
}

/** L1's monotonic clock, which the samples have. */
export async function clockNs(l1: Level, signal?: AbortSignal): Promise<number> {
  const uptime = await run(l1, ['cat', '/proc/uptime'], { signal });
  return Number(uptime.split(' ')[0]) * 1e9;
}

/** Ends the recording, and gives what it has of a time. */
export async function recorded(l1: Level, job: Job, fromNs: number, toNs: number): Promise<PerfSamples> {
  await job.kill('INT');
  await job.wait({ timeoutMs: END_MS });
  return perfSamples(await l1.readFile(`${ROOT}${DATA}`, { timeoutMs: END_MS }), fromNs, toNs);
}

export interface PerfSamples {
  /** Samples of a guest, its kernel or its user space. */
  guest: number;
  others: number;
  lost: number;
}

const RECORD_LOST = 2;
const RECORD_SAMPLE = 9;
const CPUMODE = 7;
const GUEST_KERNEL = 4;
/** Fields before TIME in a sample, of 8 bytes each: IDENTIFIER, IP, TID. */
const BEFORE_TIME = [1n << 16n, 1n, 2n];
const SAMPLE_TIME = 4n;

/**
 * Samples of a `perf.data` with one event. Throws HT_UNSUPPORTED. Layout:
 * tools/perf/Documentation/perf.data-file-format.txt.
 */
export function perfSamples(file: Buffer, fromNs: number, toNs: number): PerfSamples {
  const bad = (why: string): never => {
    throw new HyperturtleError('HT_UNSUPPORTED', `perf.data: ${why}`);
  };
  if (file.length < 104 || file.toString('latin1', 0, 8) !== 'PERFILE2') bad('no such file');
  const word = (at: number): number => Number(file.readBigUInt64LE(at));
  const sampleType = file.readBigUInt64LE(word(24) + 24);
  if ((sampleType & SAMPLE_TIME) === 0n) bad('samples have no time');
  const timeAt = 8 + 8 * BEFORE_TIME.filter((bit) => (sampleType & bit) !== 0n).length;
  const found = { guest: 0, others: 0, lost: 0 };
  const begin = word(40);
  const end = begin + word(48);
  if (end > file.length) bad('cut off');
  for (let at = begin; at + 8 <= end; ) {
    const type = file.readUInt32LE(at);
    const size = file.readUInt16LE(at + 6);
    if (size < 8) bad(`a record of ${size} bytes`);
    if (type === RECORD_LOST) found.lost += word(at + 16);
    if (type === RECORD_SAMPLE) {
      const time = word(at + timeAt);
      const guest = (file.readUInt16LE(at + 4) & CPUMODE) >= GUEST_KERNEL;
      if (time >= fromNs && time < toNs) found[guest ? 'guest' : 'others']++;
    }
    at += size;
  }
  return found;
}
