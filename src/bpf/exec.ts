/**
 * Becoming another program: what Node does to a process for itself is undone, as far as the process can still know how
 * it was, and the program gets arguments, variables and descriptors byte for byte.
 */
import koffi from 'koffi';
import { readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { viewOf } from '../kernel/struct.ts';
import { HyperturtleError } from '../core/errors.ts';
import { kernelError } from './sys.ts';

const libc = koffi.load('libc.so.6');
const cExecve = libc.func('int execve(const char *path, void *argv, void *envp)') as (
  path: string,
  argv: bigint,
  envp: bigint,
) => number;
const cFcntl = libc.func('int fcntl(int fd, int command, long arg)') as (
  fd: number,
  command: number,
  arg: number,
) => number;
const cSignal = libc.func('intptr_t signal(int number, intptr_t handler)') as (
  number: number,
  handler: number,
) => number;
const cSetrlimit = libc.func('int setrlimit(int resource, const void *limit)') as (
  resource: number,
  limit: Uint8Array,
) => number;
const cUnshare = libc.func('int unshare(int flags)') as (flags: number) => number;
const cMount = libc.func(
  'int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data)',
) as (source: string, target: string, type: null, flags: number, data: null) => number;
const cPrctl = libc.func(
  'int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)',
) as (...args: [number, number, number, number, number]) => number;

const SIGPIPE = 13;
const SIGXFSZ = 25;
const SIG_DFL = 0;
const F_SETFD = 2;
const RLIMIT_NOFILE = 7;
const CAP_SYS_ADMIN = 21n;

/** Arguments and variables as the kernel wants them; made before anything is irrevocable. */
export interface Image {
  file: string;
  argv: bigint;
  envp: bigint;
}

/** `argv`, `env`: without their ending NULs. */
export function makeImage(file: string, argv: readonly Uint8Array[], env: readonly Uint8Array[]): Image {
  const texts = [...argv, ...env];
  const pointers = 8 * (texts.length + 2);
  const bytes = pointers + texts.reduce((n, t) => n + t.length + 1, 0);
  const memory = koffi.alloc('uint8_t', bytes) as bigint;
  // SAFETY: the view covers exactly the allocation, which lives until the program takes the process over.
  const all = new Uint8Array(koffi.view(memory, bytes));
  all.fill(0);
  const view = viewOf(all);
  let at = pointers;
  texts.forEach((text, i) => {
    const slot = i < argv.length ? i : i + 1; // a null pointer ends the arguments
    view.setBigUint64(8 * slot, memory + BigInt(at), true);
    all.set(text, at);
    at += text.length + 1;
  });
  return { file, argv: memory, envp: memory + BigInt(8 * (argv.length + 1)) };
}

/** The last `count` arguments of this process, as they were given. */
export function ownArguments(count: number): Buffer[] {
  const all = nulEnded(readFileSync('/proc/self/cmdline'));
  return all.slice(all.length - count);
}

/** The variables that this process was started with. */
export function ownVariables(): Buffer[] {
  return nulEnded(readFileSync('/proc/self/environ'));
}

function nulEnded(all: Buffer): Buffer[] {
  const found: Buffer[] = [];
  for (let at = 0; at < all.length; ) {
    const end = all.indexOf(0, at);
    found.push(all.subarray(at, end < 0 ? all.length : end));
    at = end < 0 ? all.length : end + 1;
  }
  return found;
}

/**
 * Signals as a program expects them, the soft limit of open files as the parent has it, and descriptors that were passed
 * to this process open across exec, unlike `own`. Node resets signals that the caller had ignored, and which those were
 * nobody knows.
 */
export function undoNode(own: readonly number[]): void {
  for (const signal of [SIGPIPE, SIGXFSZ]) cSignal(signal, SIG_DFL);
  lowerOpenFiles();
  for (const fd of inheritedFds().filter((n) => !own.includes(n))) cFcntl(fd, F_SETFD, 0);
}

/** Node makes the soft limit the hard one. */
function lowerOpenFiles(): void {
  const limits = (pid: number | 'self'): [string, string] | undefined => {
    try {
      const text = readFileSync(`/proc/${pid}/limits`, 'utf8');
      const [, soft, hard] = /^Max open files +(\d+) +(\d+)/m.exec(text) ?? [];
      return soft === undefined || hard === undefined ? undefined : [soft, hard];
    } catch {
      return undefined;
    }
  };
  const [parents, own] = [limits(process.ppid), limits('self')];
  if (parents === undefined || own === undefined || parents[1] !== own[1]) return;
  const limit = new Uint8Array(16);
  new BigUint64Array(limit.buffer).set([BigInt(parents[0]), BigInt(parents[1])]);
  // SAFETY: the kernel reads one struct rlimit, 16 bytes. A lower soft limit is always allowed.
  cSetrlimit(RLIMIT_NOFILE, limit);
}

/**
 * Descriptors of this process that are not Node's own. Node has event polls, eventfds, io_uring, /dev/null and pipes of which
 * it has both ends; a descriptor of such a kind that was passed on purpose is not told from them, and is closed.
 */
function inheritedFds(): number[] {
  const links = readdirSync('/proc/self/fd').flatMap((name) => {
    try {
      return [[Number(name), readlinkSync(`/proc/self/fd/${name}`)] as const];
    } catch {
      return [];
    }
  });
  const NODES = /^(?:anon_inode:\[(?:eventpoll|eventfd|io_uring)\]|\/dev\/null)$/;
  const twice = (link: string): boolean => links.filter(([, l]) => l === link).length > 1;
  return links
    .filter(([fd, link]) => fd <= 2 || !(NODES.test(link) || (link.startsWith('pipe:') && twice(link))))
    .map(([fd]) => fd);
}

/** A capability of the calling thread that lets filters be installed without no_new_privs. */
export function hasSysAdmin(): boolean {
  const found = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/thread-self/status', 'utf8'))?.[1];
  return ((BigInt(`0x${found ?? '0'}`) >> CAP_SYS_ADMIN) & 1n) === 1n;
}

/** No program that this one executes gains rights by it, as setuid programs do. */
export function setNoNewPrivs(): void {
  const PR_SET_NO_NEW_PRIVS = 38;
  if (cPrctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) throw kernelError('PR_SET_NO_NEW_PRIVS', koffi.errno());
}

/** In a mount namespace of this thread's own, where mounts of others still arrive, `dir` is also at each of `places`. */
export function bindOver(dir: string, places: readonly string[]): void {
  const CLONE_NEWNS = 0x20000;
  const MS_BIND = 0x1000;
  const MS_REC_SLAVE = 0x4000 | 0x80000;
  const explain = { EPERM: ['HT_KERNEL', 'not permitted: run as root (CAP_SYS_ADMIN)'] } as const;
  if (cUnshare(CLONE_NEWNS) < 0) throw kernelError('a mount namespace', koffi.errno(), explain);
  // SAFETY: NUL-ended strings; the kernel reads neither type nor data here.
  if (cMount('none', '/', null, MS_REC_SLAVE, null) < 0)
    throw kernelError('mounts of its own', koffi.errno());
  for (const place of places)
    if (cMount(dir, place, null, MS_BIND, null) < 0)
      throw kernelError(`mounting ${dir} over ${place}`, koffi.errno(), explain);
}

/** Becomes the program; returns only by an error. */
export function execute(image: Image): never {
  // SAFETY: argv and envp are arrays of pointers to NUL-ended texts, each ended by a null pointer (makeImage).
  cExecve(image.file, image.argv, image.envp);
  throw kernelError(image.file, koffi.errno(), {
    ENOENT: ['HT_NOT_FOUND', 'the interpreter that it names is not there'],
    EACCES: ['HT_KERNEL', 'not to be executed: permission denied'],
    ENOEXEC: ['HT_USAGE', 'not a program that the kernel knows: a script needs a first line #!...'],
  });
}

/** A program by name, as a shell finds it. Throws HT_NOT_FOUND. */
export function findProgram(name: string, path: string, isExecutable: (file: string) => boolean): string {
  const places = name.includes('/')
    ? [name]
    : path.split(':').map((dir) => `${dir === '' ? '.' : dir}/${name}`);
  const found = places.find(isExecutable);
  if (found !== undefined) return found;
  throw new HyperturtleError(
    'HT_NOT_FOUND',
    `${name}: no such program${name.includes('/') ? '' : ' in PATH'}`,
  );
}
