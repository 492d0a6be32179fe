/** Frames through the tap of a QEMU that is stopped: the test stands in its place, with a copy of its descriptor. */
import dgram from 'node:dgram';
import { execFileSync } from 'node:child_process';
import { readFileSync, readSync, readdirSync, readlinkSync, writeSync } from 'node:fs';
import type { OwnedFd } from '../../src/bpf/fds.ts';
import { ioctl, pidfdGetfd, pidfdOpen } from '../../src/bpf/sys.ts';
import { errnoCode } from '../../src/core/errors.ts';
import { waitFor } from '../../src/core/wait.ts';
import { TUN_DEVICE } from '../../src/host/nics/tap.ts';

const TUNGETVNETHDRSZ = { name: 'TUNGETVNETHDRSZ', code: 0x800454d7, size: 4 };
/** Of nobody: the bridge sends what is for it to all ports. */
const L2_MAC = '02:00:00:00:00:fe';
/** For local experiments. */
const ETHERTYPE = 0x88b5;

export interface Passed {
  sent: number;
  /** Of as many in each direction. */
  fromL2: number;
  toL2: number;
}

/** One tap on a bridge, which gets an address. */
export class TapFrames {
  readonly #tap: OwnedFd;
  readonly #bridge: string;
  readonly #frame: Buffer;
  readonly #socket = dgram.createSocket('udp4');
  readonly #peer: string;
  #timer: NodeJS.Timeout | undefined;

  private constructor(tap: OwnedFd, bridge: string, network: number) {
    this.#tap = tap;
    this.#bridge = bridge;
    const size = new Uint8Array(4);
    ioctl(tap, TUNGETVNETHDRSZ, size);
    this.#frame = Buffer.alloc((size[0] ?? 0) + 60);
    const at = size[0] ?? 0;
    this.#frame.fill(0xff, at, at + 6);
    Buffer.from('0200000000aa', 'hex').copy(this.#frame, at + 6);
    this.#frame.writeUInt16BE(ETHERTYPE, at + 12);
    this.#peer = `198.18.${network}.2`;
    const ip = (...args: string[]): void => void execFileSync('ip', args);
    ip('address', 'replace', `198.18.${network}.1/24`, 'dev', bridge);
    ip('link', 'set', bridge, 'up');
    ip('neigh', 'replace', this.#peer, 'lladdr', L2_MAC, 'dev', bridge);
  }

  /** Of the only tap that this process has. */
  static of(pid: number, bridge: string): TapFrames {
    const fd = readdirSync(`/proc/${pid}/fd`).find((n) => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${n}`) === TUN_DEVICE;
      } catch {
        return false;
      }
    });
    const process = pidfdOpen(pid);
    try {
      return new TapFrames(pidfdGetfd(process, Number(fd), 'tap'), bridge, pid % 250);
    } finally {
      process.close();
    }
  }

  /** Sends frames in both directions every few milliseconds until `work` is over, and a while longer. */
  async during(work: () => Promise<void>): Promise<Passed> {
    this.#drain();
    const before = this.#arrived();
    let sent = 0;
    let toL2 = 0;
    this.#timer = setInterval(() => {
      writeSync(this.#tap.fd, this.#frame);
      this.#socket.send('x', 7007, this.#peer);
      toL2 += this.#drain();
      sent++;
    }, 3);
    try {
      await work();
    } finally {
      clearInterval(this.#timer);
    }
    // what is sent last is on its way
    for (let i = 0; i < 30 && (toL2 < sent || this.#arrived() - before < sent); i++) {
      await new Promise((resolve) => setTimeout(resolve, 10));
      toL2 += this.#drain();
    }
    return { sent, fromL2: this.#arrived() - before, toL2 };
  }

  /** For so long. */
  passing(ms = 300): Promise<Passed> {
    return this.during(() => new Promise((resolve) => setTimeout(resolve, ms)));
  }

  /** Until frames pass in both directions: a bridge that has just come up, or a socket that is new, may lose the first. */
  async whenOpen(): Promise<void> {
    await waitFor(
      'frames in both directions',
      async () => {
        const { fromL2, toL2 } = await this.passing(20);
        return fromL2 > 0 && toL2 > 0 ? true : undefined;
      },
      { timeoutMs: 10_000, intervalMs: 10 },
    );
  }

  close(): void {
    clearInterval(this.#timer);
    if (this.#tap.closed) return;
    this.#socket.close();
    this.#tap.close();
  }

  #arrived(): number {
    return Number(readFileSync(`/sys/class/net/${this.#bridge}/statistics/rx_packets`, 'latin1'));
  }

  /** Datagrams for L2 that waited in the tap. */
  #drain(): number {
    const mac = Buffer.from(L2_MAC.replaceAll(':', ''), 'hex');
    const frame = Buffer.alloc(2048);
    for (let n = 0; ; )
      try {
        const length = readSync(this.#tap.fd, frame);
        const at = this.#frame.length - 60;
        if (length > at && frame.subarray(at, at + 6).equals(mac)) n++;
      } catch (e) {
        if (errnoCode(e) === 'EAGAIN') return n;
        throw e;
      }
  }
}
