/** One datagram to a unix socket (which Node cannot send), and the clock that systemd compares with. */
import koffi from 'koffi';
import { OwnedFd } from './fds.ts';
import { kernelError } from './sys.ts';

const libc = koffi.load('libc.so.6');
const cSocket = libc.func('int socket(int domain, int type, int protocol)') as (
  domain: number,
  type: number,
  protocol: number,
) => number;
const cSendto = libc.func(
  'int64_t sendto(int fd, const void *data, size_t length, int flags, const void *address, uint32_t size)',
) as (
  fd: number,
  data: Uint8Array,
  length: number,
  flags: number,
  address: Uint8Array,
  size: number,
) => number;

const AF_UNIX = 1;
const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000;
const MSG_DONTWAIT_NOSIGNAL = 0x40 | 0x4000;
const SUN_PATH_BYTES = 108;

/** `address` is a path, or `@name` for an abstract one. Never blocks. Throws HT_KERNEL. */
export function sendDatagram(address: string, text: string): void {
  const name = Buffer.from(address, 'utf8');
  const abstract = name[0] === 0x40;
  if (name.length >= SUN_PATH_BYTES) throw new RangeError(`socket ${address}: at most 107 bytes expected`);
  const sockaddr = Buffer.alloc(2 + name.length + (abstract ? 0 : 1));
  sockaddr.writeUInt16LE(AF_UNIX, 0);
  name.copy(sockaddr, 2);
  if (abstract) sockaddr[2] = 0;
  const fd = cSocket(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0);
  if (fd < 0) throw kernelError('socket', koffi.errno());
  const socket = new OwnedFd(fd, `datagrams to ${address}`);
  try {
    const data = Buffer.from(text, 'utf8');
    // SAFETY: the kernel reads the given lengths, which are those of the two buffers.
    const sent = cSendto(fd, data, data.length, MSG_DONTWAIT_NOSIGNAL, sockaddr, sockaddr.length);
    if (sent < 0) throw kernelError(`datagram to ${address}`, koffi.errno());
  } finally {
    socket.close();
  }
}

/** CLOCK_MONOTONIC in microseconds. */
export function monotonicUs(): bigint {
  return process.hrtime.bigint() / 1000n;
}
