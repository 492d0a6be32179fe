/**
 * What `hyperturtle vmm` starts in tests: asks for memory as no VMM does, on purpose or by accident, and says as JSON what
 * came of it. `node vmm-hostile-main.js refused|malloc`, `int80 TIMES` (in a directory of its own).
 */
import koffi from 'koffi';
import { existsSync, ftruncateSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { Worker, isMainThread, workerData } from 'node:worker_threads';

const libc = koffi.load('libc.so.6');
type Mmap = (at: number, n: number, prot: number, flags: number, fd: number, offset: number) => number;
const mmap = libc.func(
  'intptr_t mmap(intptr_t at, size_t n, int prot, int flags, int fd, int64_t off)',
) as Mmap;
const munmap = libc.func('int munmap(intptr_t at, size_t n)') as (at: number, n: number) => number;
type Call = (...args: number[]) => number;
const madvise = libc.func('int madvise(intptr_t at, size_t n, int advice)') as Call;
const mlock = libc.func('int mlock(intptr_t at, size_t n)') as Call;
const mremap = libc.func(
  'intptr_t mremap(intptr_t at, size_t n, size_t now, int flags, intptr_t to)',
) as Call;
const malloc = libc.func('intptr_t malloc(size_t n)') as Call;
const realloc = libc.func('intptr_t realloc(intptr_t at, size_t n)') as Call;
const fcntl = libc.func('int fcntl(int fd, int command, long arg)') as Call;
const memfd = libc.func('int memfd_create(const char *name, unsigned int flags)') as (
  name: string,
  flags: number,
) => number;
const seccomp = libc.func('long syscall(long number, long a, long b, void *c)') as (
  ...args: [number, number, number, Uint8Array]
) => number;

const MIB = 2 ** 20;
const PRIVATE = 0x22;
const NORESERVE = 0x4000;
const BELOW_2G = 0x40;
const READ_WRITE = 3;
const READ_WRITE_EXECUTE = 7;
const view = (at: number, bytes: number): Uint8Array => new Uint8Array(koffi.view(BigInt(at), bytes));
const say = (o: object): void => void process.stdout.write(`${JSON.stringify(o)}\n`);

/** Calls of any ABI but x86-64's fail with EPERM from here on, in all threads. */
function onlyNativeCalls(): void {
  const code = [
    [0x20, 0, 0, 4],
    [0x15, 1, 0, 0xc000_003e],
    [0x06, 0, 0, 0x0005_0001],
    [0x06, 0, 0, 0x7fff_0000],
  ] as const;
  const memory = koffi.alloc('uint8_t', 8 * code.length) as bigint;
  const filter = new DataView(koffi.view(memory, 8 * code.length));
  code.forEach(([op, yes, no, k], i) => {
    filter.setUint16(8 * i, op, true);
    filter.setUint8(8 * i + 2, yes);
    filter.setUint8(8 * i + 3, no);
    filter.setUint32(8 * i + 4, k, true);
  });
  const program = new Uint8Array(16);
  new DataView(program.buffer).setUint16(0, code.length, true);
  new DataView(program.buffer).setBigUint64(8, memory, true);
  if (seccomp(317, 1, 1, program) !== 0) throw new Error(`seccomp: errno ${koffi.errno()}`);
}

/** mmap() by `syscall` at byte 14. RBX, which is the first argument of the other ABI, leads to a name. */
const STUB = [0x49, 0x89, 0xca, 0xb8, 9, 0, 0, 0, 0x53, 0xbb, 0, 0, 0, 0, 0x0f, 0x05, 0x5b, 0xc3, 0];
const NAME_AT = 10;
const CALL_AT = 14;
const SYSCALL = [0x0f, 0x05];
const INT_80 = [0xcd, 0x80];
/** What stands behind the call, as text: RCX leads there, which is the second argument of the other ABI. */
const SECOND = Buffer.from(STUB.slice(16, 18));

interface Writer {
  page: number;
  turn: Int32Array;
}

/**
 * While this thread waits in mmap(), another one writes `int 0x80` over the instruction that it came by: mmap()'s number is
 * link()'s there. A link means that no filter was asked.
 */
function int80(times: number): void {
  const page = mmap(0, 4096, READ_WRITE_EXECUTE, PRIVATE | BELOW_2G, -1, 0);
  const bytes = view(page, 4096);
  bytes.set(STUB);
  new DataView(bytes.buffer, bytes.byteOffset).setUint32(NAME_AT, page + 2048, true);
  bytes.set(Buffer.from('old\0'), 2048);
  writeFileSync('old', '');
  const turn = new Int32Array(new SharedArrayBuffer(8));
  const given: Writer = { page, turn };
  const writer = new Worker(process.argv[1] ?? '', { workerData: given });
  Atomics.wait(turn, 0, 0);
  onlyNativeCalls();
  const stub = koffi.decode(
    BigInt(page),
    koffi.proto('intptr_t HtStub(intptr_t at, size_t n, long prot, long flags, long fd, long off)'),
  ) as Mmap;
  const counts = { mapped: 0, refused: 0, linked: 0 };
  for (let i = 0; i < times; i++) {
    bytes.set(SYSCALL, CALL_AT);
    Atomics.add(turn, 0, 1);
    const got = stub(0, 64 * MIB, READ_WRITE, PRIVATE | NORESERVE, -1, 0);
    if (got > 0) {
      counts.mapped++;
      munmap(got, 64 * MIB);
    } else counts.refused++;
    if (existsSync(SECOND)) {
      counts.linked++;
      rmSync(SECOND);
    }
    while (Atomics.load(turn, 1) !== Atomics.load(turn, 0));
  }
  say(counts);
  void writer.terminate();
}

function write({ page, turn }: Writer): void {
  const bytes = view(page, 4096);
  Atomics.store(turn, 1, 1);
  Atomics.store(turn, 0, 1);
  Atomics.notify(turn, 0);
  for (;;) {
    const last = Atomics.load(turn, 1);
    while (Atomics.load(turn, 0) === last);
    const until = performance.now() + Math.random() * 1.5;
    while (performance.now() < until);
    bytes.set(INT_80, CALL_AT);
    Atomics.store(turn, 1, last + 1);
  }
}

const GIVE_BACK = 4;
const GUESTS = PRIVATE | NORESERVE;
const map = (flags: number, prot = READ_WRITE): number => mmap(0, 64 * MIB, prot, flags, -1, 0);
const errnoOf = (result: number): number => (result === -1 ? koffi.errno() : 0);
/** Whether what is mapped there comes from a file without a name. */
const isFile = (at: number): boolean =>
  readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .some((l) => l.startsWith(`${at.toString(16)}-`) && l.includes('/#'));

/** What mmap(), madvise() and seals do at their edges. */
function refused(): object {
  const at = map(GUESTS);
  const bytes = view(at, 64 * MIB);
  bytes.fill(7, 0, 3 * MIB);
  const unaligned = [errnoOf(madvise(at + 100, 4096, GIVE_BACK)), bytes[200]];
  mlock(at, MIB);
  const locked = [errnoOf(madvise(at, 4096, GIVE_BACK)), bytes[0]];
  const given = [errnoOf(madvise(at + MIB, 4096, GIVE_BACK)), bytes[MIB]];
  const room = map(PRIVATE | NORESERVE, 0);
  const MOVE_THERE = 3;
  const to = mremap(at, 64 * MIB, 64 * MIB, MOVE_THERE, room);
  const moved = [to - room, errnoOf(madvise(to + 2 * MIB, 4096, GIVE_BACK)), view(to, 3 * MIB)[2 * MIB]];
  const low = map(GUESTS | BELOW_2G);
  const types = [0, 3].map((type) => errnoOf(map(0x20 | NORESERVE | type)));
  const [ADD, GET] = [1033, 1034];
  const plain = memfd('plain', 0);
  ftruncateSync(plain, 40 * MIB);
  const unsealed = [readlinkSync(`/proc/self/fd/${plain}`).includes('/#'), fcntl(plain, GET, 0)];
  const sealed = errnoOf(fcntl(plain, ADD, 2));
  const full = memfd('full', 2);
  fcntl(full, ADD, 4);
  let grown = '';
  try {
    ftruncateSync(full, 40 * MIB);
  } catch (e) {
    grown = (e as NodeJS.ErrnoException).code ?? '';
  }
  return {
    file: isFile(to),
    unaligned,
    locked,
    given,
    moved,
    low: [low < 2 ** 31, isFile(low)],
    types,
    unsealed,
    sealed,
    grown,
  };
}

/** A block that is mapped as whole MiB, made longer. */
function longer(): object {
  const at = malloc(64 * MIB - 32);
  const file = isFile(at - 16);
  const size = 100 * MIB;
  const now = view(realloc(at, size), size);
  now[size - 1] = 1;
  return { file, last: now[size - 1] };
}

const [what = '', count = ''] = process.argv.slice(2);
if (!isMainThread) write(workerData as Writer);
else if (what === 'int80') int80(Number(count));
else if (what === 'refused') say(refused());
else if (what === 'malloc') say(longer());
