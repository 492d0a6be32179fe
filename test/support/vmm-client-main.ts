/**
 * What `hyperturtle vmm` starts in tests: gets memory in the ways in which VMMs do, and says as JSON what it got.
 * `node vmm-client-main.js shapes|sandbox|about [WORD...]`, `race COUNT [THREADS]`, `wait MIB`, `write FILE`.
 */
import koffi from 'koffi';
import { spawnSync } from 'node:child_process';
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';
import {
  closeSync,
  ftruncateSync,
  readFileSync,
  readSync,
  readdirSync,
  readlinkSync,
  writeFileSync,
} from 'node:fs';
import { PROT_EXEC, PROT_WRITE } from '../../src/kernel/seccomp.ts';

const libc = koffi.load('libc.so.6');
const mmap = libc.func('void *mmap(intptr_t at, size_t n, int prot, int flags, int fd, int64_t off)') as (
  ...args: number[]
) => bigint;
const munmap = libc.func('int munmap(void *at, size_t n)') as (at: bigint, n: number) => number;
const madvise = libc.func('int madvise(void *at, size_t n, int advice)') as (
  at: bigint,
  n: number,
  advice: number,
) => number;
const memfd = libc.func('int memfd_create(const char *name, unsigned int flags)') as (
  name: string,
  flags: number,
) => number;
const fcntl = libc.func('int fcntl(int fd, int command, long arg)') as (...args: number[]) => number;
const seccomp = libc.func('long syscall(long number, long a, long b, void *c)') as (
  ...args: [number, number, number, Uint8Array]
) => number;

const MIB = 2 ** 20;
const READ_WRITE = 1 | PROT_WRITE;
const PRIVATE = 0x22;
const SHARED = 0x21;
const NORESERVE = 0x4000;
const STACK = 0x20000;
const FIXED = 0x10;
const NOREPLACE = 0x10_0000;
const FAILED = 0xffff_ffff_ffff_ffffn;

/** Name of the file that is mapped there, or ''. */
function fileAt(address: bigint): string {
  const start = address.toString(16);
  const lines = readFileSync('/proc/self/maps', 'utf8').split('\n');
  const line = lines.find((l) => {
    const [from = '', to = ''] = (l.split(' ')[0] ?? '').split('-');
    return BigInt(`0x${from || '0'}`) <= address && address < BigInt(`0x${to || '0'}`);
  });
  if (line === undefined) throw new Error(`nothing at ${start}`);
  return line.split(/ +/).slice(5).join(' ');
}

function map(mib: number, prot: number, flags: number, at = 0n, fd = -1): bigint {
  const got = mmap(Number(at), mib * MIB, prot, flags, fd, 0);
  if (got === FAILED) throw new Error(`mmap: errno ${koffi.errno()}`);
  return got;
}

const view = (at: bigint, mib: number): Uint8Array => new Uint8Array(koffi.view(at, mib * MIB));
const status = (name: string): string =>
  new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '';

function shapes(): object {
  const plain = map(64, READ_WRITE, PRIVATE | NORESERVE);
  const bytes = view(plain, 64);
  bytes[0] = 7;
  bytes[5 * MIB] = 9;
  const given = [madvise(plain, MIB, 4), bytes[0], bytes[5 * MIB]];
  const freed = [madvise(plain + BigInt(4 * MIB), 4 * MIB, 8), bytes[5 * MIB]];
  // in a reserved area, as QEMU and Firecracker have it
  const room = map(80, 0, PRIVATE | NORESERVE);
  const fixed = map(64, READ_WRITE, PRIVATE | FIXED, room + BigInt(8 * MIB));
  view(fixed, 64)[1] = 1;
  const shared = map(48, READ_WRITE, SHARED);
  const sharedBytes = view(shared, 48);
  sharedBytes[0] = 5;
  const kept = [madvise(shared, MIB, 4), sharedBytes[0]];
  const taken =
    mmap(Number(shared), 48 * MIB, READ_WRITE, PRIVATE | NOREPLACE, -1, 0) === FAILED && koffi.errno();
  const fd = memfd('guest', 3);
  ftruncateSync(fd, 40 * MIB);
  const seals = [fcntl(fd, 1033, 2), fcntl(fd, 1033, 4), fcntl(fd, 1034, 0)];
  const inherited = memfd('inherited', 2);
  ftruncateSync(inherited, 40 * MIB);
  const files = map(40, READ_WRITE, 1, 0n, fd);
  const small = memfd('small', 3);
  ftruncateSync(small, MIB);
  fcntl(small, 1033, 2);
  const others = {
    small: fileAt(map(16, READ_WRITE, PRIVATE | NORESERVE)),
    odd: fileAt(mmap(0, 64 * MIB + 4096, READ_WRITE, PRIVATE | NORESERVE, -1, 0)),
    code: fileAt(map(64, READ_WRITE | PROT_EXEC, PRIVATE | NORESERVE)),
    readOnly: fileAt(map(64, 1, PRIVATE | NORESERVE)),
    reserved: fileAt(room),
    stack: fileAt(map(64, READ_WRITE, PRIVATE | NORESERVE | STACK)),
    smallMemfd: [readlinkSync(`/proc/self/fd/${small}`), fcntl(small, 1034, 0)],
  };
  return {
    plain: fileAt(plain),
    fixed: [fixed - room, fileAt(fixed)].map(String),
    shared: fileAt(shared),
    memfd: readlinkSync(`/proc/self/fd/${fd}`),
    mapped: fileAt(files),
    given,
    freed,
    kept,
    taken,
    keptAfter: sharedBytes[0],
    seals,
    cloexec: [fcntl(fd, 1, 0), fcntl(inherited, 1, 0)],
    others,
    tracer: status('TracerPid'),
    filters: status('Seccomp_filters'),
    noNewPrivs: status('NoNewPrivs'),
    stray: readdirSync('/proc/self/fd').filter((n) => {
      try {
        return (
          Number(n) !== fd &&
          Number(n) !== inherited &&
          /#\d+ \(deleted\)/.test(readlinkSync(`/proc/self/fd/${n}`))
        );
      } catch {
        return false;
      }
    }).length,
    // of a program that has no VM: memory is what it asked for
    child: spawnSync(process.execPath, [process.argv[1] ?? '', 'child'], { encoding: 'utf8' }).stdout,
  };
}

