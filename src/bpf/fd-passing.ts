/**
 * Handing descriptors to a child that runs already: SCM_RIGHTS over a socket pair. (Node hands over sockets only, and
 * a BPF object's number in the kernel is of use to holders of CAP_SYS_ADMIN only.)
 */
import koffi from 'koffi';
import { HyperturtleError } from '../core/errors.ts';
import { u32, viewOf } from '../kernel/struct.ts';
import { OwnedFd } from './fds.ts';
import { kernelError } from './sys.ts';

const libc = koffi.load('libc.so.6');
const cSocketpair = libc.func('int socketpair(int domain, int type, int protocol, void *pair)') as (
  domain: number,
  type: number,
  protocol: number,
  pair: Uint8Array,
) => number;
const MsgHdr = koffi.struct({
  name: 'void *',
  namelen: 'uint32_t',
  iov: 'void *',
  iovlen: 'size_t',
  control: 'void *',
  controllen: 'size_t',
  flags: 'int',
});
koffi.alias('HtMsgHdr', MsgHdr);
interface MsgHdrValue {
  name: null;
  namelen: number;
  iov: bigint;
  iovlen: number;
  control: bigint;
  controllen: number;
  flags: number;
}
const cSendmsg = libc.func('int64_t sendmsg(int fd, HtMsgHdr *message, int flags)') as (
  fd: number,
  message: MsgHdrValue,
  flags: number,
) => number;
const cRecvmsg = libc.func('int64_t recvmsg(int fd, _Inout_ HtMsgHdr *message, int flags)') as (
  fd: number,
  message: MsgHdrValue,
  flags: number,
) => number;

const AF_UNIX = 1;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const SOCK_SEQPACKET_CLOEXEC = 5 | 0o2000000;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;
const MSG_CTRUNC = 8;
const CMSG_HEADER = 16;
const MAX_PASSED_FDS = 32;

/** Two ends of a channel for descriptors; close-on-exec, so name one in `stdio` of a child. */
export function fdChannel(what: string): [OwnedFd, OwnedFd] {
  const pair = new Uint8Array(8);
  // SAFETY: the kernel writes two ints.
  if (cSocketpair(AF_UNIX, SOCK_SEQPACKET_CLOEXEC, 0, pair) < 0)
    throw kernelError('socketpair', koffi.errno());
  const view = viewOf(pair);
  return [new OwnedFd(u32.read(view, 0), what), new OwnedFd(u32.read(view, 4), `${what} (child's end)`)];
}

/** One message with copies of 1..32 descriptors. Never blocks. */
export function sendFds(channel: OwnedFd, fds: readonly number[]): void {
  sendWithFds(channel.fd, channel.what, new Uint8Array(1), fds);
}

/** The same with bytes of the caller's, to a socket that is not an OwnedFd: Node's own. Never blocks. */
export function sendWithFds(socket: number, what: string, bytes: Uint8Array, fds: readonly number[]): void {
  if (fds.length < 1 || fds.length > MAX_PASSED_FDS)
    throw new RangeError(`${fds.length} descriptors: 1 to ${MAX_PASSED_FDS} expected`);
  withMessage(bytes, fds.length, (message, control) => {
    const view = viewOf(control);
    writeHeader(view, fds.length);
    fds.forEach((fd, i) => u32.write(view, CMSG_HEADER + 4 * i, fd));
    // SAFETY: all pointers of `message` lead to live memory of the lengths that it says.
    const sent = cSendmsg(socket, message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) throw kernelError(`passing descriptors over ${what}`, koffi.errno());
    if (sent < bytes.length)
      throw new HyperturtleError(
        'HT_KERNEL',
        `${what}: ${bytes.length} bytes to be sent at once, ${sent} were`,
      );
  });
}

/** The descriptors of the next message, `count` of them; the message must be there already. The caller owns them. */
export function receiveFds(channel: OwnedFd, count: number, what: (i: number) => string): OwnedFd[] {
  return withMessage(new Uint8Array(1), count, (message, control) => {
    // SAFETY: as above; the kernel writes no more than the lengths that the message says.
    if (cRecvmsg(channel.fd, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) < 0)
      throw kernelError(`taking descriptors from ${channel.what}`, koffi.errno());
    const view = viewOf(control);
    const length = message.controllen < CMSG_HEADER ? 0 : Number(view.getBigUint64(0, true));
    const got = Math.max(0, (length - CMSG_HEADER) / 4);
    const files = Array.from(
      { length: got },
      (_, i) => new OwnedFd(u32.read(view, CMSG_HEADER + 4 * i), what(i)),
    );
    if (got === count && !(message.flags & MSG_CTRUNC)) return files;
    for (const f of files) f.close();
    throw new HyperturtleError('HT_KERNEL', `${channel.what}: ${count} descriptors expected, ${got} came`);
  });
}

/**
 * A sender of one descriptor whose message is ready: `send` allocates nothing and says whether it went, for a moment in which
 * this process can wait for nothing. Its memory stays until the process ends or becomes another program.
 */
export function readySender(channel: OwnedFd): { send: (fd: number) => boolean } {
  const { message, control } = makeMessage(new Uint8Array(1), 1);
  const view = viewOf(control);
  writeHeader(view, 1);
  const { fd: socket } = channel;
  return {
    send: (fd) => {
      view.setInt32(CMSG_HEADER, fd, true);
      // SAFETY: as in sendWithFds; the memory is never freed.
      return cSendmsg(socket, message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
    },
  };
}

function writeHeader(view: DataView, fds: number): void {
  view.setBigUint64(0, BigInt(CMSG_HEADER + 4 * fds), true);
  u32.write(view, 8, SOL_SOCKET);
  u32.write(view, 12, SCM_RIGHTS);
}

/** A message with these bytes and room for `count` descriptors; its memory lives as long as `use` runs. */
function withMessage<T>(
  bytes: Uint8Array,
  count: number,
  use: (message: MsgHdrValue, control: Uint8Array) => T,
): T {
  const { message, control, memory } = makeMessage(bytes, count);
  try {
    return use(message, control);
  } finally {
    koffi.free(memory);
  }
}

/** The same, whose memory is the caller's to free; `control` must not be used after that. */
function makeMessage(
  bytes: Uint8Array,
  count: number,
): { message: MsgHdrValue; control: Uint8Array; memory: bigint } {
  const controlBytes = Math.ceil((CMSG_HEADER + 4 * count) / 8) * 8;
  const head = 16 + controlBytes;
  const total = head + bytes.length;
  const memory = koffi.alloc('uint8_t', total) as bigint;
  // SAFETY: the view covers exactly the allocation.
  const all = new Uint8Array(koffi.view(memory, total));
  all.fill(0);
  all.set(bytes, head);
  const view = viewOf(all);
  view.setBigUint64(0, memory + BigInt(head), true); // iovec
  view.setBigUint64(8, BigInt(bytes.length), true);
  const message = {
    name: null,
    namelen: 0,
    iov: memory,
    iovlen: 1,
    control: memory + 16n,
    controllen: controlBytes,
    flags: 0,
  };
  return { message, control: all.subarray(16, head), memory };
}
