/** A unix datagram socket that is read from, which Node does not have: for what a daemon tells systemd. */
import koffi from 'koffi';
import { closeSync } from 'node:fs';

const libc = koffi.load('libc.so.6');
const socket = libc.func('int socket(int domain, int type, int protocol)') as (...a: number[]) => number;
const bind = libc.func('int bind(int fd, const void *address, uint32_t size)') as (
  fd: number,
  address: Uint8Array,
  size: number,
) => number;
const recv = libc.func('int64_t recv(int fd, void *data, size_t size, int flags)') as (
  fd: number,
  data: Uint8Array,
  size: number,
  flags: number,
) => number;

const AF_UNIX = 1;
const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000;
const MSG_DONTWAIT = 0x40;

export class DatagramSocket implements Disposable {
  readonly #fd: number;

  constructor(path: string) {
    this.#fd = socket(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0);
    const address = Buffer.concat([Buffer.from([AF_UNIX, 0]), Buffer.from(`${path}\0`)]);
    if (this.#fd < 0 || bind(this.#fd, address, address.length) !== 0) throw new Error(`cannot bind ${path}`);
  }

  /** What has come since the last call. */
  read(): string[] {
    const out: string[] = [];
    const buffer = Buffer.alloc(4096);
    for (;;) {
      const n = Number(recv(this.#fd, buffer, buffer.length, MSG_DONTWAIT));
      if (n < 0) return out;
      out.push(buffer.toString('utf8', 0, n));
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}