/** mmap() of anything but anonymous memory kills this process from here on, and so does close(). */
function sandbox(): void {
  const op = (code: number, jt: number, jf: number, k: number): number[] => [code, 0, jt, jf, k];
  const code = [
    op(0x20, 0, 0, 0),
    op(0x15, 0, 3, 9),
    op(0x20, 0, 0, 16 + 24),
    op(0x45, 1, 0, 0x20),
    op(0x06, 0, 0, 0x8000_0000),
    op(0x06, 0, 0, 0x7fff_0000),
  ];
  const memory = koffi.alloc('uint8_t', 8 * code.length) as bigint;
  const filter = new DataView(koffi.view(memory, 8 * code.length));
  code.forEach(([c = 0, , jt = 0, jf = 0, k = 0], i) => {
    filter.setUint16(8 * i, c, true);
    filter.setUint8(8 * i + 2, jt);
    filter.setUint8(8 * i + 3, jf);
    filter.setUint32(8 * i + 4, k, true);
  });
  const program = new Uint8Array(16);
  const head = new DataView(program.buffer);
  head.setUint16(0, code.length, true);
  head.setBigUint64(8, memory, true);
  if (seccomp(317, 1, 0, program) < 0) throw new Error(`seccomp: errno ${koffi.errno()}`);
}

interface Raced {
  count: number;
  files: number;
  wrong: number;
}

/** Gets and gives back memory that is checked; says how often it came from a file. */
function race(count: number): Raced {
  let files = 0;
  let wrong = 0;
  for (let i = 0; i < count; i++) {
    const at = map(32, READ_WRITE, PRIVATE | NORESERVE);
    const bytes = view(at, 32);
    if (bytes[i] !== 0) wrong++;
    for (let k = 0; k < 32; k++) bytes[k * MIB] = i + k;
    if (fileAt(at) !== '') files++;
    for (let k = 0; k < 32; k++) if (bytes[k * MIB] !== ((i + k) & 255)) wrong++;
    munmap(at, 32 * MIB);
  }
  return { count, files, wrong };
}

/** The same in threads, all at once. */
async function raceThreads(count: number, threads: number): Promise<object> {
  process.on('SIGUSR2', () => {});
  say({ ready: true });
  const done = Array.from({ length: threads }, () => {
    const worker = new Worker(process.argv[1] ?? '', { workerData: count });
    return new Promise<Raced>((resolve, reject) => worker.once('message', resolve).once('error', reject));
  });
  const own = race(count);
  const all = [own, ...(await Promise.all(done))];
  const sum = (of: keyof Raced): number => all.reduce((n, r) => n + r[of], 0);
  return { count: sum('count'), files: sum('files'), wrong: sum('wrong') };
}

function about(words: readonly string[]): object {
  const input = Buffer.alloc(64);
  const { HYPERTURTLE_VM_NAME: name } = process.env;
  const limit = /^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1];
  return {
    words,
    pid: process.pid,
    name,
    input: input.toString('utf8', 0, readSync(0, input)),
    limit,
    children: readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8'),
    passed: readdirSync('/proc/self/fd').flatMap((n) => {
      try {
        return [readlinkSync(`/proc/self/fd/${n}`)];
      } catch {
        return [];
      }
    }),
  };
}

const [what = '', ...words] = process.argv.slice(2);
const say = (o: object): void => void process.stdout.write(`${JSON.stringify(o)}\n`);
if (!isMainThread) parentPort?.postMessage(race(workerData as number));
else if (what === 'shapes') say(shapes());
else if (what === 'child') process.stdout.write(fileAt(map(64, READ_WRITE, PRIVATE | NORESERVE)));
else if (what === 'race')
  if (words[1] === undefined) say(race(Number(words[0])));
  else {
    say(await raceThreads(Number(words[0]), Number(words[1])));
    readSync(0, Buffer.alloc(1)); // until no more signals come: they would end this process once Node has let go of them
  }
else if (what === 'about') {
  say(about(words));
  process.exitCode = 7;
} else if (what === 'sandbox') {
  sandbox();
  const at = map(64, READ_WRITE, PRIVATE | NORESERVE);
  say({ file: fileAt(at), filters: status('Seccomp_filters') });
} else if (what === 'write') {
  writeFileSync(words[0] ?? '', 'guest');
  say({ there: readdirSync('/dev/shm') });
  closeSync(0);
} else if (what === 'wait') {
  const at = map(Number(words[0]), READ_WRITE, PRIVATE | NORESERVE);
  view(at, 1)[0] = 1;
  say({ pid: process.pid, file: fileAt(at) });
  setInterval(() => {}, 1000);
}
